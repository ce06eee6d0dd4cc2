"""Writing over part of a weight that is computed on the way: ``weight = self.weight.clone(); weight[:, :, 0, 0] = 0``.

What is made of a parameter counts as a rearrangement of it, and goes on to do so where what is written follows the same
slices. Else all slices of the parameter stay.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphsearch.graph.labels import LOOSE, Labels
from morphsearch.graph.rules.binding import follows
from morphsearch.graph.tape import Tape, storage_key, unseen
from morphsearch.graph.unionfind import distinct_values


def written_over(tape: Tape, target: Tensor, value: Any, indices: Any = ()) -> bool:
    """A tensor or number is written over `target`, part of something; False where that is made of no parameter.

    `indices`: where in `target`, as far as tensors say so.
    """
    if tape.name_of(target) is None and storage_key(target) in tape.storages:
        return False  # it is followed element by element, as what it has become
    before = tape.labels(target)
    if before is None or before.parameter is None:
        return False
    name = before.parameter
    written = tape.labels(value) if isinstance(value, Tensor) else None
    if written is not None and written.parameter is None and not written.blank:
        of = tape.mixtures.get(name, name) or "a weight"
        tape.pin(written.ids, f"{tape.where(tape.doing)}: it is written over part of {of}")
    if not name:
        return True
    if any(index is not None for index in indices):
        if not (_is_number(value) and _is_mask(tape, indices, before)):
            return _hold_all(tape, name)
    else:
        _hold_parts(tape, before)
    if written is not None and written.parameter == name and _same(written, before):
        return True  # computed in its place: ``weight[0] += 1``
    if _is_number(value) and (written is None or bool((written.ids == LOOSE).all())):
        if not _is_zero(value):
            tape.lifted.setdefault(name, tape.where(tape.doing))
            tape.bent.setdefault(name, tape.where(tape.doing))
        return True
    if written is not None and written.parameter and written.shape == before.shape and follows(tape, written, before):
        tape.sums.append((name, written.parameter))
        return True
    return _hold_all(tape, name)


def changed_in_place(tape: Tape, target: Tensor, before: Labels | None, followed: bool) -> None:
    """Arithmetic wrote its result over `target`, which may be part of something made of a parameter.

    Args:
        before: its labels before that.
        followed: the result is still a rearrangement of that parameter.
    """
    if before is None or not before.parameter or not target._is_view():
        return
    if followed:
        _hold_parts(tape, before)
    else:
        _hold_all(tape, before.parameter)


def _hold_all(tape: Tape, name: str) -> bool:
    for part in tape.parts_of(name):
        for dim in range(len(tape.shapes[part])):
            tape.pin(tape.slot(part, dim, "other"), f"{tape.where(tape.doing)}: part of {part} is written over")
    return True


def _is_mask(tape: Tape, indices: Any, before: Labels) -> bool:
    """The index is a mask of all elements, made of parameters that follow the same slices."""
    if len(indices) != 1 or indices[0].dtype != torch.bool:
        return False
    mask = tape.labels(indices[0])
    return mask is not None and bool(mask.parameter) and mask.shape == before.shape and follows(tape, mask, before)


def is_whole(tensor: Tensor) -> bool:
    """It is all of its memory, no slice of a larger tensor."""
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def _is_number(value: Any) -> bool:
    """One number, also where it is repeated to fill a size."""
    return not isinstance(value, Tensor) or value.untyped_storage().nbytes() == value.element_size()


def _is_zero(value: Any) -> bool:
    """False in doubt: on shapes alone the number is not known."""
    if isinstance(value, Tensor):
        if value.is_meta:
            return False
        with unseen():
            value = value.flatten()[0].item()
    return not value


def _same(written: Labels, before: Labels) -> bool:
    return written.shape == before.shape and bool((written.full() == before.full()).all())


def _hold_parts(tape: Tape, before: Labels) -> None:
    """Which slices are written over is written down, so they stay where those are not all."""
    name = before.parameter or ""
    flat = distinct_values(np.asarray(before.ids).reshape(-1)) - 1
    flat, shape = flat[flat >= 0], tape.shapes[name]
    if flat.size == prod(shape):
        return
    sizes = [distinct_values(places).size for places in np.unravel_index(flat, shape)]
    aslant = prod(sizes) > flat.size  # a diagonal
    for dim, size in enumerate(sizes):
        if shape[dim] > 1 and (size < shape[dim] or aslant):
            of = tape.mixtures.get(name, name)
            why = f"{tape.where(tape.doing)}: some of the slices of {of} are written over, which the code says"
            tape.pin(tape.slot(name, dim, "other"), why)


__all__ = ["changed_in_place", "is_whole", "written_over"]
