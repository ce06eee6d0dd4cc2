"""One flat view of the scales of all norms, arranged by the unit that they belong to.

Built once; afterwards a step is one concatenation, one gather, arithmetic on whole vectors, one scatter and one fused
copy.

Letters: `n` scales of the network laid end to end, `k` units that have scales, `m` scales of one unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class Bucket:
    """Units with about equally many scales: rows ``start:stop`` of the `k` units, and their part of the gather."""

    start: int
    stop: int
    members: int
    offset: int

    def of(self, gathered: Tensor) -> Tensor:
        """`m x (stop - start)`: the gathered scales of these units, padded with zeros."""
        count = self.stop - self.start
        return gathered.narrow(0, self.offset, self.members * count).view(self.members, count)


class FlatScales:
    """Scales by unit.

    Args:
        parameters: 1-D tensors, the scales.
        units: for each of them, the unit of every element, -1 where it has none.
    """

    def __init__(self, parameters: Sequence[Tensor], units: Sequence[np.ndarray]) -> None:
        self.parameters = list(parameters)
        self._sizes = [parameter.numel() for parameter in parameters]
        unit_n = np.concatenate([np.asarray(u, np.int64) for u in units]) if units else np.zeros(0, np.int64)
        if unit_n.size != sum(self._sizes):
            raise ValueError(f"{unit_n.size} units for {sum(self._sizes)} scales")
        positions = np.nonzero(unit_n >= 0)[0]
        order = positions[np.argsort(unit_n[positions], kind="stable")]
        found, first, counts = np.unique(unit_n[order], return_index=True, return_counts=True)
        self.buckets: list[Bucket] = []
        padding = unit_n.size
        gather: list[np.ndarray] = []
        ordered: list[np.ndarray] = []
        for members in _bucket_sizes(counts):
            chosen = np.nonzero((counts <= members) & (counts > _previous(members)))[0]
            table = np.full((members, chosen.size), padding, np.int64)
            for place in range(members):
                has = counts[chosen] > place
                table[place, has] = order[first[chosen[has]] + place]
            start = sum(part.size for part in ordered)
            offset = sum(part.size for part in gather)
            self.buckets.append(Bucket(start, start + chosen.size, members, offset))
            gather.append(table.reshape(-1))
            ordered.append(found[chosen])
        self._units = torch.from_numpy(np.concatenate(ordered) if ordered else np.zeros(0, np.int64))
        self._gather = torch.from_numpy(np.concatenate(gather) if gather else np.zeros(0, np.int64))

    @property
    def device(self) -> torch.device:
        """Where the scales are now: a model may move after it was looked at."""
        return self.parameters[0].device if self.parameters else torch.device("cpu")

    @property
    def units(self) -> Tensor:
        """`k`: flat index of every unit that has a scale, on :attr:`device`."""
        self._follow()
        return self._units

    def _follow(self) -> None:
        if self._units.device != self.device:
            self._units, self._gather = self._units.to(self.device), self._gather.to(self.device)

    def _flat(self) -> Tensor:
        """`n + 1`: all scales, and a zero to pad with."""
        self._follow()
        parts = [parameter.detach() for parameter in self.parameters]
        return torch.cat([*parts, torch.zeros(1, device=self.device, dtype=parts[0].dtype)])

    @torch.no_grad()
    def largest(self) -> Tensor:
        """`k`: the largest magnitude among the scales of each unit, in the order of :attr:`units`."""
        if not self.parameters:
            return torch.zeros(0)
        gathered = self._flat().index_select(0, self._gather).abs_()
        return torch.cat([bucket.of(gathered).amax(0) for bucket in self.buckets])

    @torch.no_grad()
    def norms(self) -> Tensor:
        """`k`: the L2 norm of the scales of each unit, in the order of :attr:`units`."""
        if not self.parameters:
            return torch.zeros(0)
        gathered = self._flat().index_select(0, self._gather)
        squares = gathered.square_()
        return torch.cat([bucket.of(squares).sum(0) for bucket in self.buckets]).sqrt_()

    @torch.no_grad()
    def apply(self, shrink: Callable[[Tensor, Tensor], Tensor], amounts: Tensor) -> None:
        """Replace the magnitudes `a` (`m x k'`, a bucket at a time) by ``shrink(a, amounts of those units)``.

        Signs stay. `shrink` must leave zeros at zero, since buckets are padded with them.
        """
        if not self.parameters:
            return
        flat = self._flat()
        gathered = flat.index_select(0, self._gather)
        magnitudes = gathered.abs()
        for bucket in self.buckets:
            block = bucket.of(magnitudes)
            block.copy_(shrink(block, amounts[bucket.start : bucket.stop]))
        flat.index_copy_(0, self._gather, magnitudes.copysign_(gathered))
        parts = list(flat[:-1].split(self._sizes))
        torch._foreach_copy_(self.parameters, parts)


def _bucket_sizes(counts: np.ndarray) -> list[int]:
    """1, 2, 4, 8, ...: the buckets that `counts` need; padding at most doubles the work."""
    sizes, size = [], 1
    while counts.size and size < 2 * int(counts.max()):
        if ((counts <= size) & (counts > _previous(size))).any():
            sizes.append(size)
        size *= 2
    return sizes


def _previous(size: int) -> int:
    return size // 2
