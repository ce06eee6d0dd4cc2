"""Units laid out along several dimensions (heads and their channels), and which of those may lose some.

A tensor is a rectangle: where `h x d` units lie along two dimensions, either the same `d` leaves every `h` or nothing
does.
A reshape alone asks for nothing yet, since another may undo it (a channel shuffle); the operations that compute in the
layout do, and then every part of what was reshaped must follow (queries, keys and values of one layer).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from morphsearch.graph.labels import Labels, aligned_dims
from morphsearch.graph.layout import Aligned
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
    moving = after.varying()
    if len(moving) < 2 or not any(len(b) > 1 for _, b in aligned_dims(before.shape, after.shape)):
        return False
    ids = after.ids.numpy()
    flat = ids.reshape(-1)
    for place in (0, flat.size // 2, flat.size - 1):
        unit = flat[place]
        here = np.flatnonzero(flat == unit)
        if unit <= 0 or here.size == 1:
            continue
        box = 1
        for along in np.unravel_index(here, ids.shape):
            box *= len(set(along.tolist()))
        if box != here.size:
            return True
    return False


def lockstep(tape: Tape, ids: Tensor, dim: int) -> Tensor:
    """Units at the same index of `dim` are one from here on; returns the labels, of size 1 in all other dimensions."""
    dim %= ids.dim()
    # Heads go through a dozen operations with the same labels, moved: they are the same units after the first.
    others = sorted((ids.stride(d), size) for d, size in enumerate(ids.shape) if size > 1 and d != dim)
    key = (ids.data_ptr(), ids.stride(dim), ids.shape[dim], *others)
    known = tape.aligned.get(key)
    if known is None:
        known = tape.aligned[key] = Aligned(ids, dim)
    if tape.splits:
        _follow(tape, known.two)
    if known.together is None:
        count = len(tape.unions)
        for other in range(ids.dim()):
            if other != dim and ids.shape[other] > 1:
                ids = tape.fuse(_once(ids, other), other)
        known.together, known.unions = ids.reshape(-1), tape.unions[count:]
    else:  # this operation wants it too, should the first one go with its branch
        tape.unions += [(one, other, len(tape.operations), slot) for one, other, _, slot in known.unions]
    return known.together.reshape([-1 if d == dim else 1 for d in range(ids.dim())])


def _once(ids: Tensor, dim: int) -> Tensor:
    """What repeats along `dim` (the same heads in every image, window or block), once."""
    size = ids.shape[dim]
    if size < 4:
        return ids
    line = np.moveaxis(ids.numpy(), dim, 0)
    first: Any = (slice(None), *(0,) * (line.ndim - 1))
    again = np.flatnonzero(line[first][1:] == line[first][0])
    if not again.size:
        return ids
    line = line.reshape(size, -1)
    period = int(again[0]) + 1
    while period < size:
        if size % period == 0 and np.array_equal(line[period:], line[:-period]):
            return ids.narrow(dim, 0, period)
        later = again[again >= period]
        period = int(later[0]) + 1 if later.size else size
    return ids


def _follow(tape: Tape, two: tuple[int, int] | None) -> None:
    """The reshapes that these units came out of keep the dimension that they lie along here, whatever their others."""
    chosen = tape.decide("layouts kept", ";".join(_origins(tape, two)) or None)
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


def _origins(tape: Tape, two: tuple[int, int] | None) -> list[str]:
    """The last reshapes that laid `two` neighbouring units out, each with its dimension along which they lie."""
    found: list[str] = []
    if two is None:
        return found
    low, high = two
    for layout in tape.splits[-RECENT:]:
        lowest, highest = layout.bounds
        if low < lowest or high > highest:
            continue
        first, other = layout.first(low), layout.first(high)
        if first is not None and other is not None:
            moved = [d for d, (one, two) in enumerate(zip(first, other, strict=True)) if one != two]
            if len(moved) == 1:
                found.append(f"{layout.name} {moved[0]}")
    return found


__all__ = ["in_parts", "laid_out", "lockstep", "skewed"]
