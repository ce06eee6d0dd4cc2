"""Element-wise operations: units that meet in one element are one unit."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphsearch.graph.labels import LOOSE, RIGID, Labels, compact, constant
from morphsearch.graph.rules.binding import (
    bind_elements,
    follows,
    unknown_part,
)
from morphsearch.graph.rules.common import finish, numbers_in
from morphsearch.graph.rules.lifting import lifts
from morphsearch.graph.rules.likeness import as_large_as
from morphsearch.graph.rules.mixtures import makers, met, mixed_by_elements
from morphsearch.graph.rules.overwriting import changed_in_place
from morphsearch.graph.schemas import full_name, short_name
from morphsearch.graph.tape import Tape
from morphsearch.graph.tensors import tensors_in


def pointwise(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Units that meet in one element are one unit; parameters that meet them are bound to them."""
    operands = tensors_in((args, kwargs))
    outputs = tensors_in(out)
    if not outputs:
        return
    shape = tuple(outputs[0].shape)
    found = [(t, as_large_as(tape, t, tape.labels(t))) for t in operands]
    active = [labels for _, labels in found if labels is not None and labels.parameter is None]
    if active and len(active) < len(found) and _only_numbers(tape, active):
        active = []  # a weight meets a number that was made as a tensor
    numbers = numbers_in(args, kwargs, on_meta=tape.on_meta)
    in_place = full_name(func).endswith("_")
    if not active:
        _derive(tape, found, outputs, shape, numbers)
        if in_place:
            after = tape.labels(operands[0])
            changed_in_place(tape, operands[0], found[0][1], after is not None and bool(after.parameter))
        name = tape.labels(outputs[0]).parameter  # type: ignore[union-attr]
        if name and lifts(func, args, kwargs, [labels for _, labels in found], name):
            tape.lifted.setdefault(name, tape.where(tape.doing))
        return
    if tape.decisions and len(active) == 1 and len(found) == 2 and mixed_by_elements(tape, func, operands, out):
        return
    if in_place:
        changed_in_place(tape, operands[0], found[0][1], False)
    lifted = [_broadcast(labels, shape) for labels in active]
    moving = {d for ids in lifted for d, size in enumerate(ids.shape) if size > 1}
    if len(active) > 1:
        tensors = [t for t, labels in found if labels is not None and labels.parameter is None]
        lifted = [_loosen(t, ids, moving) for t, ids in zip(tensors, lifted, strict=True)]
        lifted = _weighed(tape, tensors, lifted)
    result = lifted[0]
    for other in lifted[1:]:
        result = meet(tape, short_name(func), result, other)
    for tensor, labels in found:
        if labels is None:
            _meet_constant(tape, tensor, result, shape)
        elif labels.parameter is not None:
            bind_elements(tape, tensor, Labels(result, shape), "gate")
    named = {
        f"operand{i}": name
        for i, name in enumerate(
            name for _, labels in found if labels is not None for name in tape.parts_of(labels.parameter or "")
        )
    }
    produced = [compact(result, tuple(o.shape)) for o in outputs]
    made = [one for _, labels in found if labels is not None for one in makers(tape, labels)]
    finish(tape, func, [*active, *made], out, produced, parameters=named, attrs={"numbers": numbers})


def _only_numbers(tape: Tape, active: list[Labels]) -> bool:
    """Tensors of one element that code made, of no data."""
    if any(one.ids.numel() > 1 or int(one.ids) != LOOSE for one in active):
        return False
    # Where a single unit is left, what has its size could pass for a number.
    natural = "one" if all(prod(one.shape) == 1 for one in active) else None
    return tape.decide("a number made as a tensor", natural, strict=True) is not None


def _broadcast(labels: Labels, shape: tuple[int, ...]) -> Tensor:
    """Compact labels at the rank of `shape`."""
    return labels.ids.reshape((1,) * (len(shape) - labels.ids.dim()) + tuple(labels.ids.shape))


def _loosen(tensor: Tensor, ids: Tensor, moving: set[int]) -> Tensor:
    """Rigid data that is broadcast along every dimension in which units lie fixes none of them: it becomes loose."""
    offset = ids.dim() - tensor.dim()
    spans = any(d >= offset and tensor.shape[d - offset] > 1 and tensor.stride(d - offset) for d in moving)
    return ids if spans else torch.where(ids == RIGID, LOOSE, ids)


def _weighed(tape: Tape, tensors: list[Tensor], lifted: list[Tensor]) -> list[Tensor]:
    """Of two operands one weighs parts of the other (experts, arXiv 1701.06538): its units lie along a dimension where
    the other has a fixed number of parts, so they stay, and the other's go on to be free."""
    natural = None
    if len(lifted) == 2:
        for weight, other in ((0, 1), (1, 0)):
            along, units = (
                {d for d, size in enumerate(ids.shape) if size > 1 and bool((ids > 0).any())}
                for ids in (lifted[weight], lifted[other])
            )
            if along and units and not along & units:
                parts = all(_size(tensors[other], lifted[other].dim(), d) > 1 for d in along)
                spread = all(_size(tensors[weight], lifted[weight].dim(), d) == 1 for d in units)
                natural = str(weight) if parts and spread else natural
    chosen = tape.decide("weighed parts", natural, strict=True)
    if chosen is None:
        return lifted
    tape.pin(lifted[int(chosen)], f"{tape.where(tape.doing)}: it weighs parts of another tensor, of a fixed number")
    return [torch.full_like(ids, LOOSE) if place == int(chosen) else ids for place, ids in enumerate(lifted)]


def _size(tensor: Tensor, rank: int, dim: int) -> int:
    """Of a dimension of a tensor that is broadcast to `rank`, or repeated to fill a size."""
    own = dim - (rank - tensor.dim())
    return tensor.shape[own] if own >= 0 and tensor.stride(own) else 1


def meet(tape: Tape, what: str, a: Tensor, b: Tensor) -> Tensor:
    """Two compact label tensors, element by element: units that meet are one; returns the merged labels.

    A single unit that is broadcast over many (an attention map) is not one with them: it can only never leave. Units
    that lie along different dimensions (an outer product) are all pinned.
    """
    if a.shape == b.shape and a.data_ptr() == b.data_ptr():
        return a
    dims_a = {d for d, size in enumerate(a.shape) if size > 1}
    dims_b = {d for d, size in enumerate(b.shape) if size > 1}
    units_a, units_b = bool((a > 0).any()), bool((b > 0).any())
    choice = None
    if units_a and units_b:
        if dims_a != dims_b and not (dims_a and dims_b):
            choice = "left is broadcast" if not dims_a else "right is broadcast"
        elif not dims_a <= dims_b and not dims_b <= dims_a:
            choice = "outer"
        # Where a single unit is left, it could pass for one that is broadcast.
        choice = tape.decide(what, choice, strict=True)
    if choice == "left is broadcast":
        tape.pin(a, f"{tape.where(what)}: it is broadcast over the channels of another tensor")
        return b
    if choice == "right is broadcast":
        tape.pin(b, f"{tape.where(what)}: it is broadcast over the channels of another tensor")
        return a
    if choice == "outer":
        for side in (a, b):
            tape.pin(side, f"{tape.where(what)}: an outer product of channels")
        return torch.full((1,) * a.dim(), RIGID, dtype=torch.int64)
    shape = np.broadcast_shapes(a.shape, b.shape)
    left, right = a.expand(shape), b.expand(shape)
    tape.union(left, right)
    return torch.where(left > 0, left, torch.where(right > 0, right, torch.maximum(left, right)))


def _meet_constant(tape: Tape, tensor: Tensor, units: Tensor, shape: tuple[int, ...]) -> None:
    """A tensor from nowhere (an attribute that is no buffer) fixes the sizes of the dimensions it spans."""
    sizes = (1,) * (len(shape) - tensor.dim()) + tuple(tensor.shape)
    if any(units.shape[d] > 1 and sizes[d] > 1 for d in range(len(shape))):
        tape.pin(units, tape.where("a constant tensor that is neither parameter nor buffer"))


def _derive(tape: Tape, found: Any, outputs: list[Tensor], shape: tuple[int, ...], numbers: tuple[float, ...]) -> None:
    """Arithmetic on parameters alone: what has the shape of the result stays a rearrangement of its parameter.

    Other parameters that it meets (a scale per row) follow its slices; where they cannot, the result is of unknown
    parts.
    """
    known = [labels for _, labels in found if labels is not None]
    main = _main(tape, known, shape)
    if tape.mixtures:
        main = met(tape, known, main, numbers)
    if not known:
        result = constant(LOOSE, shape)
    elif main is None or not all(follows(tape, labels, main) for labels in known if labels is not main):
        result = unknown_part(tape, known, shape, tape.doing)
    else:
        result = Labels(main.ids, shape, -1, main.parameter)
        adds = tape.doing in ("add", "sub")
        for one in known if adds else ():
            if one.parameter in tape.lifted:
                tape.lifted.setdefault(main.parameter or "", tape.lifted[one.parameter or ""])
        if adds and len(found) > 1:
            for one in known:
                if _as_spread(one, main):
                    tape.sums.append((main.parameter or "", one.parameter or ""))
                elif one.parameter != main.parameter and main.parameter not in tape.mixtures:
                    tape.bent.setdefault(main.parameter or "", tape.where(tape.doing))
        elif adds and not any(numbers):
            pass  # a sum that starts at zero
        elif tape.doing not in ("mul", "div", "neg") or sum(one.parameter == main.parameter for one in known) > 1:
            tape.bent.setdefault(main.parameter or "", tape.where(tape.doing))
        if numbers and (main.parameter or "") not in tape.joins:  # it may follow from a width
            tape.emit(tape.doing, [], [], attrs={"numbers": numbers, "of": main.parameter})
    for output in outputs:
        tape.put(output, Labels(result.ids, result.shape, -1, result.parameter))


def _as_spread(one: Labels, main: Labels) -> bool:
    """What is added changes along all dimensions of a weight; of kernels, all but the places in them."""
    count = max(2, len(main.shape) - 2) if len(main.shape) > 3 else len(main.shape)
    return len(one.shape) == len(main.shape) and one.ids.shape[:count] == main.ids.shape[:count]


def _main(tape: Tape, known: list[Labels], shape: tuple[int, ...]) -> Labels | None:
    """Of parameters that meet, the one that the result is a rearrangement of: the first that has its shape."""
    places = [place for place, labels in enumerate(known) if labels.shape == shape and labels.parameter]
    place = places[0] if places else None
    if len(known) > 1:
        # Where single slices are left, others have that shape as well; the seed knows which it was.
        chosen = tape.decide("followed parameter", str(place) if place else None)
        place = int(chosen) if chosen is not None and int(chosen) in places else place
    return known[place] if place is not None else None


def glu(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """One half times the sigmoid of the other."""
    labels = tape.activation(args[0])
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", -1)) % len(labels.shape)
    ids = labels.ids
    if dim in labels.varying():
        first, second = ids.chunk(2, dim)
        ids = meet(tape, "glu", first, second)
    finish(tape, func, [labels], out, [compact(ids, tuple(out.shape))], attrs={"dim": dim})
