"""Labels: the companion that says for every element of a tensor which unit it belongs to.

A label tensor has the rank of its tensor and size 1 along every dimension in which the labels do not change, so that it
costs C numbers for an activation `n x c x h x w`, not N x C x H x W. Values: positive, a unit; :data:`RIGID`, data
whose
size nobody can change (the network's input, what was not understood); :data:`LOOSE`, filler whose size follows from its
surroundings (zero padding, tensors made by ``zeros_like``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

RIGID = 0
LOOSE = -1
WORTH_COPYING = 8  # labels that are so many times smaller than the memory behind them get memory of their own


@dataclass(slots=True)
class Labels:
    """Labels of one tensor.

    Args:
        ids: int64, compact: size 1 along constant dimensions. For ``parameter`` labels the values are one more than the
            flat index of the element in that parameter.
        shape: the full shape of the tensor.
        producer: index of the operation that made the tensor, or -1.
        parameter: name of the parameter or buffer that this tensor is a rearrangement of ("": of several, or in a way
        that
            is not known), or None for activations.
        second: for an outer product of channels, whose every element belongs to two units: the labels of the other one.
    """

    ids: Tensor
    shape: tuple[int, ...]
    producer: int = -1
    parameter: str | None = None
    second: Tensor | None = None

    def full(self) -> Tensor:
        """The labels expanded (stride 0) to the full shape."""
        return self.ids.expand(self.shape)

    def varying(self) -> list[int]:
        """The dimensions along which the labels change."""
        return [d for d, size in enumerate(self.ids.shape) if size > 1]

    def vector(self, dim: int) -> Tensor:
        """Labels along `dim` (length ``shape[dim]``), where the other dimensions are constant."""
        ids = self.ids
        if ids.numel() != ids.shape[dim]:
            for other in range(ids.dim()):
                ids = ids if other == dim else ids.narrow(other, 0, 1)
        line = ids.reshape(-1)
        return line if line.numel() == self.shape[dim] else line.expand(self.shape[dim])

    @property
    def blank(self) -> bool:
        """No element belongs to a unit."""
        return self.parameter is None and not bool((self.ids > 0).any())


_numbers: list[Tensor] = []  # at most one, as long as the largest parameter that was looked at


def numbers(count: int) -> Tensor:
    """1 to `count`, never to be written to: all recordings share them, until :func:`forget_numbers`."""
    if not _numbers or _numbers[0].numel() < count:
        _numbers[:] = [torch.arange(1, count + 1, dtype=torch.int64)]
    return _numbers[0][:count]


def is_counting(ids: Tensor) -> bool:
    """`ids` are :func:`numbers`, in their order, for sure."""
    return bool(_numbers) and ids.is_contiguous() and ids.data_ptr() == _numbers[0].data_ptr()


def _is_shared(storage: torch.UntypedStorage) -> bool:
    return bool(_numbers) and storage.data_ptr() == _numbers[0].data_ptr()


def forget_numbers() -> None:
    """Give their memory back, and that of what was taken from them; what still views them goes on."""
    _numbers.clear()
    _taken.clear()


_taken: list[tuple[torch.Size, Sequence[Tensor | None], Tensor]] = []  # the last ones that were large
LARGE = 1 << 13  # elements from which on looking whether the same was taken before saves time
FEW = 64  # of these, and no more elements than
MANY = 1 << 25


def taken(ids: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """``ids[indices]``, never to be written to: large tables (a bias for every pair of positions) are indexed alike in
    every layer and every recording, and what is taken from :func:`numbers` is the same then."""
    if not is_counting(ids):
        return _indexed(ids, indices)
    for shape, before, found in _taken:
        if shape == ids.shape and len(before) == len(indices) and all(map(_same, before, indices)):
            return found
    found = _indexed(ids, indices)
    if found.numel() >= LARGE:
        # The network may write into an index later on.
        _taken.append((ids.shape, [one if one is None else one.clone() for one in indices], found))
        while len(_taken) > FEW or (len(_taken) > 1 and sum(one.numel() for _, _, one in _taken) > MANY):
            del _taken[0]
    return found


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and bool(torch.equal(one, other))


def _indexed(ids: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    found: Tensor = torch.ops.aten.index.Tensor(ids, indices)
    return found


def constant(value: int, shape: tuple[int, ...], producer: int = -1) -> Labels:
    """The same label everywhere."""
    return Labels(torch.full((1,) * len(shape), value, dtype=torch.int64), shape, producer)


def unknown(shape: tuple[int, ...]) -> Labels:
    """Made of parameters alone, but no rearrangement of one: as a weight it fixes what it reads."""
    return Labels(torch.full((1,) * len(shape), RIGID, dtype=torch.int64), shape, -1, "")


def along(vector: np.ndarray | Tensor, dim: int, shape: tuple[int, ...], producer: int = -1) -> Labels:
    """`vector` along `dim`, constant in the others."""
    line = np.asarray(vector)
    if line.size != shape[dim]:
        raise ValueError(f"{line.size} labels for {shape[dim]} elements")
    if line.size > 1 and line[0] == line[1] and (line == line[0]).all():
        line = line[:1]
    view = [1] * len(shape)
    view[dim] = line.size
    return Labels(torch.from_numpy(np.ascontiguousarray(line)).reshape(view), shape, producer)


def compact(ids: Tensor, shape: tuple[int, ...], producer: int = -1, parameter: str | None = None) -> Labels:
    """Labels from `ids` of shape `shape` (or already of size 1 in places), reduced along constant dimensions."""
    if ids.numel() != 1:
        for dim, size in enumerate(ids.shape):
            if size > 1 and ids.stride(dim) == 0:
                ids = ids.narrow(dim, 0, 1)
        for dim in _perhaps_constant(ids):
            first = ids.narrow(dim, 0, 1)
            # Most dimensions that change do so at once: look at one neighbour before comparing everything.
            if torch.equal(first, ids.narrow(dim, 1, 1)) and bool((ids == first).all()):
                ids = first
    storage = ids.untyped_storage()
    if ids.numel() * WORTH_COPYING <= storage.nbytes() // ids.element_size() and not _is_shared(storage):
        ids = ids.clone()  # a view would keep all that it was taken from
    return Labels(ids, shape, producer, parameter)


def _perhaps_constant(ids: Tensor) -> list[int]:
    """The dimensions along which the first two elements are the same: along no others are all."""
    array = ids.numpy()
    if not array.size:
        return [dim for dim, size in enumerate(array.shape) if size > 1]
    place = [0] * array.ndim
    first, found = array.item(*place), []
    for dim, size in enumerate(array.shape):
        if size > 1:
            place[dim] = 1
            if array.item(*place) == first:
                found.append(dim)
            place[dim] = 0
    return found


def reshape(labels: Labels, shape: tuple[int, ...]) -> Labels:
    """Labels after a reshape to `shape`, copying only the dimensions that are merged and not constant."""
    if labels.ids.numel() == 1:
        return Labels(labels.ids.reshape((1,) * len(shape)), shape, labels.producer, labels.parameter)
    pieces_in: list[int] = []
    pieces_out: list[int] = []
    for dims_in, dims_out in aligned_dims(labels.shape, shape):
        moving = any(labels.ids.shape[d] > 1 for d in dims_in)
        pieces_in += [labels.shape[d] if moving else 1 for d in dims_in]
        pieces_out += [shape[d] if moving else 1 for d in dims_out]
    return compact(labels.ids.expand(pieces_in).reshape(pieces_out), shape, labels.producer, labels.parameter)


def aligned_dims(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Split two shapes with equally many elements into runs of dimensions whose products agree."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        dims_in, dims_out = [], []
        size_in = size_out = 1
        if i < len(before):
            dims_in.append(i)
            size_in = before[i]
            i += 1
        if j < len(after):
            dims_out.append(j)
            size_out = after[j]
            j += 1
        while size_in != size_out:
            if (size_in < size_out and i < len(before)) or j >= len(after):
                dims_in.append(i)
                size_in *= before[i]
                i += 1
            else:
                dims_out.append(j)
                size_out *= after[j]
                j += 1
        runs.append((dims_in, dims_out))
    return runs


def reduce_ids(labels: Labels, dims: list[int]) -> Tensor:
    """The labels' size-1 slices at `dims` (for dimensions along which they do not change)."""
    ids = labels.ids
    for dim in dims:
        ids = ids.narrow(dim, 0, 1)
    return ids


def counted(labels: Labels) -> Labels:
    """Labels for counting elements alone: filler beside units takes those that lie at its place along one dimension."""
    loose = labels.ids == LOOSE
    if labels.parameter is not None or labels.blank or not bool(loose.any()):
        return labels
    for dim in labels.varying():
        others = [d for d in range(labels.ids.dim()) if d != dim]
        line = labels.ids.amax(others, keepdim=True) if others else labels.ids
        if bool(((labels.ids == line) | loose).all()):
            return Labels(torch.where(loose, line, labels.ids), labels.shape, labels.producer)
    return labels


def fraction(labels: Labels) -> float:
    """How many elements of the tensor each compact label stands for."""
    return prod(labels.shape) / max(1, labels.ids.numel())
