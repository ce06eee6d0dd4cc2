"""How parameters follow units: which slices of which dimension belong to the channels that an operation sees."""

from __future__ import annotations

from math import prod

import numpy as np
from torch import Tensor

from morphsearch.graph.labels import RIGID, Labels, along, is_counting, unknown
from morphsearch.graph.rules.layouts import lockstep
from morphsearch.graph.rules.likeness import as_large_as
from morphsearch.graph.silence import silent
from morphsearch.graph.tape import Slot, Tape

Ids = np.ndarray


def axis_of(tape: Tape, labels: Labels, dim: int) -> tuple[str, int, Ids] | None:
    """The parameter, its dimension and the indices along it that dimension `dim` of a rearrangement runs through."""
    if not labels.parameter:
        return None
    first = tuple(slice(None) if d == dim else 0 for d in range(len(labels.shape)))
    flat = np.asarray(labels.full()[first]) - 1
    if (flat < 0).any():
        return None
    coordinates = np.unravel_index(flat, tape.shapes[labels.parameter])
    moving = [
        d for d, coordinate in enumerate(coordinates) if coordinate.size > 1 and (coordinate != coordinate[0]).any()
    ]
    if not moving:
        # A single slice: the dimension is the first one of its size that the rearrangement has not used elsewhere.
        moving = [d for d, size in enumerate(tape.shapes[labels.parameter]) if size == flat.size == 1][:1]
    return (labels.parameter, moving[0], coordinates[moving[0]]) if len(moving) == 1 else None


def resolve_slot(tape: Tape, tensor: Tensor, dim: int, role: str) -> tuple[Ids, Slot] | None:
    """The unit identifiers along `dim` of a weight, where it is a parameter or a rearrangement of one; else None."""
    name = tape.name_of(tensor)
    if name is not None and name not in tape.imaginary:
        return tape.slot(name, dim, role), (name, dim)
    labels = tape.labels(tensor)
    if labels is None or not labels.parameter:
        return None
    if labels.parameter in tape.joins and role in ("rows", "columns"):
        return None  # of a weight that is joined of several
    return slot_of(tape, labels, dim, role)


def slot_of(tape: Tape, labels: Labels, dim: int, role: str) -> tuple[Ids, Slot] | None:
    """The same for a rearrangement of a parameter."""
    assert labels.parameter
    found: tuple[str, int, Ids] | None = None
    if _untouched(tape, labels):
        natural, found = None, (labels.parameter, dim, np.arange(labels.shape[dim]))
    else:
        found = axis_of(tape, labels, dim)
        natural = None if found is None else str(found[1])
    # Where a single slice is left, the seed knows which dimension it was.
    decided = tape.decide(f"{role} of {labels.parameter}", natural)
    if found is None:
        return None
    name, own, indices = found
    if decided is not None and indices.size == 1 and tape.shapes[name][int(decided)] == 1:
        own = int(decided)
    return tape.slot(name, own, role)[indices], (name, own)


def learned(tape: Tape, x: Tensor, dim: int) -> Labels | None:
    """The labels of what an operation reads where that is a parameter (learned queries, positions that are resized):
    its slices along `dim` are units; None for activations."""
    known = tape.labels(x)
    if known is None or not known.parameter:
        return None
    found = resolve_slot(tape, x, dim, "other")
    return along(found[0], dim, tuple(x.shape)) if found is not None else None


def never_silent(tape: Tape, x: Tensor, weight: Tensor, arriving: Ids) -> None:
    """Say so where a weight reads units of `x` and goes on to do so with their parameters at zero: a buffer, or what is
    made of a parameter otherwise. Whatever a unit gives then, the sigmoid of zero for instance, would be read."""
    name = tape.name_of(weight)  # its labels would number every element
    if name is None:
        labels = tape.labels(weight)
        name = labels.parameter if labels is not None else None
    if (name not in tape.buffers and name not in tape.lifted) or silent(tape, tape.activation(x)):
        return
    if name in tape.buffers:
        tape.mix(arriving, tape.where(f"the fixed weight {name}, which reads it"))
    elif name is not None:
        tape.mix(arriving, f"{tape.lifted[name]}, by which the weight is not zero where {name} is")


def _untouched(tape: Tape, labels: Labels) -> bool:
    """Every element of the parameter is where it was (its values may have been computed with)."""
    if labels.shape != tape.shapes[labels.parameter or ""] or labels.ids.shape != labels.shape:
        return False
    if is_counting(labels.ids):
        return True
    flat = np.asarray(labels.ids).reshape(-1)
    return bool(flat[0] == 1 and flat[-1] == flat.size and (np.diff(flat) == 1).all())


def follows(tape: Tape, labels: Labels, main: Labels) -> bool:
    """Bind a parameter to the slices of another one that it meets in arithmetic; False where that is impossible."""
    if labels.parameter is None or labels.parameter == "":
        return prod(labels.shape) == 1
    offset = len(main.shape) - len(labels.shape)
    for dim, size in enumerate(labels.shape):
        if size == 1 or labels.ids.shape[dim] == 1:  # the same for every slice of the other, also where it is expanded
            continue
        one, other = axis_of(tape, labels, dim), axis_of(tape, main, dim + offset)
        if one is None or other is None:
            return False
        if one[:2] == other[:2]:
            if not np.array_equal(one[2], other[2]):
                return False
            continue
        tape.union(tape.slot(*other[:2], "other")[other[2]], tape.slot(*one[:2], "norm")[one[2]])
    return True


def mixes_parameter(tape: Tape, labels: Labels, dims: list[int], what: str) -> None:
    """A statistic of a parameter over `dims` of its rearrangement: units along them influence each other."""
    if not labels.parameter:
        return
    if labels.parameter in tape.joins and labels.parameter not in tape.mixtures:
        unknown_part(tape, [labels], labels.shape, what)
        return
    where = tuple(slice(None) if d in dims else 0 for d in range(len(labels.shape)))
    flat = np.asarray(labels.ids[where]).reshape(-1) - 1
    coordinates = np.unravel_index(flat[flat >= 0], tape.shapes[labels.parameter])
    for dim, coordinate in enumerate(coordinates):
        if coordinate.size and (coordinate != coordinate[0]).any():
            tape.parameter_mixes.append((tape.mixtures.get(labels.parameter, labels.parameter), dim, what))


def unknown_part(tape: Tape, known: list[Labels], shape: tuple[int, ...], what: str) -> Labels:
    """Labels of a tensor computed from parameters in a way that is not followed: all their units influence it."""
    for labels in known:
        for name in tape.parts_of(labels.parameter or ""):
            tape.parameter_mixes += [(name, d, tape.where(f"{what} of {name}")) for d in range(len(tape.shapes[name]))]
    return unknown(shape)


def channel_labels(tape: Tape, tensor: Tensor, dim: int, what: str) -> Ids:
    """`c`: the units along `dim`, which must not change along other dimensions of `tensor`.

    Where they change along others (a pixel shuffle), all units that share a channel are one unit from here on; where
    that is impossible since the batch or the only other dimension carries them, they are pinned.
    """
    labels = as_large_as(tape, tensor, tape.activation(tensor))
    others = [d for d in labels.varying() if d != dim]
    natural = ("both" if dim in labels.varying() else "elsewhere") if others else None
    chosen = tape.decide(f"channels of {what}", natural)
    if chosen is None:
        return np.asarray(labels.vector(dim))
    if chosen == "elsewhere":
        tape.pin(labels.ids, f"{tape.where(what)} reads units along another dimension than its channels")
        return np.full(labels.shape[dim], RIGID)
    together = lockstep(tape, labels.ids, dim)
    return np.asarray(together.movedim(dim, 0).reshape(-1).expand(labels.shape[dim]))


def bind(tape: Tape, tensor: Tensor | None, dim: int, units: Ids, role: str) -> None:
    """The slices of a parameter along `dim` belong to `units`."""
    if tensor is None:
        return
    found = resolve_slot(tape, tensor, dim, role)
    if found is None and tensor.dim() == 1 and not (joined := tape.activation(tensor)).blank:
        tape.union(units, joined.vector(0))  # several parameters, joined
    elif found is not None and found[0].size == np.size(units):
        tape.union(units, found[0], found[1])
        tape.pin(found[0][np.asarray(units) == RIGID], "it reads data whose number of channels is fixed")
    else:
        tape.pin(units, tape.where("a parameter computed on the way"))


def bind_elements(tape: Tape, tensor: Tensor, units: Labels, role: str) -> None:
    """Bind a parameter that meets an activation element by element (a scale, a learned gate, an embedding).

    It must follow the units along exactly one of its own dimensions; else the units are pinned.
    """
    labels = tape.labels(tensor)
    if labels is None or labels.parameter is None:
        return
    name = labels.parameter
    moving = units.varying()
    rank = len(units.shape)
    sizes = (1,) * (rank - tensor.dim()) + tuple(tensor.shape)
    spans = any(sizes[d] > 1 for d in moving)
    if not name:
        if spans:
            tape.pin(units.ids, tape.where("a tensor computed from parameters"))
        return
    known = tape.decisions.get(f"{name}:follows")
    if not spans and known is None:
        return  # broadcast over the channels: nothing of it leaves with one
    if known is not None and not moving:
        # One unit is left: which dimension carries it was decided when there were more.
        slot = tape.slot(name, int(known), role)
        tape.union(np.broadcast_to(np.asarray(units.ids).reshape(-1)[:1], slot.shape), slot)
        return
    along_last = moving == [rank - 1] or (rank - 1 in moving and sizes[-1] > 1)
    if along_last and tensor.dim() == 1 and tape.name_of(tensor) == name:
        lines = units.ids.numpy().reshape(-1, units.ids.shape[-1])
        if len(lines) == 1 or np.array_equal(lines.min(0), lines.max(0)):
            _bind_line(tape, name, lines[0], role)
        else:
            _bind_longest(tape, tensor, units, sizes, role)
        return
    ids = labels.full().reshape(sizes)
    for d in range(rank):
        if d not in moving and ids.shape[d] > 1:
            ids = ids.narrow(d, 0, 1)
    shape = np.broadcast_shapes(ids.shape, units.ids.shape)
    element = np.asarray(ids.expand(shape)).reshape(-1) - 1
    unit = np.asarray(units.ids.expand(shape)).reshape(-1)
    coordinates = np.unravel_index(element, tape.shapes[name])
    for dim, coordinate in enumerate(coordinates):
        size = tape.shapes[name][dim]
        if size == 1:
            continue
        low = high = unit
        if coordinate.size != size or (np.diff(coordinate) != 1).any():  # else each slice meets one unit
            low, high = np.full(size, np.iinfo(np.int64).max), np.full(size, -1)
            np.minimum.at(low, coordinate, unit)
            np.maximum.at(high, coordinate, unit)
        seen = high >= 0
        if (low[seen] == high[seen]).all():
            tape.decisions.setdefault(f"{name}:follows", str(dim))
            found = tape.slot(name, dim, role)
            tape.union(np.where(seen, high, RIGID), found, (name, dim))
            tape.pin(found[~seen | (high == RIGID)], f"{tape.where('part of ' + name)} meets data whose size is fixed")
            return
    _bind_longest(tape, tensor, units, sizes, role)


def _bind_longest(tape: Tape, tensor: Tensor, units: Labels, sizes: tuple[int, ...], role: str) -> None:
    """Bind a parameter that follows the units along none of its dimensions, after all but one are in lockstep."""
    labels = tape.labels(tensor)
    name = (labels.parameter if labels is not None else None) or ""
    kept = _longest_spanned(tape, name, units, sizes)
    if kept is None:
        tape.pin(
            units.ids, tape.where(f"the parameter {name}, which follows the channels along no dimension of its own")
        )
        return
    dim, follows_it = kept
    together = Labels(lockstep(tape, units.ids, dim), units.shape)
    if follows_it:
        bind_elements(tape, tensor, together, role)


def _bind_line(tape: Tape, name: str, units: np.ndarray, role: str) -> None:
    """A parameter of one dimension meets units along one, each its own (as most parameters do)."""
    tape.decisions.setdefault(f"{name}:follows", "0")
    found = tape.slot(name, 0, role)
    fixed = units <= RIGID
    tape.union(np.where(fixed, RIGID, units), found, (name, 0))
    if fixed.any():
        tape.pin(found[fixed], f"{tape.where('part of ' + name)} meets data whose size is fixed")


def _longest_spanned(tape: Tape, name: str, units: Labels, sizes: tuple[int, ...]) -> tuple[int, bool] | None:
    """Units along several dimensions meet a parameter along some: the one that keeps most choices, and whether the
    parameter follows it."""
    natural = max(units.varying(), key=lambda d: (units.ids.shape[d], sizes[d] > 1), default=None)
    chosen = tape.decide(f"{name} in lockstep", None if natural is None else str(natural))
    return None if chosen is None or len(units.varying()) < 2 else (int(chosen), sizes[int(chosen)] > 1)


def joined_parameters(
    tape: Tape, parts: list[Tensor], known: list[Labels | None], labels: list[Labels], dim: int
) -> list[Labels]:
    """The labels of tensors that are concatenated along `dim`, where some are parameters.

    Beside activations a parameter (a class token, a padding that is learned) follows their units, and brings units of
    its own where it adds channels; parameters alone (the biases of queries, keys and values) are joined slice by slice.
    """
    own = [one for one in known if one is not None and one.parameter]
    if not own or (len(own) == len(parts) and len(labels[0].shape) > 1):
        return labels
    natural = sorted({d for one in labels for d in one.varying()} or {dim})
    # Where a single unit is left, the seed knows along which dimension it lies.
    chosen = tape.decide("parameters joined along", ",".join(map(str, natural)))
    moving = {int(d) for d in (chosen or "").split(",")}
    result = list(labels)
    for place, (tensor, one) in enumerate(zip(parts, known, strict=True)):
        if one is None or not one.parameter or len(moving) > 1:
            continue
        (over,) = moving
        found = resolve_slot(tape, tensor, over, "gate" if over == dim and len(own) < len(parts) else "other")
        if found is None:
            continue
        result[place] = along(found[0], over, one.shape)
        if over == dim:
            continue
        beside = [other for other, one in zip(labels, known, strict=True) if one is not None and not one.parameter]
        units = next((np.asarray(other.vector(over)) for other in beside if not other.blank), None)
        if units is not None:
            tape.union(units, *found)
            tape.pin(found[0][units == RIGID], "it reads data whose number of channels is fixed")
            result[place] = along(units, over, one.shape)
    return result


def named(tape: Tape, **tensors: Tensor | None) -> dict[str, str]:
    names: dict[str, str] = {}
    for role, tensor in tensors.items():
        if tensor is None:
            continue
        name = tape.name_of(tensor)
        if name is None:
            labels = tape.labels(tensor)
            name = labels.parameter if labels is not None else None
        if name is not None:
            names[role] = name
    return names
