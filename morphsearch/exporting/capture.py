"""Traces of a network in both modes and on inputs of two sizes, with what they can say about other sizes."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from morphsearch.errors import InputError, MorphError
from morphsearch.exporting.body import SizeTaken
from morphsearch.exporting.comparing import cast, random_inputs
from morphsearch.exporting.initial import method, programs
from morphsearch.exporting.merging import Diverged, merge
from morphsearch.exporting.network import NetworkSource
from morphsearch.exporting.steps import Call, Unsupported
from morphsearch.exporting.tracing import Trace, trace
from morphsearch.graph.outside import emptied

# What the second trace has more of: batch, height, width. These two differ, so that neither is taken for the other.
LARGER = ((1, 32, 64), (1, 0, 0), (0, 0, 0))


@dataclass
class Captured:
    """The source of a network, and for which inputs it stands.

    Args:
        batch, spatial: whether sizes of the batch, and height and width, may be others than those of the trace.
        trains: whether it holds the training path too.
    """

    source: NetworkSource
    dtype: torch.dtype
    batch: bool
    spatial: bool
    trains: bool
    notes: list[str] = field(default_factory=list)
    drawn: bool = True

    @property
    def class_name(self) -> str:
        """The class of the whole network."""
        return self.source.library.classes[-1].name


def capture(
    fresh: nn.Module,
    model: nn.Module,
    inputs: Sequence[Mapping[str, Any]],
    *,
    spatial: bool,
    training: bool,
    drawn: bool,
) -> Captured:
    """Trace `model` and make source of it; constants are those of `fresh`, a network of the same structure.

    Args:
        spatial: try to leave height and width open. training: write the training path too.
        drawn: `fresh` was drawn by :func:`morphsearch.graph.fresh.initialise`, so that its distributions can be told.

    Raises:
        InputError: nothing that could be tried gives source; the reason is that of the last try.
    """
    attempt = partial(_attempts, fresh, model, inputs, spatial, training, drawn)
    try:
        return attempt()
    except InputError as failure:
        with emptied(model.modules()) as others, suppress(InputError):  # what is kept comes out of no operation
            if others:
                return attempt()
        raise failure


def _attempts(
    fresh: nn.Module,
    model: nn.Module,
    inputs: Sequence[Mapping[str, Any]],
    spatial: bool,
    training: bool,
    drawn: bool,
) -> Captured:
    reason = training_reason = ""
    reset = method(fresh, programs(fresh) if drawn else {})
    for mode in (True, False) if training else (False,):
        for dtype in (torch.float64, torch.float32):
            for grown in LARGER if spatial else LARGER[1:]:
                try:
                    found = _capture(fresh, model, inputs, dtype, grown, mode, reset)
                except (SizeTaken, Diverged) as error:
                    reason = str(error) or "it does other things at other sizes"
                    continue
                except Unsupported as error:
                    reason = error.reason
                    break
                except MorphError:
                    raise
                except Exception as error:
                    first = str(error).strip().splitlines()
                    reason = f"{type(error).__name__}: {first[0] if first else ''}"
                    continue
                if training and not mode:
                    found.notes.append(f"it holds the evaluation path only, in both modes ({training_reason})")
                found.drawn = drawn
                return found
        training_reason = reason
    raise InputError(
        f"no source can be written for this network: {reason}",
        "every operation has to be a public function of torch, on tensors that came from the inputs or the network",
        "export it as onnx or pt2, or rewrite that part with functions of torch",
    )


def _capture(
    fresh: nn.Module,
    model: nn.Module,
    inputs: Sequence[Mapping[str, Any]],
    dtype: torch.dtype,
    grown: tuple[int, int, int],
    training: bool,
    reset: list[str],
) -> Captured:
    more, height, width = grown
    first = cast(random_inputs(inputs, batch=2 if more else None, seed=1), dtype)
    second = cast(random_inputs(inputs, batch=2 + more if more else None, grow=(height, width), seed=2), dtype)
    fixed = 2 if more and not height else 0 if not more else None
    traces: list[Trace] = []
    roots: list[Call] = []
    for mode in (False, True) if training else (False,):
        # A module of torch.fx that fails prints its code, beside the error that is dealt with here.
        with torch.random.fork_rng(devices=[]), redirect_stderr(io.StringIO()):
            torch.manual_seed(0)
            # Each on a copy of its own: some networks keep what their first run computed.
            one, other = (trace(_twin(model, dtype, mode), *given) for given in (first, second))
            merge(one.root, other.root)
        traces.append(one)
        roots.append(one.root)
    # Sources are written from the fresh network's values and the traced one's modules.
    made = NetworkSource(model, fresh, roots[0], roots[1] if training else None, dtype, reset, fixed)
    notes = list(dict.fromkeys(note for one in traces for note in one.notes))
    return Captured(made, dtype, bool(more), bool(height), training, notes)


def _twin(model: nn.Module, dtype: torch.dtype, training: bool) -> nn.Module:
    return copy.deepcopy(model).to(dtype).train(training)


__all__ = ["Captured", "capture"]
