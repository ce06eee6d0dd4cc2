"""Following channels through the moves of a trace: positions, lines of identifiers, and shapes at other widths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from morphsearch.graph.labels import LOOSE, Labels, compact
from morphsearch.graph.resolve import Resolution
from morphsearch.graph.rules.binding import axis_of
from morphsearch.graph.tape import Tape
from morphsearch.graph.tracing import name_of


def positions(
    chain: list[fx.Node],
    source: fx.Node,
    shape: tuple[int, ...] | torch.Size,
    dim: int,
    argument: Callable[[fx.Node, Any, fx.Node], Any],
) -> np.ndarray | None:
    """Which channels of `source`, a tensor of that shape, come out of the chain of moves; None unless every other
    dimension stays as it was.

    Args:
        argument: the value of a node among the arguments of one in the chain, given the one whose channels are
            followed, and its positions.
    """
    value: Any = (
        torch.arange(shape[dim]).reshape([shape[d] if d == dim else 1 for d in range(len(shape))]).expand(shape)
    )
    parent = source
    for node in reversed(chain):
        # The one parent that carries channels gets the positions, sizes get the numbers that they have.
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), partial(argument, parent, value))
        try:
            value = _apply_move(node, args, kwargs)
        except (RuntimeError, IndexError, TypeError):
            return None
        parent = node
    if not isinstance(value, Tensor) or value.dim() != len(shape):
        return None
    if any(size != shape[d] for d, size in enumerate(value.shape) if d != dim):
        return None
    first = value[tuple(slice(None) if d == dim else 0 for d in range(value.dim()))]
    return np.asarray(first)


def new_shape(labels: Labels, tape: Tape, resolution: Resolution, multiplicity: np.ndarray) -> tuple[int, ...] | None:
    """The shape that a tensor of the seed (recorded on `tape`) has in the new network; None where its units do not fill
    a shape."""
    shape = list(labels.shape)
    sides = [side for side in (labels.ids, labels.second) if side is not None and labels.parameter is None]
    sides = [by_class(side, resolution, labels.shape) for side in sides]
    for dim in range(len(shape)):
        if labels.parameter is not None:
            found = axis_of(tape, labels, dim)
            slot = _slot(tape, *found[:2]) if found is not None else None
            if found is None or slot is None:
                shape[dim] = _merged_size(labels, dim, tape, resolution, multiplicity) if found is None else shape[dim]
                continue
            ids = slot[found[2]].reshape(1, -1)
        else:
            side = next((side for side in sides if side.shape[dim] > 1), None)
            if side is None:
                continue
            ids = np.asarray(side.movedim(dim, -1).reshape(-1, side.shape[dim]))
            ids = np.where(ids == LOOSE, ids.max(0), ids)  # filler has the width of what lies beside it
        units = np.where(ids > 0, resolution.unit_of[np.maximum(ids, 0)], -1)
        times = np.where(units < 0, 1, multiplicity[units])
        if (times == times[:1]).all():
            shape[dim] = int(times[0].sum())
        elif (times.sum(1) == times[0].sum()).all() and labels.parameter is None and sum(s > 1 for s in ids.shape) > 1:
            return None
    return tuple(shape)


def told(tensor: Tensor, sizes: Sequence[int], wanted: Sequence[int]) -> list[bool]:
    """Where an expansion of `tensor` to `sizes` may have other ones: it keeps what has that size, and along what it
    repeats there are no units, so that only the code knows how often (as many as a set has channels by now)."""
    has = (1,) * (len(sizes) - tensor.dim()) + tuple(tensor.shape)
    return [size != own and (own != 1 or fit == 1) for size, own, fit in zip(sizes, has, wanted, strict=True)]


def with_images(sizes: Sequence[int], wrong: Sequence[int]) -> int | None:
    """Of the dimensions of a view whose sizes are `wrong`, the one in which images may lie beside the channels
    (``view(b * 64, 1, h, w)``): as large as is left for it, so that it goes on to follow the batch."""
    if -1 in sizes or not wrong:
        return None
    first = 1 if sizes[0] == 1 and len(sizes) > 2 and 0 not in wrong else 0
    return first if first in wrong else None


def _merged_size(labels: Labels, dim: int, tape: Tape, resolution: Resolution, multiplicity: np.ndarray) -> int:
    """The size of a dimension along which several of a parameter lie: its columns, with the kernel beside them."""
    size = labels.shape[dim]
    line = np.asarray(labels.full()[tuple(slice(None) if d == dim else 0 for d in range(len(labels.shape)))]) - 1
    if not labels.parameter or (line < 0).any():
        return size
    times = np.ones(size, np.int64)
    for own, places in enumerate(np.unravel_index(line, tape.shapes[labels.parameter])):
        slot = _slot(tape, labels.parameter, own)
        if slot is not None and (places != places[:1]).any():
            units = resolution.unit_of[slot[places]]
            times *= np.where(units < 0, 1, multiplicity[units])
    return int(times.sum())


def _slot(tape: Tape, name: str, dim: int) -> np.ndarray | None:
    name = tape.mixtures.get(name, name)
    return tape.slots.get((name, dim), tape.merged.get((name, dim)))


def by_class(ids: Tensor, resolution: Resolution, shape: tuple[int, ...]) -> Tensor:
    """Labels with one identifier for each unit: heads in lockstep share theirs, and so do the places of an image that
    was a row of numbers before."""
    if len(varying(ids)) < 2:
        return ids
    found = np.asarray(ids)
    units = resolution.one_of_class[resolution.class_of[np.maximum(found, 0)]]
    return compact(torch.from_numpy(np.where(found > 0, units, found)), shape).ids


def varying(ids: Tensor) -> list[int]:
    """The dimensions along which identifiers change."""
    return [d for d, size in enumerate(ids.shape) if size > 1]


def line_of(labels: Labels, dim: int) -> np.ndarray | None:
    """The units along `dim`, of an outer product those of the side that lies there; None where they lie elsewhere."""
    sides = (labels.ids,) if labels.second is None else (labels.ids, labels.second)
    found = [side for side in sides if not set(varying(side)) - {dim}]
    if not found:
        return None
    side = max(found, key=lambda one: one.shape[dim])
    return np.asarray(side.movedim(dim, 0).reshape(-1).expand(labels.shape[dim]))


def _apply_move(node: fx.Node, args: Any, kwargs: Any) -> Any:
    """Run a move on channel positions; padding is position -1."""
    name = name_of(node)
    if name == "pad":
        return F.pad(args[0], kwargs["pad"] if "pad" in kwargs else args[1], value=-1)
    if node.op == "call_method":
        return getattr(args[0], "reshape" if name == "view" else name)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]
