"""What a user leaves open, decided from the network, the budget and the data: the strategy and how long to train.

That parameters and FLOPs call for trials is measured (docs/experiments.md); the other rules are conventions, which
docs/how-to/choose-a-strategy.md gives reasons for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from morphsearch import plugins
from morphsearch.errors import UnknownName, UsageError
from morphsearch.loop.budget_text import parse_schedule
from morphsearch.strategies.places import places, speaking
from morphsearch.strategies.trials import MOST_TRIALS
from morphsearch.types import StrategyRecord

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

AUTO = "auto"
NORMED = 0.5  # share of the free units that norms must scale, for norms to be judged by
LEAST, MOST = 1.0, 50.0  # epochs: all images are seen once, and none so often that nothing is new
FEW_STEPS = 1000  # of a trial: on CIFAR-10 trials of 700 steps pointed the wrong way, and such of 1,200 did not
#: Arguments that only strategies with a training under pressure, or of several morphs, have a use for.
PRESSING = ("strength", "threshold", "shrink_to", "steps", "warmup", "iterations")


def by_budget(strategy: str, budget: Sequence[str], given: Mapping[str, Any]) -> str:
    """The strategy that the budgets call for, where it is left open and candidates can be trained.

    Shapes that are tried out win where parameters are what counts, by so much that short trials see it.

    Args:
        given: the search's other arguments; what a user sets there may rule a strategy out.

    Returns:
        A name, or :data:`AUTO`: :func:`by_data` or :func:`by_network` decides.

    Raises:
        UsageError: a budget that does not parse, or options of a strategy that is not named.
    """
    if strategy != AUTO:
        return strategy
    check_named(strategy, given.get("strategy_options") or {})
    return "trials" if _bounded(budget) == {"params"} and not _pressed(budget, given) else AUTO


def by_data(strategy: str, budget: Sequence[str], given: Mapping[str, Any], steps: int) -> str:
    """The strategy that the data allows, where budgets and network leave it open: trials where FLOPs are bounded.

    What trials find there is at best a little ahead of a uniform scaling, and what norms say behind it; but only trials
    that are long enough tell anything.

    Args:
        steps: that all trials together would train for.
    """
    if strategy != AUTO or steps < MOST_TRIALS * FEW_STEPS:
        return strategy
    return "trials" if _bounded(budget) <= {"params", "flops"} and not _pressed(budget, given) else AUTO


def _bounded(budget: Sequence[str]) -> set[str]:
    return {one.metric for text in budget for one in parse_schedule(text)}


def _pressed(budget: Sequence[str], given: Mapping[str, Any]) -> bool:
    """Whether something is asked for that trials have no use for."""
    kept = given.get("expand") is False  # candidates are wider than the network in places
    priced = given.get("pricing") not in (None, "share")
    return (
        kept or priced or any("," in text for text in budget) or any(given.get(name) is not None for name in PRESSING)
    )


def check_named(strategy: str, options: Mapping[str, Any]) -> None:
    """Refuse options of a strategy that is left open.

    Raises:
        UsageError: as said.
    """
    if strategy == AUTO and options:
        raise UsageError(
            f"options for a strategy that is left open: {', '.join(options)}",
            "every strategy has options of its own",
            "name the strategy that they are for",
        )


def by_network(strategy: str, graph: ConvGraph, strength: float | None) -> str:
    """The strategy that the network calls for, where it is left open: norms are judged by where there are enough that
    are trained."""
    if strategy != AUTO:
        return strategy
    free = np.array([not group.frozen for group in graph.groups.values()], bool)[np.asarray(graph.unit_group)]
    scaled = np.zeros(graph.num_units, bool)
    resting = {name for name, p in graph.model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    for binding in graph.bindings:
        if binding.role == "norm" and binding.tensor not in resting:
            units = np.asarray(binding.units, np.int64)
            scaled[units[units >= 0]] = True
    if not free.any() or (scaled & free).sum() >= NORMED * free.sum():
        return "gamma-l1"
    ranked = strength is None  # nothing presses what is ranked
    if not any(place.tensor.requires_grad for place in speaking(places(graph.model, graph))):
        return "magnitude" if ranked else "logistic-sigmoid"  # frozen: what judges parameters as they are
    return "taylor" if ranked else "group-lasso"


def why(strategy: str) -> str:
    """Why a strategy was chosen that nobody named, as a note of the plan."""
    reasons = {
        "trials": "the budget counts FLOPs or parameters, and shapes of that cost can be tried out",
        "gamma-l1": "norms scale most units",
        "taylor": "norms scale few units",
        "magnitude": "what units speak through is frozen",
        "logistic-sigmoid": "what units speak through is frozen, and a strength wants something to press",
        "group-lasso": "norms scale few units, and a strength wants something to press",
    }
    return f"{strategy} was chosen, since {reasons[strategy]} (--strategy NAME takes another)."


def wants_of(strategy: str) -> StrategyRecord:
    """The record of a strategy; for names that nobody registered (which is said later) one with the usual wants."""
    try:
        found = plugins.record("strategies", strategy)
    except UnknownName:
        found = None
    return found if isinstance(found, StrategyRecord) else StrategyRecord(strategy, "", lambda: None)


def epochs_for(strategy: str, images: int | None, batch_size: int) -> float:
    """Epochs of training before a morph: as many steps as the strategy wants, in halves of an epoch.

    Args:
        images: of the training part; None where nobody knows yet.
    """
    if not images:
        return LEAST
    wanted = wants_of(strategy).steps * batch_size / images
    return min(MOST, max(LEAST, round(2 * wanted) / 2))
