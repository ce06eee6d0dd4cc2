"""Parameters that hold several dimensions as one: kernels that lie flat in a bank, `e x (o i k k)`.

What the one dimension consists of shows where the parameter is read. The tape then counts its slots along the
dimensions that it stands for, and whoever touches the tensor itself unfolds it first.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Folded:
    """Dimension `at` of a parameter stands for `count` dimensions of `shape`, the whole that it is read as."""

    at: int
    count: int
    shape: tuple[int, ...]

    def dim(self, dim: int) -> int:
        """The parameter's own dimension that holds `dim` of `shape`."""
        return dim if dim < self.at else max(self.at, dim - self.count + 1)

    def spread(self, values: np.ndarray, dim: int) -> np.ndarray:
        """One value for each slice along `dim` of `shape`, as one for each slice of the parameter's own dimension."""
        if not self.at <= dim < self.at + self.count:
            return values
        inner = self.shape[self.at : self.at + self.count]
        place = dim - self.at
        return np.tile(np.repeat(values, prod(inner[place + 1 :])), prod(inner[:place]))

    def sized(self, sizes: dict[int, int]) -> Folded:
        """The same with other sizes along some dimensions of `shape`."""
        return Folded(self.at, self.count, tuple(sizes.get(dim, size) for dim, size in enumerate(self.shape)))

    def unfold(self, tensor: Tensor) -> Tensor:
        """`tensor` with all dimensions: the same memory, where it lies in order."""
        return tensor.reshape(self.shape)

    def fold(self, tensor: Tensor) -> Tensor:
        """The way back, at any sizes."""
        return tensor.flatten(self.at, self.at + self.count - 1)


def unfolded(tensor: Tensor, layout: Folded | None) -> Tensor:
    """`tensor`, with all dimensions where it holds several as one."""
    return tensor if layout is None else layout.unfold(tensor)


def of_sizes(layouts: dict[str, Folded], sizes: dict[tuple[str, int], int]) -> dict[str, Folded]:
    """The layouts of a network at other widths, from the sizes of its slots."""
    return {
        name: layout.sized({dim: size for (of, dim), size in sizes.items() if of == name})
        for name, layout in layouts.items()
    }


__all__ = ["Folded", "of_sizes", "unfolded"]
