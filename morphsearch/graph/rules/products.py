"""Products of two activations.

Letters: `r` units along the rows of a factor, `c` along its columns; an outer product has both, of two kinds of units.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor

from morphsearch.graph.labels import RIGID, Labels, along, compact, constant
from morphsearch.graph.rules.binding import bind_elements, resolve_slot
from morphsearch.graph.rules.elementwise import meet
from morphsearch.graph.rules.layouts import lockstep
from morphsearch.graph.rules.left import weight_on_the_left
from morphsearch.graph.rules.linear import linear_labels
from morphsearch.graph.rules.mixtures import may_mix, mixed_by_product
from morphsearch.graph.rules.pairs import joined
from morphsearch.graph.schemas import argument_names, short_name
from morphsearch.graph.tape import Tape


def product(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """``mm``/``bmm`` and ``addmm``/``baddbmm``: a linear layer where one side is a parameter, else a contraction."""
    given = dict(zip(argument_names(func), args, strict=False)) | kwargs
    bias = given.get("self") if ("mat2" in given and "mat1" in given) or "batch1" in given else None
    a = given.get("mat1", given.get("batch1", given.get("self")))
    b = given.get("mat2", given.get("batch2"))
    if tape.pair(b) is None:
        weight = tape.labels(b)
        if weight is not None and weight.parameter is not None and weight.ids[..., :1, :1].numel() == 1:
            linear_labels(tape, a, b, bias, out, row_dim=b.dim() - 1, column_dim=b.dim() - 2)
            return
    if tape.decisions and mixed_by_product(tape, b, -2, a, (a.dim() - 2, a.dim() - 1), bias, out):
        return
    name = short_name(func)
    rows = weight_on_the_left(tape, a, b, out)
    if rows is not None:
        tape.put(out, rows)
        if bias is not None:
            _add(tape, name, bias, out, rows)
        return
    left, right = factor(tape, a, -1), factor(tape, b, -2)
    result = multiply(tape, name, left, right, tuple(out.shape))
    kind = {"mm": "matmul", "addmm": "matmul"}.get(name, "bmm")
    index = tape.emit(kind, [left, right], [result], attrs=sizes(left, right))
    for side in (a, b):
        may_mix(tape, side, index)
    tape.put(out, result)
    if bias is not None:
        _add(tape, name, bias, out, result)


def factor(tape: Tape, tensor: Tensor, inner: int) -> Labels:
    """The labels of a factor, both sides of an outer product.

    A parameter (a table of relative positions, rearranged) has units along `inner`, the dimension that is summed.
    """
    pair = tape.pair(tensor)
    if pair is not None:
        return pair
    labels = tape.labels(tensor)
    summed = labels is not None and labels.parameter and labels.shape[inner] > 1
    if labels is not None and labels.parameter and tape.decide("a table", "summed" if summed else None) is not None:
        found = resolve_slot(tape, tensor, inner % tensor.dim(), "columns")
        if found is not None:
            return along(found[0], inner % tensor.dim(), labels.shape)
    return tape.activation(tensor)


def sizes(left: Labels, right: Labels) -> dict[str, int]:
    """What a product of `... n x c` and `... c x o` costs."""
    n, c, o = left.shape[-2], left.shape[-1], right.shape[-1]
    return {"batch": 1, "n": n, "c": c, "o": o, "matrices": prod(left.shape[:-2])}


def multiply(tape: Tape, name: str, left: Labels, right: Labels, shape: tuple[int, ...]) -> Labels:
    """The labels of ``left @ right``.

    Units along the dimension that is summed are one with those that they meet there (both sides must lose the same, and
    the sum then misses exactly their products); those along the others stay: of both factors, as an outer product.
    Heads, along the leading dimensions, are in lockstep with whatever lies along rows or columns.
    """
    natural = ",".join(_met(_places(left), _places(right)))
    chosen = tape.decide(name, natural if natural != "," else None)
    if chosen is None:
        if left.blank and right.blank:
            return constant(RIGID, shape)
        merged = meet(tape, f"{name} of maps", _head(left, -1), _head(right, -2))
        return compact(merged, shape) if merged.dim() == len(shape) else constant(RIGID, shape)
    places = chosen.split(",")
    what = f"{tape.where(name)}: a product of two activations"
    if any(place not in ("", "r", "c", "rc", "cr") for place in places):
        for labels in (left, right):
            _pin(tape, labels, f"{what} along rows and columns at once")
        return constant(RIGID, shape)
    (row, left_inner), (right_inner, column) = (
        _sides(tape, labels, place) for labels, place in zip((left, right), places, strict=True)
    )
    for labels, place in zip((left, right), places, strict=True):
        if not place and not labels.blank:
            _pin(tape, labels, f"{tape.where(name)}: it weighs the channels of another activation")
    if left_inner is not None and right_inner is not None:
        tape.union(left_inner, right_inner)
        for side in (left_inner, right_inner):
            tape.mix(side, f"{what} over channels")
    elif left_inner is not None or right_inner is not None:
        inner = left_inner if left_inner is not None else right_inner
        assert inner is not None
        tape.pin(inner, f"{tape.where(name)}: it is summed with weights whose number is fixed")
    rows = _along(row, -2, shape) if row is not None else None
    columns = _along(column, -1, shape) if column is not None else None
    if rows is None or columns is None:
        return rows or columns or constant(RIGID, shape)
    return joined(tape, rows, columns)


def transposed(labels: Labels) -> Labels:
    """The labels of ``x.transpose(-1, -2)``."""
    shape = (*labels.shape[:-2], labels.shape[-1], labels.shape[-2])
    second = labels.second.movedim(-1, -2) if labels.second is not None else None
    return Labels(labels.ids.movedim(-1, -2), shape, labels.producer, None, second)


def _places(labels: Labels) -> str:
    """Where the units of a factor lie: along its rows, its columns or (an outer product) both; "?": one kind along
    both."""
    found = [
        "".join(letter for dim, letter in ((-2, "r"), (-1, "c")) if ids.shape[dim] > 1)
        for ids in ((labels.ids,) if labels.second is None else (labels.ids, labels.second))
    ]
    if labels.second is None:
        return "?" if len(found[0]) > 1 else found[0]
    return "".join(found) if sorted(found) == ["c", "r"] else "?"


def _met(left: str, right: str) -> tuple[str, str]:
    """A factor with one kind of units along both dimensions (heads merged into its rows) is summed over them where it
    meets units; along the other dimension they are in lockstep."""
    if left == "?" and "r" in right:
        return "c", right
    if right == "?" and "c" in left:
        return left, "r"
    return left, right


def _sides(tape: Tape, labels: Labels, place: str) -> tuple[Tensor | None, Tensor | None]:
    """The units along rows and along columns, as vectors, the leading dimensions in lockstep."""
    found: dict[str, Tensor] = {}
    sides = (labels.ids,) if labels.second is None else (labels.ids, labels.second)
    for letter, ids in zip(place, sides, strict=False):
        dim = -2 if letter == "r" else -1
        vector = lockstep(tape, ids, dim)
        found[letter] = vector.movedim(dim, 0).reshape(-1).expand(labels.shape[dim])
    return found.get("r"), found.get("c")


def _along(vector: Tensor, dim: int, shape: tuple[int, ...]) -> Labels:
    view = [1] * len(shape)
    view[dim] = vector.numel()
    return Labels(vector.reshape(view), shape)


def _head(labels: Labels, dim: int) -> Tensor:
    return labels.ids.narrow(dim, 0, 1)


def _pin(tape: Tape, labels: Labels, reason: str) -> None:
    tape.pin(labels.ids, reason)
    if labels.second is not None:
        tape.pin(labels.second, reason)


def _add(tape: Tape, name: str, bias: Tensor, out: Tensor, result: Labels) -> None:
    """What is added to a product of two activations meets its result."""
    own = tape.labels(bias)
    if own is None:
        return
    if own.parameter is not None:
        bind_elements(tape, bias, result, "bias")
        return
    if result.second is not None or (not own.blank and own.shape != result.shape):
        for labels in (own, result):
            _pin(tape, labels, tape.where(f"{name}: it is added to a product of channels"))
        tape.put(out, constant(RIGID, result.shape))
        return
    lifted = own.ids.reshape((1,) * (len(result.shape) - own.ids.dim()) + tuple(own.ids.shape))
    tape.put(out, compact(meet(tape, name, result.ids, lifted), result.shape, result.producer))


__all__ = ["factor", "multiply", "product", "sizes", "transposed"]
