"""Costs that are the largest of many sums: a peak over time, as a function of the widths.

Notation: `m` moments, `s` things that are there at some of them (storages, parameters), `g` groups, `w` their widths.
The peak is ``max over m of sum over s of P[m, s] * size_s(w)``, with sizes that are polynomials. It is continuous and
piecewise polynomial: its gradient is that of the moment that is largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from morphsearch.costs.polynomial import Polynomial
from morphsearch.costs.table import PolynomialTable


@dataclass(frozen=True)
class Part:
    """Something that is in memory at times: its `size`, and the `layer` that it belongs to (module path)."""

    size: Polynomial
    layer: str


class PeakCost:
    """A :class:`~morphsearch.types.BoundCost` that is a maximum over moments.

    Args:
        groups: how many groups the graph has.
        parts: what is there at times.
        moments: for every moment the indices of the parts that are there.
        unit: of the sizes.
        uncounted: what has no size here, by name.
        notes: what the figures rest on, a sentence each.
    """

    whole = False

    def __init__(
        self,
        groups: int,
        parts: Sequence[Part],
        moments: Sequence[frozenset[int]],
        unit: str,
        *,
        uncounted: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.unit, self.uncounted, self.notes = unit, tuple(uncounted), tuple(notes)
        self.parts = list(parts)
        self._present = torch.from_numpy(_maximal(moments, len(self.parts)).astype(np.float64))
        self._table = PolynomialTable([part.size for part in self.parts], groups)

    def _at(self, widths: Tensor) -> Tensor:
        """`m`: what is there at every moment."""
        return self._present @ self._table.values(widths)

    def total(self, widths: Tensor) -> Tensor:
        """Scalar float64: the peak; `widths` is `g`, float64."""
        return self._at(widths).max()

    def per_layer(self, widths: Tensor) -> dict[str, Tensor]:
        """Scalar per layer: what it has in memory at the peak; the values add up to :meth:`total`."""
        sizes = self._table.values(widths)
        peak = int((self._present @ sizes).argmax())
        layers: dict[str, Tensor] = {}
        for index in self._present[peak].nonzero().flatten().tolist():
            layer = self.parts[index].layer
            layers[layer] = layers.get(layer, sizes.new_zeros(())) + sizes[index]
        return layers

    def marginal(self, widths: Tensor) -> Tensor:
        """`g`: by how much one more unit of each group raises the peak, exactly: ``total(w + e_g) - total(w)``."""
        at = self._at(widths)
        rises = self._present @ self._table.dense_rises(widths)
        return (at[:, None] + rises).amax(0) - at.max()

    def pressure(self, widths: Tensor, limit: float) -> Tensor:
        """`g`: how much a unit of each group counts in getting the peak under `limit`.

        Every moment above `limit` has to come down, not only the largest, so the rises of all of them count, each by
        how far it is above (the gradient of ``sum of max(0, moment - limit)^2 / 2``); below `limit`, those of the
        moments within a tenth of the largest.
        """
        at = self._at(widths)
        above = (at - min(limit, 0.9 * float(at.max()))).clamp(min=0.0)
        weights = above / above.sum()
        return weights @ (self._present @ self._table.dense_rises(widths))


def _maximal(moments: Sequence[frozenset[int]], parts: int) -> np.ndarray:
    """`m x s` bool: the moments that are no part of another one, each once, in order.

    Nothing is smaller than zero, so only they can be a peak.
    """
    distinct = list(dict.fromkeys(moments)) or [frozenset()]
    present = np.zeros((len(distinct), parts), bool)
    for row, there in enumerate(distinct):
        present[row, list(there)] = True
    sizes = present.sum(1)
    both = present.astype(np.float32) @ present.astype(np.float32).T  # counts below 2**24 are exact
    within = (both == sizes[:, None]) & (sizes[:, None] < sizes[None, :])
    found: np.ndarray = present[~within.any(1)]
    return found
