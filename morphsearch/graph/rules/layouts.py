"""Units laid out along several dimensions (heads and their channels), and which of those may lose some.

A tensor is a rectangle: where `h x d` units lie along two dimensions, either the same `d` leaves every `h` or nothing
does.
A reshape alone asks for nothing yet, since another may undo it (a channel shuffle); the operations that compute in the
layout do, and then every part of what was reshaped must follow (queries, keys and values of one layer).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from morphsearch.graph.labels import Labels, aligned_dims
from morphsearch.graph.tape import Tape

RECENT = 24  # reshapes that are still looked for: what computes in a layout comes soon after it


def laid_out(tape: Tape, before: Labels, after: Labels) -> None:
    """Remember a reshape to more dimensions."""
    if len(after.shape) > len(before.shape) and not after.blank:
        tape.lay_out(after.ids)


def in_parts(tape: Tape, before: Labels, after: Labels) -> Labels:
    """The labels after a reshape that lays one dimension of units out along two (channels in parts).

    Usually parts are free to lose different channels, and code that cannot follow is patched. Where it cannot be, they
    all lose the same: :func:`morphsearch.graph.grouping.with_parts` finds that out, and decides.
    """
    dims = after.varying()
    chosen = tape.decide("parts", None)
    if chosen is not None:
        return Labels(lockstep(tape, after.ids, int(chosen)), after.shape, after.producer)
    if len(dims) == 2 and len(before.varying()) == 1:
        tape.parted.append((tape.asked_last("parts"), after.ids, dims[1]))
    return after


def skewed(before: Labels, after: Labels) -> bool:
    """A reshape after which the elements of a unit no longer are the same columns in each of some rows.

    Positions relative to each other become absolute ones in this way (arXiv 1809.04281, section 3.4).
    """
    shape = after.ids.shape
    moving = after.varying()
    if len(moving) < 2 or not any(len(b) > 1 for _, b in aligned_dims(before.shape, after.shape)):
        return False
    ids = after.ids
    for place in (0, ids.numel() // 2, ids.numel() - 1):
        unit = int(ids.reshape(-1)[place])
        here = (ids == unit).nonzero()
        box = 1
        for dim in range(len(shape)):
            box *= int(here[:, dim].unique().numel())
        if unit > 0 and box != here.shape[0]:
            return True
    return False


def lockstep(tape: Tape, ids: Tensor, dim: int) -> Tensor:
    """Units at the same index of `dim` are one from here on; returns the labels, of size 1 in all other dimensions."""
    dim %= ids.dim()
    if tape.splits:
        _follow(tape, ids, dim)
    for other in range(ids.dim()):
        if other != dim:
            ids = tape.fuse(_once(ids, other), other)
    return ids


def _once(ids: Tensor, dim: int) -> Tensor:
    """What repeats along `dim` (the same heads in every image, window or block), once."""
    size = ids.shape[dim]
    if size < 4:
        return ids
    line = ids.movedim(dim, 0).reshape(size, -1)
    again = (line[1:, 0] == line[0, 0]).nonzero()
    period = int(again[0]) + 1 if again.numel() else size
    while period < size:
        if size % period == 0 and torch.equal(line[period:], line[:-period]):
            return ids.narrow(dim, 0, period)
        later = again[again >= period]
        period = int(later[0]) + 1 if later.numel() else size
    return ids


def _follow(tape: Tape, ids: Tensor, dim: int) -> None:
    """The reshapes that these units came out of keep the dimension that they lie along here, whatever their others."""
    chosen = tape.decide("layouts kept", ";".join(_origins(tape, ids, dim)) or None)
    for choice in (chosen or "").split(";"):
        name, _, kept = choice.rpartition(" ")
        layout = tape.layout_of.get(name)
        if layout is None or layout.kept is not None:
            continue
        layout.kept = int(kept)
        together = layout.ids
        for other in range(together.dim()):
            if other != layout.kept:
                together = tape.fuse(_once(together, other), other)


def _origins(tape: Tape, ids: Tensor, dim: int) -> list[str]:
    """The last reshapes that laid these units out, each with its dimension that is `dim` of `ids`."""
    line = np.asarray(ids.movedim(dim, 0).reshape(ids.shape[dim], -1)[:, 0])
    some = sorted(set(line[line > 0].tolist()))[:2]
    found: list[str] = []
    if len(some) < 2:
        return found
    for layout in tape.splits[-RECENT:]:
        lowest, highest = layout.bounds
        if some[0] < lowest or some[1] > highest:
            continue
        first, other = layout.first(some[0]), layout.first(some[1])
        if first is not None and other is not None:
            moved = [d for d, (one, two) in enumerate(zip(first, other, strict=True)) if one != two]
            if len(moved) == 1:
                found.append(f"{layout.name} {moved[0]}")
    return found


__all__ = ["in_parts", "laid_out", "lockstep", "skewed"]
