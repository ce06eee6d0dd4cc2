"""Built-in strategies."""

from __future__ import annotations

from typing import Any

from morphsearch.hookspecs import hookimpl
from morphsearch.types import StrategyRecord


def _gamma_l1(**options: Any) -> Any:
    from morphsearch.strategies.gamma_l1 import GammaL1

    return GammaL1(**options)


def _group_lasso(**options: Any) -> Any:
    from morphsearch.strategies.group_lasso import GroupLasso

    return GroupLasso(**options)


def _logistic_sigmoid(**options: Any) -> Any:
    from morphsearch.strategies.logistic_sigmoid import LogisticSigmoid

    return LogisticSigmoid(**options)


def _magnitude(**options: Any) -> Any:
    from morphsearch.strategies.magnitude import Magnitude

    return Magnitude(**options)


def _taylor(**options: Any) -> Any:
    from morphsearch.strategies.taylor import Taylor

    return Taylor(**options)


def _slimmable(**options: Any) -> Any:
    from morphsearch.strategies.slimmable import Slimmable

    return Slimmable(**options)


def _trials(**options: Any) -> Any:
    from morphsearch.strategies.trials import Trials

    return Trials(**options)


def _uniform(**options: Any) -> Any:
    from morphsearch.strategies.uniform import Uniform

    return Uniform(**options)


def _random(**options: Any) -> Any:
    from morphsearch.strategies.random import Random

    return Random(**options)


def _magnitude_sparsity(**options: Any) -> Any:
    from morphsearch.sparsity.strategy import MagnitudeSparsity

    return MagnitudeSparsity(**options)


@hookimpl
def morphsearch_strategies() -> list[StrategyRecord]:
    """Those that press (gamma-l1, group-lasso, logistic-sigmoid), rank, judge or try out; and baselines."""
    return [
        StrategyRecord("gamma-l1", "L1 on the scales of the norms, priced by marginal cost (MorphNet)", _gamma_l1),
        StrategyRecord("group-lasso", "Group lasso on rows of weights; for networks without norms", _group_lasso),
        StrategyRecord("logistic-sigmoid", "Gates that are open with a learned probability (FiGS)", _logistic_sigmoid),
        StrategyRecord("magnitude", "Small filters leave by rank: L1 or L2 norms of rows", _magnitude),
        StrategyRecord("taylor", "Units leave by rank of the first-order change of the loss, accumulated", _taylor),
        StrategyRecord(
            "slimmable",
            "Trained at many widths, then narrowed greedily by held-out loss",
            _slimmable,
            iterations=1,
            steps=3000,
            recipe={"schedule": "cosine", "lr": 0.1},
        ),
        StrategyRecord(
            "trials",
            "Shapes of the budget's cost, trained from scratch for a short while; the best stays",
            _trials,
            iterations=1,
            steps=6000,
            recipe={"schedule": "cosine", "lr": 0.1},
        ),
        StrategyRecord("uniform", "Baseline: every group narrowed by the same factor, no training", _uniform),
        StrategyRecord("random", "Baseline: random widths of the same cost, no training", _random),
        StrategyRecord(
            "magnitude-sparsity",
            "Single weights of least magnitude, for `sparsify` (not `search`)",
            _magnitude_sparsity,
        ),
    ]
