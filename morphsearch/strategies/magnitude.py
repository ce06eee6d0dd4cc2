"""``magnitude``: units whose filters are small leave (Li et al., "Pruning Filters for Efficient ConvNets", arXiv
1608.08710, section 3.1: ``s_j = sum |F_j|``).

The score of a unit is the mean over its members `m`, the layers with rows of it, of

    ||w_mu||_p / mean_v ||w_mv||_p,      p = 1 or 2,

the norm of its rows over the mean norm of that layer's units that are not zero. Divided so, layers compare in spite of
different fan-in and initialisation; with ``relative=False`` the norms count as they are, which is the paper's rule
within a layer. Coupled members, such as the layers that write to one residual stream, are averaged;
``coupling="max"`` takes the largest.

Nothing presses the units: the network is trained by its loss alone, scores are computed when they are asked for, and
the loop takes units away by rank (see :class:`~morphsearch.strategies.base.Strategy`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from morphsearch.strategies.base import Strategy
from morphsearch.strategies.judging import flag, nothing_to_judge, one_of, unjudged_groups
from morphsearch.strategies.places import ROWS, PerUnit, Place, places, rows_of

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph


class Magnitude(Strategy):
    """L1 or L2 norms of a unit's rows.

    Args:
        norm: ``"l1"`` or ``"l2"``.
        coupling: how the members of a unit make one score, ``"mean"`` or ``"max"``.
        relative: divide by the mean norm of the layer's units.

    Raises:
        UsageError: an argument out of range.
    """

    name = "magnitude"
    presses = False

    def __init__(self, *, norm: str = "l2", coupling: str = "mean", relative: bool = True) -> None:
        self.norm = one_of("norm", norm, ("l1", "l2"), self.name)
        self.coupling = one_of("coupling", coupling, ("mean", "max"), self.name)
        self.relative = flag("relative", relative)
        self._rows: list[Place] = []
        self._scored = torch.zeros(0, dtype=torch.bool)

    def attach(self, model: nn.Module, graph: ConvGraph) -> None:
        """Find the rows.

        Raises:
            UsageError: no unit that may leave has rows.
        """
        self._rows = [place for place in places(model, graph) if place.kind == ROWS]
        if not self._rows:
            raise nothing_to_judge(self.name, graph, "rows of a convolution or linear layer")
        units = np.concatenate([place.units for place in self._rows])
        self._units = PerUnit(units, graph.num_units)
        self._scored = self._units.present()
        self.notes = unjudged_groups(self.name, graph, self._scored, "no layer has rows of them")

    @torch.no_grad()
    def scores(self) -> Tensor:
        """`u` float32: of order 1 if relative. Units without rows have 0 (see :meth:`scored`)."""
        norms = []
        for place in self._rows:
            rows = rows_of(place.tensor.detach(), place.dim).float()
            norm = torch.linalg.vector_norm(rows, 1 if self.norm == "l1" else 2, dim=1)
            if self.relative:
                norm = norm / (norm.sum() / (norm > 0).sum().clamp(min=1)).clamp(min=torch.finfo(norm.dtype).tiny)
            norms.append(norm)
        values = torch.cat(norms)
        return self._units.mean(values) if self.coupling == "mean" else self._units.largest(values)

    def scored(self) -> Tensor:
        """`u` bool: units that may leave and have rows."""
        return self._scored
