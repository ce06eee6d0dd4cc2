"""What the exporters of whole programs share: the network with its weights, inputs of other batches, the check."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_map

from morphsearch.errors import InputError
from morphsearch.exporting.comparing import error, random_inputs
from morphsearch.exporting.outputs import require_plain
from morphsearch.exporting.python import construct, source_of
from morphsearch.exporting.source import inputs_of, load
from morphsearch.graph.outside import kept_outside

TOLERANCE = 1e-4
Made = TypeVar("Made")


class Program:
    """A network to be exported in evaluation mode, in float32, on described inputs."""

    def __init__(self, architecture: Any, weights: Mapping[str, Any] | None, allow_code: bool) -> None:
        self.architecture = architecture
        self.inputs = inputs_of(architecture)
        self.model = architecture.build(allow_code=allow_code).cpu()
        if weights is not None:
            load(self.model, weights)
        self.model.eval()

    def examples(self, batch: int | None, seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Random inputs."""
        return random_inputs(self.inputs, batch=batch, seed=seed)

    def stand_in(self) -> tuple[nn.Module, list[str]]:
        """The same network made of its own source, for code that an exporter cannot follow."""
        text, notes = source_of(copy.deepcopy(self.model), self.architecture, drawn=False)
        name = next(line for line in reversed(text.splitlines()) if line.startswith("class ")).split("(")[0][6:]
        made = construct(text, name)
        made.load_state_dict(self.model.state_dict())
        return made.eval(), notes

    def attempt(self, export: Callable[[nn.Module, Any, Any, Any], Made]) -> tuple[Made, bool, list[str]]:
        """Export with an open batch, else a fixed one; else the network's own source, in the same order.

        Returns:
            What `export` made, whether the batch is open, and what the user should know.

        Raises:
            InputError: with the reason of the first try.
        """
        first: Exception | None = None
        builds: tuple[Callable[[], tuple[nn.Module, list[str]]], ...] = (lambda: (self.model, []), self.stand_in)
        for build in builds:
            try:
                model, notes = build()
            except InputError:
                break
            for open_batch in (True, False):
                args, kwargs = self.examples(2 if open_batch else None)
                try:
                    with quietly(), kept_outside(model.modules(), fresh=True), torch.no_grad():
                        # A copy: code that keeps what it computed (anchors of a detector) would keep tracers in it.
                        made = export(
                            copy.deepcopy(model), args, kwargs, _open(model, args, kwargs) if open_batch else None
                        )
                except Exception as failure:
                    first = first or failure
                    continue
                size = self.inputs[0]["shape"][0]
                return made, open_batch, notes + ([] if open_batch else [f"the batch is fixed at {size}"])
        assert first is not None
        args, kwargs = self.examples(None)
        with kept_outside(self.model.modules()), torch.no_grad():
            require_plain(self.model(*args, **kwargs))
        raise InputError(
            f"this network cannot be exported: {_reason(first)}",
            "torch.export has to follow its forward code",
            "export it as python, which follows whatever runs",
        ) from first

    def check(self, run: Callable[[Any, Any], Any], open_batch: bool) -> None:
        """Compare what was exported with the network, on other batches too.

        Raises:
            InputError: outputs differ.
        """
        for batch in (2, 1, 3) if open_batch else (None,):
            args, kwargs = self.examples(batch, seed=7)
            with kept_outside(self.model.modules()), torch.no_grad():
                expected = self.model(*copy.deepcopy(args), **copy.deepcopy(kwargs))
            try:
                with quietly():
                    found = run(args, kwargs)
            except Exception as failure:
                raise _differs(f"it fails on a batch of {batch}: {type(failure).__name__}: {failure}") from failure
            if (worst := error(expected, found)) > TOLERANCE:
                raise _differs(f"outputs differ by {worst:.2g}, relative to the largest")


def _open(model: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    """Dynamic shapes for ``torch.export``: the first dimension of every input, laid out as the forward code names its
    arguments (all that ``*args`` takes is one of them)."""
    given = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    return {name: tree_map(lambda _: {0: torch.export.Dim.DYNAMIC}, value) for name, value in given.items()}


def _reason(failure: BaseException) -> str:
    """The first line of what went wrong at first: exporters wrap it in advice on themselves."""
    while failure.__cause__ is not None and str(failure.__cause__).strip():
        failure = failure.__cause__
    lines = re.sub("\x1b\\[[0-9;]*m", "", str(failure)).strip().splitlines()
    return f"{type(failure).__name__}: {lines[0] if lines else ''}"


def _differs(what: str) -> InputError:
    return InputError(
        f"the exported program is not the network that was asked for: {what}",
        f"an export is run and compared before it is written; outputs agree to {TOLERANCE:g}",
        "export it as python, and report this network",
    )


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Exporters talk about their own insides; what counts is checked afterwards."""
    loggers: Sequence[logging.Logger] = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
