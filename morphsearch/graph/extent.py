"""Sizes as functions of the group widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Extent:
    """A size that is linear in the widths: ``const + sum_g coefficients[g] * widths[g]``.

    `coefficients` maps the position of a group in ``graph.groups`` to how many elements each of its units adds.
    """

    const: float = 0.0
    coefficients: Mapping[int, float] = field(default_factory=dict)

    def at(self, widths: Sequence[float] | np.ndarray | Any) -> Any:
        """The size at `widths` (one entry a group); a tensor of widths gives a differentiable tensor."""
        total: Any = self.const
        for group, coefficient in self.coefficients.items():
            total = total + coefficient * widths[group]
        return total

    def __add__(self, other: Extent | float) -> Extent:
        if not isinstance(other, Extent):
            return Extent(self.const + other, self.coefficients)
        merged = dict(self.coefficients)
        for group, coefficient in other.coefficients.items():
            merged[group] = merged.get(group, 0.0) + coefficient
        return Extent(self.const + other.const, merged)

    __radd__ = __add__

    def __mul__(self, factor: float) -> Extent:
        return Extent(self.const * factor, {g: c * factor for g, c in self.coefficients.items()})

    __rmul__ = __mul__

    @classmethod
    def count(cls, groups: np.ndarray, units: np.ndarray, unit_group: np.ndarray, times: float = 1.0) -> Extent:
        """The extent of elements whose unit is `units` (-1: fixed); every element counts `times`.

        A unit that owns `k` of the elements adds `k * times` per unit of its group; the units of one group own equally
        many (that is what makes them one group), so the number of elements is divided by the group's size `groups`.
        """
        flat = np.asarray(units).reshape(-1)
        owned = flat[flat >= 0]
        const = float(flat.size - owned.size) * times
        totals = np.bincount(unit_group[owned], minlength=len(groups)) if owned.size else np.zeros(0)
        found = np.nonzero(totals)[0]
        return cls(const, {int(g): float(totals[g]) / float(groups[g]) * times for g in found})
