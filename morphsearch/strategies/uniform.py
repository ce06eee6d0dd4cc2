"""Baseline: every group narrowed, or widened, by the same factor (MobileNet's multiplier, arXiv 1704.04861)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphsearch.strategies.base import Fits, TrainingFree, Widths
from morphsearch.strategies.widths import largest_multiplier, meant

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph


class Uniform(TrainingFree):
    """The widths of the network times the largest multiplier that fits.

    Args:
        limit: the multiplier never exceeds it.
    """

    name = "uniform"

    def __init__(self, *, limit: float = 64.0) -> None:
        self.limit = limit

    def propose(self, graph: ConvGraph, fits: Fits, rng: np.random.Generator, *, round_to: int = 1) -> Widths:
        """See :meth:`Strategy.propose <morphsearch.strategies.base.Strategy.propose>`; `rng` is not used."""
        multiplier, widths = largest_multiplier(graph, graph.widths, fits, self.limit, round_to=round_to)
        self.most = {name: self.limit * width for name, width in graph.widths.items()}
        self.meant = meant(graph, multiplier, graph.widths, round_to)
        return widths
