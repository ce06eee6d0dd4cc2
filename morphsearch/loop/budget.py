"""Budgets: ``flops=50%``, ``params<=1.2M``, ``latency<=8ms``; one or several at once, or a falling schedule of them.

``flops=80%,65%,50%`` is a schedule: the first morph meets 80%, the next goes on from its network to 65%, and so on. A
budget without a schedule holds in all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from morphsearch.costs import bind, vector
from morphsearch.costs.pricing import number
from morphsearch.errors import BudgetError, UsageError
from morphsearch.loop.budget_text import Budget, as_list, length_of, parse_budget, parse_schedule, schedule_length
from morphsearch.strategies.widths import largest_multiplier, lowest
from morphsearch.types import BoundCost

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

__all__ = [
    "Budget",
    "BudgetRow",
    "Budgets",
    "figure",
    "impossible",
    "parse_budget",
    "parse_schedule",
    "schedule_length",
]


FIXED = 0.1  # of the seed's cost that no widths take away: more is worth a word where a budget comes near it
LITTLE_ROOM = 0.25  # of what widths can change
TIGHT = (
    "{text} leaves {share:.0f}% of what widths can change: the narrowest network costs {least:.3g} of the "
    "seed's {seed:.3g} {unit} already, so most layers end with a few units, and accuracy with them. A larger "
    "budget, or larger batches and images where the cost depends on them, leave more to choose."
)


@dataclass(frozen=True)
class BudgetRow:
    """A budget beside what is possible: `requested`, the `seed`'s cost and the `lowest` that the network can reach.

    `uniform` is the cost of the seed scaled by the largest factor that meets all budgets (None where none does), and
    `binds` says whether this budget is then the fullest. `holds` names the dearest layers at the lowest.
    """

    text: str
    metric: str
    unit: str
    requested: float
    seed: float
    lowest: float
    satisfiable: bool
    uniform: float | None = None
    binds: bool = False
    holds: tuple[str, ...] = ()


class Budgets:
    """Budgets bound to a graph: every question about whether widths fit is asked here.

    Args:
        graph: the seed's graph; shares are shares of its cost.
        texts: one or more budgets or schedules of budgets.
        round_to: widths are multiples of it.
        hardware: what ``latency`` is counted on, see :func:`morphsearch.costs.cost`.

    Attributes:
        stages: how many budgets follow one another. stage: the present one, from 0.
    """

    def __init__(
        self, graph: ConvGraph, texts: str | Sequence[str], *, round_to: int = 1, hardware: Any = None
    ) -> None:
        self.schedules = [parse_schedule(text) for text in as_list(texts)]
        if not self.schedules:
            raise UsageError("no budget is given", "a search needs a bound to search under", "add --budget flops=50%")
        self.stages, self.stage = length_of(self.schedules), 0
        self.round_to, self.hardware = round_to, hardware
        self._bind(graph)
        self.seed_costs = self.costs(graph.widths)

    @property
    def budgets(self) -> list[Budget]:
        """Those of the present stage."""
        return [schedule[min(self.stage, len(schedule) - 1)] for schedule in self.schedules]

    @property
    def limits(self) -> list[float]:
        """The bound of each of :attr:`budgets`."""
        return [budget.limit(self.seed_costs[budget.metric]) for budget in self.budgets]

    @property
    def last(self) -> bool:
        """Whether the present stage is the last."""
        return self.stage == self.stages - 1

    def following(self) -> Budgets:
        """The next stage; the last is its own."""
        twin = copy.copy(self)
        twin.stage = min(self.stage + 1, self.stages - 1)
        return twin

    def _bind(self, graph: ConvGraph) -> None:
        self.graph = graph
        names = dict.fromkeys([*self.metrics, "flops", "params"])
        self.bound: dict[str, BoundCost] = {name: bind(graph, name, self.hardware) for name in names}

    def rebound(self, graph: ConvGraph) -> Budgets:
        """The same limits, counted on the same network as it is now (the seed's groups at other widths)."""
        twin = copy.copy(self)
        twin._bind(graph)
        return twin

    @property
    def metrics(self) -> list[str]:
        """Names of the cost models that the budgets use, in order."""
        return list(dict.fromkeys(schedule[0].metric for schedule in self.schedules))

    def costs(self, widths: Mapping[str, int]) -> dict[str, int | float]:
        """Every cost at `widths`: those of the budgets, FLOPs and parameters."""
        point = vector(self.graph, widths)
        return {name: self._cost(name, point) for name in self.bound}

    def _cost(self, metric: str, point: Tensor) -> int | float:
        bound = self.bound[metric]
        return number(bound.total(point), bool(getattr(bound, "whole", False)))

    def unit(self, metric: str) -> str:
        """The unit of a cost."""
        return str(self.bound[metric].unit)

    def described(self, widths: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Every cost at `widths` with its unit, as files hold it."""
        return {name: {"total": total, "unit": self.unit(name)} for name, total in self.costs(widths).items()}

    def record(self) -> list[dict[str, Any]]:
        """What the present stage asks, in absolute numbers, as files hold it."""
        return [self._described(budget) for budget in self.budgets]

    def record_all(self) -> list[dict[str, Any]]:
        """What all stages ask, in their order, as files hold it."""
        return [self._described(budget) for budget in self._all()]

    def _described(self, budget: Budget) -> dict[str, Any]:
        limit = budget.limit(self.seed_costs[budget.metric])
        return {"text": budget.text, "metric": budget.metric, "limit": limit, "unit": self.unit(budget.metric)}

    def _all(self) -> list[Budget]:
        """The budgets of all stages, each once: stage by stage."""
        stages = [
            [schedule[min(stage, len(schedule) - 1)] for schedule in self.schedules] for stage in range(self.stages)
        ]
        return list(dict.fromkeys(budget for stage in stages for budget in stage))

    def _limited(self) -> list[tuple[Budget, float]]:
        return list(zip(self.budgets, self.limits, strict=True))

    def fits(self, widths: Mapping[str, int], share: float = 1.0) -> bool:
        """Whether every budget (times `share`) holds."""
        point = vector(self.graph, widths)
        return all(self._cost(budget.metric, point) <= limit * share for budget, limit in self._limited())

    def load(self, widths: Mapping[str, int]) -> float:
        """Cost over limit of the budget that binds most; 1 is exactly full."""
        return max(self._loads(vector(self.graph, widths)))

    @property
    def notes(self) -> list[str]:
        """What the costs that are bounded rest on, and budgets that leave little to choose, a sentence each."""
        resting = [f"{name}: {note}" for name in self.metrics for note in getattr(self.bound[name], "notes", ())]
        lowest_costs = self.costs(lowest(self.graph, round_to=self.round_to))
        return resting + [note for budget in self._all() if (note := self._tight(budget, lowest_costs[budget.metric]))]

    def _tight(self, budget: Budget, least: float) -> str:
        """A word on a budget that leaves little of what widths can change, since much of the cost is there at any
        widths (latency, of which launches take their part); else nothing."""
        seed = self.seed_costs[budget.metric]
        limit = budget.limit(seed)
        if not least <= limit < seed or least < FIXED * seed or limit - least >= LITTLE_ROOM * (seed - least):
            return ""
        share = 100 * (limit - least) / (seed - least)
        return TIGHT.format(text=budget.text, share=share, least=least, seed=seed, unit=self.unit(budget.metric))

    def loads(self, widths: Mapping[str, int]) -> dict[str, float]:
        """Cost over limit of every budget of the present stage, by its text."""
        texts = [budget.text for budget in self.budgets]
        return dict(zip(texts, self._loads(vector(self.graph, widths)), strict=True))

    def binding(self, widths: Mapping[str, int]) -> str:
        """The text of the budget that is fullest at `widths`: the one that binds."""
        loads = self.loads(widths)
        return max(loads, key=loads.__getitem__)

    def _loads(self, point: Tensor) -> list[float]:
        return [float(self.bound[budget.metric].total(point)) / limit for budget, limit in self._limited()]

    def prices(self, widths: Mapping[str, int], share: float = 1.0) -> Tensor:
        """`g` float64: marginal price of a unit of each group, every budget's in shares of its limit, summed.

        Only budgets of which `share`, the target, is exceeded or nearly so (within a tenth) count; where none is, all
        do.
        """
        point = vector(self.graph, widths)
        loads = self._loads(point)
        binding = [load > 0.9 * share for load in loads]
        total = torch.zeros(len(self.graph.groups), dtype=torch.float64)
        for (budget, limit), counts in zip(self._limited(), binding, strict=True):
            if counts or not any(binding):
                total = total + _prices(self.bound[budget.metric], point, limit * share) / limit
        return total

    def rows(self) -> list[BudgetRow]:
        """Each budget, of all stages, beside the seed's cost and the lowest possible one."""
        least = lowest(self.graph, round_to=self.round_to)
        costs = self.costs(least)
        uniform = self._uniform()
        found = []
        for budget in self._all():
            limit = budget.limit(self.seed_costs[budget.metric])
            widths = uniform.get(budget)
            at = None if widths is None else self._cost(budget.metric, vector(self.graph, widths[0]))
            found.append(
                BudgetRow(
                    text=budget.text,
                    metric=budget.metric,
                    unit=self.unit(budget.metric),
                    requested=limit,
                    seed=self.seed_costs[budget.metric],
                    lowest=costs[budget.metric],
                    satisfiable=costs[budget.metric] <= limit,
                    uniform=at,
                    binds=widths is not None and widths[1] == budget.text,
                    holds=self._holds(budget.metric, least),
                )
            )
        return found

    def _uniform(self) -> dict[Budget, tuple[dict[str, int], str]]:
        """For every budget the uniform widths of the last stage that it belongs to, and the budget that binds them."""
        found = {}
        for place in range(self.stages):
            stage = copy.copy(self)
            stage.stage = place
            try:
                _, widths = largest_multiplier(self.graph, None, stage.fits, round_to=self.round_to)
            except BudgetError:
                continue
            for budget in stage.budgets:
                found[budget] = (widths, stage.binding(widths))
        return found

    def _holds(self, metric: str, widths: Mapping[str, int]) -> tuple[str, ...]:
        """The dearest layers, three at most, with their shares of a cost."""
        layers = {
            name: float(value) for name, value in self.bound[metric].per_layer(vector(self.graph, widths)).items()
        }
        dearest = sorted(layers, key=lambda name: -layers[name])[:3]
        total = sum(layers.values())
        return tuple(f"{name or 'the network itself'} {100 * layers[name] / total:.0f}%" for name in dearest if total)

    def check(self, *, expand: bool = True) -> None:
        """Refuse what cannot be met, before anything is trained.

        Raises:
            BudgetError: budgets below the lowest possible cost, all of them named.
            UsageError: a budget above the seed's cost while nothing may grow.
        """
        rows = self.rows()
        if not all(row.satisfiable for row in rows):
            raise impossible(rows, self.round_to)
        if not expand and all(row.requested > row.seed for row in rows):
            row = rows[0]
            raise UsageError(
                f"budget {row.text} ({figure(row.requested)} {row.unit}) is above the seed's {figure(row.seed)}",
                "without expansion a search only removes",
                "allow expansion (leave out --no-expand), or ask for less than 100%",
            )


def _prices(bound: BoundCost, point: Tensor, limit: float) -> Tensor:
    """`g`: what steers a search to `limit`: the cost's own word for it, else the price of one more unit.

    A cost that is a maximum says in ``pressure(widths, limit)`` how much a unit counts in getting it under a limit; one
    that moves in steps says in ``prices(widths)`` what a unit costs over some units on either side.
    """
    if hasattr(bound, "pressure"):
        found: Tensor = bound.pressure(point, limit)
    elif hasattr(bound, "prices"):
        found = bound.prices(point)
    else:
        found = bound.marginal(point)
    return found


def impossible(rows: Sequence[BudgetRow], round_to: int = 1) -> BudgetError:
    """The error for budgets of which no widths meet all: those that stand in the way, and the lowest that can be."""
    bad = [row for row in rows if not row.satisfiable]
    told = "; ".join(f"budget {row.text}: {figure(row.requested)} {row.unit} at most" for row in bad)
    if len(rows) > len(bad):
        told += f" (the others can be met: {', '.join(row.text for row in rows if row.satisfiable)})"
    rule = "; ".join(_lowest_of(row) for row in bad)
    if round_to > 1:
        rule += f"; widths are multiples of {round_to}"
    shares = [f"{row.metric}={100 * row.lowest / row.seed + 0.01 if row.seed else 100.0:.2f}%" for row in bad]
    repair = f"ask for {' and '.join(dict.fromkeys(shares))} or more"
    if round_to > 1:
        finer = f"round to a smaller multiple than {round_to}"
        beyond = any(row.lowest > row.seed > 0 for row in bad)  # no share of the seed would do
        repair = finer if beyond else f"{repair}, or {finer}"
    return BudgetError(told, rule, repair)


def _lowest_of(row: BudgetRow) -> str:
    share = 100 * row.lowest / row.seed if row.seed else 100.0
    held = f"; the dearest layers then: {', '.join(row.holds)}" if row.holds else ""
    return (
        f"the lowest that this network can reach is {figure(row.lowest)} {row.unit} "
        f"({share:.2f}% of the seed's {figure(row.seed)}){held}"
    )


def figure(value: float) -> str:
    """A cost in a sentence: whole numbers with thousands separators, others to four figures."""
    if value == round(value) or abs(value) >= 1e5:
        return f"{value:,.0f}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.1f}"
