"""Baseline: random widths at the same cost, which any search has to beat (cf. arXiv 1902.08142)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphsearch.errors import UsageError
from morphsearch.strategies.base import Fits, TrainingFree, Widths
from morphsearch.strategies.widths import largest_multiplier, meant

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph


class Random(TrainingFree):
    """The widths of the network, each times a log-normal factor of its own, scaled together to the budget.

    Args:
        sigma: standard deviation of the logarithm of a group's factor; 0 gives the uniform baseline.
        limit: the common multiplier never exceeds it.

    Raises:
        UsageError: sigma is negative.
    """

    name = "random"

    def __init__(self, *, sigma: float = 0.5, limit: float = 64.0) -> None:
        if not 0 <= sigma <= 5:
            raise UsageError(f"sigma={sigma!r}", "sigma is a number from 0 to 5", "0.5 gives factors of 0.6 to 1.6")
        self.sigma, self.limit = sigma, limit

    def propose(self, graph: ConvGraph, fits: Fits, rng: np.random.Generator, *, round_to: int = 1) -> Widths:
        """One draw for each group, frozen ones included so that freezing one does not move the others."""
        factors = np.exp(self.sigma * rng.standard_normal(len(graph.groups)))
        base = {
            name: width * float(factor) for (name, width), factor in zip(graph.widths.items(), factors, strict=True)
        }
        multiplier, widths = largest_multiplier(graph, base, fits, self.limit, round_to=round_to)
        self.most = {name: self.limit * width for name, width in base.items()}
        self.meant = meant(graph, multiplier, base, round_to)
        return widths
