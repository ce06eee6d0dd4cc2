"""Convolutions with a weight of their own for every image (see :mod:`~morphsearch.graph.rules.mixtures`).

All images are convolved at once: they lie side by side as channels, `1 x (b c) x h x w`, their weights as rows,
`(b o) x i x k`, in `b` times as many groups. So what one image meets is one convolution, repeated `b` times.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphsearch.graph.folded import Folded
from morphsearch.graph.labels import Labels, along, compact, is_counting
from morphsearch.graph.rules.binding import Ids, bind, channel_labels, named, slot_of
from morphsearch.graph.rules.grouped import decision, leaving
from morphsearch.graph.rules.mixtures import makers, shared_out
from morphsearch.graph.silence import silent
from morphsearch.graph.tape import Making, Slot, Tape
from morphsearch.graph.unionfind import distinct_values


def mixed_convolution(
    tape: Tape,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    groups: int,
    transposed: bool,
    attrs: dict[str, Any],
) -> bool:
    """Label the output of a convolution whose weight is a mixture; False where it is none, or cannot be followed."""
    known = tape.labels(weight)
    if known is None or known.parameter not in tape.mixtures:
        return False
    mixture = known.parameter
    name = tape.mixtures[mixture]
    channel_dim = x.dim() - (weight.dim() - 1)
    kind = "conv_transpose" if transposed else "conv"
    arriving = channel_labels(tape, x, channel_dim, "a convolution of its own for every image")
    images = _images(known, arriving, groups, x.shape[0] if channel_dim else 1)
    # Where a single channel is left, one kernel for all channels could pass for one of every image.
    if tape.decide("weights of images", "followed" if images else None, strict=True) is None:
        images = 0
    arriving, groups = arriving[: arriving.size // max(1, images)], groups // max(1, images)
    decided = decision(tape, name, arriving.size, groups)
    one = _of_one_image(known, name, max(1, images))
    found = _slots(tape, one, transposed, decided) if images else None
    what = tape.where(f"a {kind}")
    if found is None:
        _hold(tape, name, (), f"{what}: its weight is computed from data in a way that is not followed")
        return False
    (rows, row_slot), (columns, column_slot) = found
    _hold(tape, name, (row_slot, column_slot), f"{what}: it reads kernels of a fixed number and size")
    lifted = tape.lifted.get(mixture)
    if lifted is not None:
        tape.lifted.setdefault(name, lifted)
        if columns.size > 1 and not silent(tape, tape.activation(x)):
            tape.mix(arriving, f"{lifted}, by which the weight is not zero where {name} is")
    shared_out(tape, mixture, column_slot)
    if mixture in tape.bent:
        tape.bent.setdefault(name, tape.bent[mixture])
    left = leaving(tape, arriving, rows, columns, column_slot, groups, transposed, decided)
    inputs = [tape.activation(x), *makers(tape, known)]
    if bias is not None:
        inputs += _bind_bias(tape, bias, left, images)
    _say_sizes(tape, mixture, row_slot, column_slot)
    labels = along(np.tile(left, images), channel_dim, tuple(out.shape))
    attrs |= {"groups": groups, "batch": attrs["batch"] * images, "whole": decided == "whole"}
    attrs |= {"weight_dims": (row_slot[1], column_slot[1]), "weight_shape": one.shape}
    parameters = named(tape, bias=bias)
    parameters = {"weight": name} | {role: tape.mixtures.get(own, own) for role, own in parameters.items()}
    tape.emit(kind, inputs, [labels], parameters=parameters, attrs=attrs, rows=rows, columns=columns)
    tape.put(out, labels)
    return True


def _images(known: Labels, arriving: Ids, groups: int, batch: int) -> int:
    """How many images a weight holds kernels for, one after another; 0 where it and what it reads are no repetition."""
    ids = np.asarray(known.full()).reshape(known.shape[0], -1)
    images = ids.shape[0] // distinct_values(ids[:, 0]).size
    if images == 1:
        return 1
    if batch > 1 or ids.shape[0] % images or groups % images or arriving.size % images:
        return 0
    parts, units = ids.reshape(images, -1), arriving.reshape(images, -1)
    return images if (parts == parts[:1]).all() and (units == units[:1]).all() else 0


def _of_one_image(known: Labels, name: str, images: int) -> Labels:
    rows = known.shape[0] // images
    return Labels(known.full()[:rows], (rows, *known.shape[1:]), -1, name)


def _slots(
    tape: Tape, one: Labels, transposed: bool, decided: str | None
) -> tuple[tuple[Ids, Slot], tuple[Ids, Slot]] | None:
    """The rows and the columns of the weight of one image."""
    _unfold(tape, one)
    by_column = transposed and decided == "whole"
    row_dim, column_dim = (1, 0) if transposed else (0, 1)
    rows = slot_of(tape, one, row_dim, "other" if by_column else "rows")
    columns = slot_of(tape, one, column_dim, "rows" if by_column else "columns")
    return (rows, columns) if rows is not None and columns is not None and rows[1] != columns[1] else None


def _unfold(tape: Tape, one: Labels) -> None:
    """A bank that holds its kernels flat, along its last dimension, has their dimensions from here on."""
    name = one.parameter or ""
    shape = tape.shapes[name]
    last = len(shape) - 1
    fits = shape[last] == prod(one.shape) and (name, last) not in tape.slots and _is_first_line(one, shape)
    several = sum(size > 1 for size in one.shape) > 1
    # Where a kernel of a single element is left, the seed knows how it lay.
    if tape.decide(f"folded {name}", "flat" if fits and several else None, strict=True) is None or not fits:
        return
    layout = Folded(last, len(one.shape), (*shape[:last], *one.shape))
    tape.layouts[name] = layout
    for of in [name, *(mixture for mixture, weight in tape.mixtures.items() if weight == name)]:
        tape.shapes[of] = layout.shape


def _is_first_line(one: Labels, shape: tuple[int, ...]) -> bool:
    """The elements are those of one line along the last dimension of a parameter, in their order."""
    if is_counting(one.ids) and one.ids.shape == one.shape:
        return True  # as many as there are in the first
    flat = np.asarray(one.full()).reshape(-1) - 1
    *others, places = np.unravel_index(flat, shape)
    if not (places == np.arange(flat.size)).all():
        return False
    return not any((places != places[0]).any() for places in others)


def _hold(tape: Tape, name: str, but: tuple[Slot, ...], reason: str) -> None:
    """The slices of a parameter along all other dimensions stay."""
    for slot, ids in tape.slots.items():
        if slot[0] == name and slot not in but:
            tape.pin(ids, reason)


def _bind_bias(tape: Tape, bias: Tensor, left: Ids, images: int) -> list[Labels]:
    """Tie a bias, one for every image, to the units that are made; returns what made it, where that is data."""
    labels = tape.labels(bias)
    if labels is None or labels.parameter is None or images == 1:
        bind(tape, bias, 0, np.tile(left, images), "bias")
    else:
        ids = np.asarray(labels.full()).reshape(images, -1)
        found = None
        if (ids == ids[:1]).all() and labels.parameter:
            one = Labels(labels.full()[: left.size], (left.size,), -1, labels.parameter)
            found = slot_of(tape, one, 0, "bias")
        if found is None:
            tape.pin(left, tape.where("a bias computed on the way"))
        else:
            tape.union(left, found[0], found[1])
    if labels is None or labels.parameter is not None:
        return makers(tape, labels) if labels is not None else []
    return [labels]


def _say_sizes(tape: Tape, mixture: str, row_slot: Slot, column_slot: Slot) -> None:
    """What was made on the way to the weight has its rows and its columns, both."""
    places = [{slot[1]: slot for slot in (row_slot, column_slot)}, *tape.addends.get(mixture, ())]
    for one in tape.makings[mixture]:
        own = [of[d] for of in places for d in (row_slot[1], column_slot[1]) if d in of and of[d][0] == one.parameter][
            :2
        ]
        if len(own) < 2 or one.made.second is not None or not one.made.blank:
            continue
        rows, columns = (torch.from_numpy(_of_elements(tape, one, slot)) for slot in own)
        one.made.ids, one.made.second = compact(rows, one.made.shape).ids, compact(columns, one.made.shape).ids


def _of_elements(tape: Tape, one: Making, slot: Slot) -> np.ndarray:
    """The identifier along a slot for each element that was mixed. A kernel has millions, so they take no more memory
    than they must."""
    shape, dim = tape.shapes[one.parameter], slot[1]
    ids = tape.slots[slot].astype(np.int32 if tape.next_id < 2**31 else np.int64)
    if dim and is_counting(one.elements) and one.elements.numel() == prod(shape[1:]):  # all of the first kernel
        places = np.broadcast_to(ids.reshape(-1, *(1,) * (len(shape) - dim - 1)), shape[1:])
        return places.flatten().reshape(tuple(one.elements.shape))
    flat = np.asarray(one.elements) - 1
    found: np.ndarray = ids[flat // prod(shape[dim + 1 :]) % shape[dim]]
    return found


__all__ = ["mixed_convolution"]
