"""Windows laid out as channels and back (``unfold``, ``fold``), and Fourier transforms."""

from __future__ import annotations

from typing import Any

import torch

from morphsearch.graph.labels import RIGID, Labels, compact, constant
from morphsearch.graph.rules.binding import channel_labels
from morphsearch.graph.rules.common import finish, plain_arguments
from morphsearch.graph.schemas import short_name
from morphsearch.graph.tape import Tape


def laid_out(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """``im2col``: `n x c x h x w` to `n x (c k k) x l`, the pixels of a window beside each other for each channel."""
    units = torch.as_tensor(channel_labels(tape, args[0], args[0].dim() - 3, "unfold").copy())
    times = out.shape[-2] // max(1, units.numel())
    ids = units.repeat_interleave(times).reshape(*[1] * (out.dim() - 2), -1, 1)
    attrs = plain_arguments(args[1:], kwargs)
    finish(tape, func, [tape.activation(args[0])], out, [compact(ids, tuple(out.shape))], attrs=attrs)


def put_back(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """``col2im``: `n x (c k k) x l` to `n x c x h x w`; all pixels of a channel's windows are one unit."""
    units = torch.as_tensor(channel_labels(tape, args[0], args[0].dim() - 2, "fold").copy())
    together = tape.fuse(units.reshape(out.shape[-3], -1), 1)
    ids = together.reshape(*[1] * (out.dim() - 3), -1, 1, 1)
    attrs = plain_arguments(args[1:], kwargs)
    finish(tape, func, [tape.activation(args[0])], out, [compact(ids, tuple(out.shape))], attrs=attrs)


def transformed(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Fourier transforms over the image: linear, and channel by channel. Over channels themselves nothing can leave."""
    labels = tape.activation(args[0])
    over = {dim % len(labels.shape) for dim in args[1]}
    moving = set(labels.varying())
    along = tape.decide(short_name(func), "channels" if moving & over else None, strict=True)
    if along is not None:
        tape.pin(labels.ids, tape.where(f"{short_name(func).strip('_')} over channels"))
        produced = constant(RIGID, tuple(out.shape))
    else:
        produced = Labels(labels.ids, tuple(out.shape))
    finish(tape, func, [labels], out, [produced], attrs={"dims": sorted(over)})


def as_complex(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """The last dimension, of size 2, becomes one complex number; or the other way round (``view_as_real``).

    Units that lie along it are both parts of one number, and one unit.
    """
    labels = tape.labels(args[0])
    if labels is None:
        return
    if out.is_complex():
        pairs = labels.ids if labels.parameter is not None else tape.fuse(labels.ids, labels.ids.dim() - 1)
        ids = pairs.select(-1, 0)
    else:
        ids = labels.ids.unsqueeze(-1)
    produced = Labels(ids, tuple(out.shape), -1, labels.parameter)
    if labels.parameter is not None:
        tape.put(out, produced)
    else:
        finish(tape, func, [labels], out, [produced])


__all__ = ["as_complex", "laid_out", "put_back", "transformed"]
