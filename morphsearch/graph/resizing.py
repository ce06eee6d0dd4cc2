"""Other sizes for a view or an expansion whose sizes are written down, or taken from another tensor."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from morphsearch.graph.edits import EXPANDS, Resized
from morphsearch.graph.following import told, with_images
from morphsearch.graph.tracing import name_of

RESIZES = frozenset(("view", "reshape", "unflatten", *EXPANDS))


def resized(
    n: fx.Node, args: Any, kwargs: Any, result: Any, wanted: tuple[int, ...]
) -> tuple[Tensor, list[Resized]] | None:
    """What the node gives when the sizes that went wrong become numbers, so that it has the shape `wanted`, and the
    edits for that; None where that cannot be.

    Args:
        args: of the node's call, and its `kwargs`.
        result: what that gives as it is, if anything.
    """
    if kwargs or not args or not isinstance(args[0], Tensor):
        return None
    if name_of(n) == "unflatten":
        return _unflattened(n, args, wanted)
    expands = name_of(n) in EXPANDS
    sizes = list(args[1]) if len(args) == 2 and isinstance(args[1], (tuple, list)) else list(args[1:])
    if len(sizes) != len(wanted) or not all(isinstance(size, int) for size in sizes):
        return None
    if expands:
        known = told(args[0], sizes, wanted)
        wanted = tuple(fit if tells else size for fit, tells, size in zip(wanted, known, sizes, strict=True))
        if isinstance(result, Tensor) and tuple(result.shape) == wanted:
            return None
    # What follows the batch and the image stays as it was written: on the example inputs it agrees already.
    wrong = [dim for dim, size in enumerate(sizes) if size not in (-1, wanted[dim])]
    beside = with_images(sizes, wrong) if not expands else None
    for dim in wrong:
        sizes[dim] = -1 if dim == beside else wanted[dim]
    try:
        found: Tensor = args[0].expand(sizes) if expands else args[0].reshape(sizes)
    except RuntimeError:
        return None
    if tuple(found.shape) != wanted:
        return None
    return found, [Resized(n.name, dim, sizes[dim], len(wanted)) for dim in wrong]


def _unflattened(n: fx.Node, args: Any, wanted: tuple[int, ...]) -> tuple[Tensor, list[Resized]] | None:
    """The sizes that one dimension is laid out along."""
    source, dim, given = args
    first, sizes = dim % source.dim(), list(given)
    wrong = [place for place, size in enumerate(sizes) if size not in (-1, wanted[first + place])]
    for place in wrong:
        sizes[place] = wanted[first + place]
    try:
        found: Tensor = source.unflatten(dim, sizes)
    except RuntimeError:
        return None
    return found, [Resized(n.name, place, sizes[place], len(sizes)) for place in wrong]


__all__ = ["RESIZES", "resized"]
