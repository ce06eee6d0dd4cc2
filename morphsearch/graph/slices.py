"""Slices of channels in code that cannot be traced: ``y[:, :part] = x[:, :part]`` gets other bounds in a copy of the
source, as other calls get other sizes (:mod:`~morphsearch.graph.written`)."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from morphsearch.graph.labels import Labels
from morphsearch.graph.tape import Tape

SLICING = frozenset((Tensor.__getitem__, Tensor.__setitem__))


def taken(tape: Tape, tensor: Any, index: Any) -> list[Labels]:
    """The units before a slice of channels, and those in it; nothing where the index takes no part of them.

    A tensor that is being filled (``zeros_like(x)``) counts its channels as that which it is like.
    """
    if not isinstance(tensor, Tensor):
        return []
    labels = getattr(tensor, "_morphsearch_like", None) or tape.labels(tensor)
    if labels is None or labels.parameter is not None or labels.second is not None or len(labels.varying()) != 1:
        return []
    (dim,) = labels.varying()
    if bool((labels.ids <= 0).any()) or not sliced(index, dim):
        return []
    start, end, step = index[dim].indices(labels.shape[dim])
    if step != 1 or end - start < 2 or end - start == labels.shape[dim]:
        return []
    return [_part(labels, dim, 0, start), _part(labels, dim, start, end - start)]


def sliced(index: Any, dim: int) -> bool:
    """An index of a slice or a number for each dimension, that of `dim` a slice, and no number before it."""
    if not isinstance(index, tuple) or len(index) <= dim or not all(isinstance(one, (int, slice)) for one in index):
        return False
    return all(isinstance(one, slice) for one in index[: dim + 1])


def _part(labels: Labels, dim: int, start: int, size: int) -> Labels:
    shape = tuple(size if d == dim else length for d, length in enumerate(labels.shape))
    return Labels(labels.ids.narrow(dim, start, size), shape)


def bounded(index: Any, known: Sequence[Labels], shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int] | None:
    """The dimension of a slice, and the bounds that it needs; None where the index does not fit."""
    dim = known[1].varying()[0]
    if not sliced(index, dim):
        return None
    start = shapes[0][dim] if known[0].shape[dim] else 0
    return dim, start, start + shapes[1][dim]


def with_bounds(index: tuple[Any, ...], dim: int, start: int, end: int) -> tuple[Any, ...]:
    """`index` with other bounds at `dim`."""
    return (*index[:dim], slice(start, end), *index[dim + 1 :])


def edit(node: ast.Subscript, numbers: Sequence[int | None]) -> bool:
    """Put bounds into a subscript."""
    dim, start, end = (int(number or 0) for number in numbers)
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
    if len(parts) <= dim or any(isinstance(one, ast.Starred) for one in parts[: dim + 1]):
        return False
    parts[dim] = ast.Slice(ast.Constant(start), ast.Constant(end))
    return True


__all__ = ["SLICING", "bounded", "edit", "sliced", "taken", "with_bounds"]
