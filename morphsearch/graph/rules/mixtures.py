"""Weights that data mixes: a convolution whose kernel is another one for every image.

Kernels of a bank are weighed by attention and added (arXiv 1904.04971 and 1912.03458), or one kernel is scaled by a
style (arXiv 1912.04958). Either way every element of what comes out belongs to the same place of the kernel in the
parameter, whatever the data say. So it counts as a rearrangement of that parameter under a name of its own, a
*mixture*: its elements are those of the bank's first kernel, the same for every image.

A product with a parameter is nearly always a layer, and nothing tells beforehand that a convolution will read it as its
weight. Where one does, it wishes for the parameter; the network is then recorded once more with that decided
(:func:`morphsearch.graph.grouping.with_mixtures`).
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphsearch.graph.labels import LOOSE, RIGID, Labels, constant, is_counting
from morphsearch.graph.rules.binding import axis_of, slot_of
from morphsearch.graph.schemas import spoken_name
from morphsearch.graph.tape import Making, RawOperation, Slot, Tape
from morphsearch.graph.tensors import tensors_in

MIXED = ":mixed"  # ends decisions that begin with the name of a parameter
_SCALES = frozenset(("mul", "div"))
_OTHER_LAYERS = frozenset("conv conv_transpose batch_norm layer_norm group_norm instance_norm recurrent".split())
MOST_STEPS = 64  # operations between a bank and the convolution that reads what comes of it


# -- wishes ------------------------------------------------------------------------------------------------------------


def may_mix(tape: Tape, weight: Tensor, operation: int) -> None:
    """An operation multiplied a parameter, or a rearrangement of one, that it could not take for a layer's."""
    labels = tape.labels(weight) if tape.pair(weight) is None else None
    if labels is not None and labels.parameter:
        tape.weighed[operation] = labels.parameter


def wish(tape: Tape, weight: Tensor) -> None:
    """A convolution reads a weight that is an activation: wish for the parameters that it was made of."""
    labels = tape.pair(weight) or tape.labels(weight)
    pending = [labels.producer] if labels is not None and labels.parameter is None else []
    seen: set[int] = set()
    while pending and len(seen) < MOST_STEPS:
        index = pending.pop()
        if index < 0 or index in seen:
            continue
        seen.add(index)
        operation = tape.operations[index]
        found = [
            name for name in _multiplied(tape, index, operation) if sum(size > 1 for size in tape.shapes[name]) > 1
        ]
        tape.wishes.update(name for name in found if name not in tape.joins and name not in tape.imaginary)
        if not found and operation.kind not in _OTHER_LAYERS:
            pending += [one.producer for one in operation.inputs]


def _multiplied(tape: Tape, index: int, operation: RawOperation) -> list[str]:
    if index in tape.weighed:
        return [tape.weighed[index]]
    if operation.kind == "linear":
        return [operation.parameters["weight"]] if "weight" in operation.parameters else []
    # A mask or a gain for each row is no kernel.
    names = operation.parameters.values() if operation.kind in _SCALES else ()
    return [name for name in names if name not in tape.buffers]


def is_mixed(tape: Tape, labels: Labels | None) -> bool:
    """A parameter, or a rearrangement of one, that convolutions read mixed by data; or such a mixture."""
    if labels is None or not labels.parameter:
        return False
    return labels.parameter in tape.mixtures or labels.parameter + MIXED in tape.decisions


# -- what makes a mixture ----------------------------------------------------------------------------------------------


def mixed_by_product(
    tape: Tape, x: Tensor, summed: int, weight: Tensor, dims: tuple[int, int], bias: Tensor | None, out: Tensor
) -> bool:
    """Kernels of a bank, weighed and added by a product of matrices; False where it is none.

    Args:
        x: gives the weights, along its dimension `summed`.
        weight: the bank; its kernels lie along the second of `dims`, their elements along the first.
    """
    if bias is not None or tape.pair(weight) is not None or tape.pair(x) is not None:
        return False
    known = tape.labels(weight)
    if known is None or not is_mixed(tape, known):
        return False
    labels = tape.activation(x)
    elements, kernels = dims
    given = tape.labels(x)
    if given is None or given.parameter is not None or set(labels.varying()) - {summed % x.dim()}:
        return False
    found = _one_kernel(tape, known, elements, kernels)
    if found is None:
        return False
    dim, ids = found
    name = _parameter(tape, known)
    reason = f"{tape.where(tape.doing)}: it weighs the kernels of {name}, of a fixed number"
    tape.pin(labels.ids, reason)
    tape.pin(tape.slot(name, dim, "other"), reason)
    place = out.dim() - 1 if summed == -1 else out.dim() - 2
    ids = ids.reshape([-1 if d == place else 1 for d in range(out.dim())])
    made = constant(RIGID, tuple(out.shape))
    attrs = {"kernels": known.shape[kernels], "batch": 1}
    tape.emit("mixture", [labels], [made], parameters={"weight": name}, attrs=attrs)
    tape.put(out, _mixture(tape, known, Labels(ids, tuple(out.shape)), made))
    return True


def _one_kernel(tape: Tape, known: Labels, elements: int, kernels: int) -> tuple[int, Tensor] | None:
    """The parameter's dimension that the kernels of a bank lie along, and the labels of the first of them; None where
    they are not the same places of several kernels."""
    shape = tape.shapes[known.parameter or ""]
    if is_counting(known.ids) and tuple(known.ids.shape) == shape and (elements, kernels) == (1, 0) and shape[0] > 1:
        return 0, known.ids[0]
    bank = np.asarray(known.full().movedim((elements, kernels), (-1, -2)))
    bank = bank.reshape(-1, *bank.shape[-2:])
    found = axis_of(tape, known, kernels)
    if (bank != bank[:1]).any() or found is None or (bank[0] < 1).any():
        return None
    _, dim, index = found
    flat = bank[0] - 1
    stride = prod(shape[dim + 1 :])
    along = flat // stride % shape[dim]
    if (along != index[:, None]).any() or (flat - along * stride != flat[0] - along[0] * stride).any():
        return None
    return dim, torch.from_numpy(bank[0, 0])


def mixed_by_elements(tape: Tape, func: Any, operands: list[Tensor], out: Any) -> bool:
    """Elements of a kernel, or of a bank, scaled by data: ``weight * style[:, None, :, None, None]``; False where the
    product is none of them."""
    name = spoken_name(func)
    if name not in _SCALES or tape.side is not None or len(operands) != 2:
        return False
    place = next((i for i, one in enumerate(operands) if is_mixed(tape, tape.labels(one))), None)
    if place is None or (name == "div" and place):
        return False
    known, scale = tape.labels(operands[place]), tape.labels(operands[1 - place])
    assert known is not None
    if scale is None or scale.parameter is not None:
        return False
    shape = tuple(tensors_in(out)[0].shape)
    rank = len(shape)
    own, other = ((1,) * (rank - len(one.shape)) + one.shape for one in (known, scale))
    offset = rank - len(known.shape)
    units = [d + rank - len(scale.shape) for d in scale.varying()]
    # What weighs places of a kernel lies along two dimensions: of data that stays.
    natural = str(units[0]) if len(units) == 1 else "by data"
    fits = all(own[d] > 1 for d in units)
    chosen = tape.decide("scaled weight", natural if fits else None, strict=True)
    if chosen is None:
        return False
    along = -1 if chosen == "by data" else int(chosen)
    # Along a dimension of images the mixture is the same everywhere.
    spans = [d for d in range(rank) if min(own[d], other[d]) > 1 and known.ids.shape[d - offset] > 1]
    axes = {d: slot_of(tape, known, d - offset, "other") for d in range(rank) if d == along or d in spans}
    if any(found is None for found in axes.values()):
        return False
    where = f"{tape.where(name)}: it weighs {_parameter(tape, known)} by data of a fixed size"
    for d, found in axes.items():
        assert found is not None
        if d == along:
            tape.union(scale.vector(d - rank + len(scale.shape)), found[0])
        elif not bool((scale.ids == LOOSE).all()):
            tape.pin(found[0], where)
    if along < 0:
        tape.pin(scale.ids, where)
    made = constant(RIGID, shape)
    parameter = _parameter(tape, known)
    attrs = {"numbers": ()}
    tape.emit(name, [scale, *makers(tape, known)], [made], parameters={"operand0": parameter}, attrs=attrs)
    lifted = known.ids.reshape((1,) * offset + tuple(known.ids.shape))
    tape.put(tensors_in(out)[0], _mixture(tape, known, Labels(lifted, shape), made))
    return True


def mixed_statistic(tape: Tape, labels: Labels, dims: list[int], name: str, outputs: list[Tensor]) -> Labels | None:
    """A mixture that is summed over `dims`, or another statistic of it: the labels of it with a name of its own, since
    what is computed with the sum is not computed with the weight. None where it cannot be followed."""
    shape = tape.shapes[labels.parameter or ""]
    ids = np.asarray(labels.ids)
    summed: set[int] = set()
    kept: set[int] = set()
    for dim in labels.varying():
        line = ids[tuple(slice(None) if d == dim else 0 for d in range(ids.ndim))] - 1
        moving = {d for d, places in enumerate(np.unravel_index(line, shape)) if (places != places[0]).any()}
        (summed if dim in dims else kept).update(moving)
    if summed & kept or len(outputs) > 1:
        return None
    if name != "sum":
        tape.bent.setdefault(labels.parameter or "", tape.where(name))
    return _mixture(tape, labels, labels)


def met(tape: Tape, known: list[Labels], main: Labels | None, numbers: tuple[float, ...]) -> Labels | None:
    """Arithmetic on parameters alone, some of them mixtures: the labels that the result follows, `main` where none
    are."""
    mixed = [one for one in known if one.parameter in tape.mixtures]
    if not mixed:
        return main
    if numbers:
        tape.emit(tape.doing, makers(tape, mixed[0]), [], attrs={"numbers": numbers})
    if main is None:
        return None
    if main.parameter not in tape.mixtures:
        main = _mixture(tape, main, main)
    name = main.parameter or ""
    for one in known:
        other = one.parameter or ""
        slots = _beside(tape, one, main) if other != name else {}
        if other != name and tape.doing in ("add", "sub"):
            tape.addends[name] = [*tape.addends.get(name, ()), slots]
        if other != name and other in tape.mixtures:
            there = tape.makings[name]
            there += [one for one in tape.makings[other] if all(one.made is not own.made for own in there)]
            tape.addends[name] = [*tape.addends.get(name, ()), *tape.addends.get(other, ())]
            if other in tape.bent:
                tape.bent.setdefault(name, tape.bent[other])
    return main


def _beside(tape: Tape, one: Labels, main: Labels) -> dict[int, Slot]:
    """For the dimensions of the parameter of `main` the slots, slice by slice, of another that meets it."""
    own_name, name = _parameter(tape, one), _parameter(tape, main)
    found: list[str] = []
    offset = len(main.shape) - len(one.shape)
    for dim in one.varying() if own_name and own_name != name else []:
        own, its = axis_of(tape, one, dim), axis_of(tape, main, dim + offset)
        if own is not None and its is not None and np.array_equal(own[2], its[2]):
            found.append(f"{its[1]}:{own[1]}")
    # Where single slices are left, the seed knows which they were.
    chosen = tape.decide(f"beside {name}", ",".join(found) or None, strict=True)
    slots: dict[int, Slot] = {}
    for pair in chosen.split(",") if chosen else []:
        its_dim, _, own_dim = pair.partition(":")
        slots[int(its_dim)] = (own_name, int(own_dim))
        tape.union(tape.slot(name, int(its_dim), "other"), tape.slot(own_name, int(own_dim), "norm"))
    return slots


def shared_out(tape: Tape, mixture: str, column_slot: Slot) -> None:
    """What was added to a weight has columns of its own; where it has none, copies of what is read cannot share
    the weight."""
    name, dim = column_slot
    for slots in tape.addends.get(mixture, ()):
        if dim in slots:
            tape.beside.setdefault(*slots[dim])
        else:
            tape.bent.setdefault(name, tape.where("a sum"))


# -- mixtures ----------------------------------------------------------------------------------------------------------


def _parameter(tape: Tape, labels: Labels) -> str:
    name = labels.parameter or ""
    return tape.mixtures.get(name, name)


def makers(tape: Tape, labels: Labels) -> list[Labels]:
    """What the operations gave that made a mixture; nothing for parameters."""
    return [one.made for one in tape.makings.get(labels.parameter or "", ())]


def _mixture(tape: Tape, source: Labels, elements: Labels, made: Labels | None = None) -> Labels:
    """`elements` as a new mixture of what `source` is of; `made` is what the operation gave that mixed."""
    before, weight = source.parameter or "", _parameter(tape, source)
    name = tape.occurrence("mixture")
    tape.mixtures[name] = weight
    tape.shapes[name], tape.parts[name] = tape.shapes[before], (weight,)
    tape.joins[name] = lambda dim, role: tape.slot(weight, dim, role)
    tape.makings[name] = list(tape.makings.get(before, ()))
    if made is not None:
        tape.makings[name].append(Making(weight, made, elements.ids))
    for table in (tape.bent, tape.lifted):
        if before in table:
            table.setdefault(name, table[before])
    if before in tape.addends:
        tape.addends[name] = tape.addends[before]
    return Labels(elements.ids, elements.shape, -1, name)


__all__ = [
    "MIXED",
    "is_mixed",
    "makers",
    "may_mix",
    "met",
    "mixed_by_elements",
    "mixed_by_product",
    "mixed_statistic",
    "shared_out",
    "wish",
]
