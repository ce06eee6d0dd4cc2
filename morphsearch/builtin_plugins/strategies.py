"""Built-in strategies."""

from __future__ import annotations

from typing import Any

from morphsearch.hookspecs import hookimpl
from morphsearch.types import StrategyRecord


def _gamma_l1(**options: Any) -> Any:
    from morphsearch.strategies.gamma_l1 import GammaL1

    return GammaL1(**options)


def _uniform(**options: Any) -> Any:
    from morphsearch.strategies.uniform import Uniform

    return Uniform(**options)


def _random(**options: Any) -> Any:
    from morphsearch.strategies.random import Random

    return Random(**options)


@hookimpl
def morphsearch_strategies() -> list[StrategyRecord]:
    """``gamma-l1`` and the two honest baselines, ``uniform`` and ``random``."""
    return [
        StrategyRecord("gamma-l1", "L1 on the scales of the norms, priced by marginal cost (MorphNet)", _gamma_l1),
        StrategyRecord("uniform", "Baseline: every group narrowed by the same factor, no training", _uniform),
        StrategyRecord("random", "Baseline: random widths of the same cost, no training", _random),
    ]
