"""What a found architecture must beat: the seed scaled by one factor, and widths drawn at random, at the same cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from morphsearch.errors import UnknownName
from morphsearch.loop.architecture import Architecture
from morphsearch.loop.schema import wrong_field
from morphsearch.loop.selection import fill_up
from morphsearch.loop.settling import settle
from morphsearch.strategies.registry import get as get_strategy
from morphsearch.strategies.widths import lowest

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph
    from morphsearch.loop.budget import Budgets

BASELINES = ("uniform", "random", "seed")


def baseline(kind: str, found: Architecture, graph: ConvGraph, budgets: Budgets, draw: int) -> Architecture:
    """An architecture of the same seed that costs what `found` costs, or as little less as whole units allow.

    Widths are multiples of what those of `found` are multiples of (``round_to`` of its search), so that neither has
    more freedom than the other; where no such widths are as cheap, since `found` left branches out, they are single
    units.

    Args:
        kind: "uniform", "random" or "seed" (the seed itself, whatever it costs).
        found: the architecture to compare with.
        graph: the seed's graph. budgets: bound to it; the metrics that they bound are those matched.
        draw: which random draw.

    Raises:
        UnknownName: another kind.
    """
    if kind not in BASELINES:
        raise UnknownName.of("baseline", kind, BASELINES)
    if kind == "seed":
        return _architecture(found, graph, budgets, dict(graph.widths), "seed", None)
    fits = same_cost(found, budgets)
    rng = np.random.default_rng(draw)
    strategy = get_strategy(kind)
    rounding = rounding_of(found)
    step = rounding if fits(lowest(graph, round_to=rounding)) else 1
    widths = strategy.propose(graph, fits, rng, round_to=step)
    assert widths is not None
    meant, load = getattr(strategy, "meant", None), load_beside(found, budgets)
    filled = fill_up(graph, widths, fits, base=meant, round_to=step, load=load)
    widths = settle(graph, filled, budgets, round_to=step, fits=fits)
    return _architecture(found, graph, budgets, widths, kind, draw if kind == "random" else None, step)


def rounding_of(found: Architecture) -> int:
    """What the widths of an architecture were rounded to, by its record; 1 where it does not say.

    Raises:
        InputError: the record says something that is no multiple.
    """
    value = found.record.get("round_to", 1)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise wrong_field(
            found.path or Path(found.name), ["record", "round_to"], f"{value!r} is no whole number from 1"
        )
    return value


def same_cost(found: Architecture, budgets: Budgets) -> Callable[[dict[str, int]], bool]:
    """Whether widths cost no more than `found`, in every metric that has a budget."""
    limits = _limits(found, budgets)

    def fits(widths: dict[str, int]) -> bool:
        costs = budgets.costs(widths)
        return all(costs[metric] <= limit for metric, limit in limits.items())

    return fits


def load_beside(found: Architecture, budgets: Budgets) -> Callable[[dict[str, int]], float]:
    """What widths cost, as a share of what `found` costs: the largest share of all metrics that have a budget."""
    limits = _limits(found, budgets)

    def load(widths: dict[str, int]) -> float:
        costs = budgets.costs(widths)
        return max(costs[metric] / limit if limit else 1.0 for metric, limit in limits.items())

    return load


def _limits(found: Architecture, budgets: Budgets) -> dict[str, float]:
    return {metric: float(found.costs[metric]["total"]) for metric in budgets.metrics}


def _architecture(
    found: Architecture,
    graph: ConvGraph,
    budgets: Budgets,
    widths: dict[str, int],
    kind: str,
    draw: int | None,
    round_to: int = 1,
) -> Architecture:
    record: dict[str, Any] = {"baseline_of": found.name, "round_to": round_to}
    if draw is not None:
        record["draw"] = draw
    return Architecture(
        name=kind if draw is None else f"{kind}-{draw}",
        seed_spec=found.seed_spec,
        inputs=found.inputs,
        widths=widths,
        seed_widths=dict(graph.widths),
        floors={name: group.floor for name, group in graph.groups.items()},
        costs=budgets.described(widths),
        budgets=found.budgets,
        strategy=kind,
        parent=None,
        decisions=found.decisions,
        record=record,
    )
