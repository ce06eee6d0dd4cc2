"""Budgets: ``flops=50%``, ``params<=1.2M``, ``latency<=8ms``; one or several at once."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from morphsearch import plugins
from morphsearch.costs import bind, vector
from morphsearch.costs import get as get_cost
from morphsearch.costs.pricing import number
from morphsearch.errors import BudgetError, UsageError
from morphsearch.strategies.widths import lowest
from morphsearch.types import BoundCost

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

_PATTERN = re.compile(
    r"^\s*([A-Za-z][\w.+-]*)\s*(<=|=)\s*((?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*(%|[A-Za-z]*)\s*$"
)
_RULE = "a budget reads METRIC=N% (of the seed's cost) or METRIC<=N, as in flops=50%, params<=1.2M"
_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
# Units that measure the same thing: a suffix of one family is converted to the cost model's unit.
_FAMILIES = (
    {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3},
    {"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "kb": 1e3, "mb": 1e6, "gb": 1e9, "bytes": 1.0},
)


@dataclass(frozen=True)
class Budget:
    """One bound. Exactly one of `percent` (of the seed's cost) and `amount` (in the cost model's unit) is set."""

    text: str
    metric: str
    percent: float | None = None
    amount: float | None = None

    def limit(self, seed_cost: float) -> float:
        """The bound in the cost model's unit."""
        return self.amount if self.amount is not None else (self.percent or 0.0) * seed_cost / 100


def parse_budget(text: str) -> Budget:
    """Parse ``METRIC=N%`` (of the seed) or ``METRIC<=N`` with an optional K, M, G or the metric's unit.

    Raises:
        UsageError: the text does not parse, or bounds nothing.
        UnknownName: no cost model of that name.
    """
    found = _PATTERN.match(text) if isinstance(text, str) else None
    if not found:
        raise UsageError(f"budget {text!r} does not parse", _RULE, "write for example --budget flops=50%")
    metric, relation, digits, suffix = found.groups()
    plugins.record("cost_models", metric)
    value = float(digits.replace("_", ""))
    if not 0 < value < float("inf"):
        raise UsageError(f"budget {text!r} leaves nothing", "a budget is more than zero", "write for example flops=50%")
    if suffix == "%":
        return Budget(text.strip(), metric, percent=value)
    if relation == "=":
        raise UsageError(
            f"budget {text!r} is neither a share nor a bound",
            _RULE,
            f"write {metric}={digits}% or {metric}<={digits}{suffix}",
        )
    return Budget(text.strip(), metric, amount=value * _scale(suffix, metric, text))


def _scale(suffix: str, metric: str, text: str) -> float:
    """What a number with `suffix` is multiplied by to be in the cost model's unit."""
    unit = str(getattr(get_cost(metric), "unit", ""))
    lowered = suffix.lower()
    for family in _FAMILIES:
        if unit.lower() in family and lowered in family:
            return family[lowered] / family[unit.lower()]
    words = {unit, unit.removesuffix("s"), metric, metric.removesuffix("s"), ""}
    for word in sorted((word.lower() for word in words), key=len, reverse=True):
        if lowered.endswith(word) and lowered.removesuffix(word) in _SCALES:
            return _SCALES[lowered.removesuffix(word)]
    raise UsageError(
        f"budget {text!r} ends in {suffix!r}",
        f"{metric} is counted in {unit or 'plain numbers'}, and a bound may end in K, M or G",
        f"use {unit or 'no suffix'}, K, M or G, or no suffix at all",
    )


@dataclass(frozen=True)
class BudgetRow:
    """A budget beside what is possible: `requested`, the `seed`'s cost and the `lowest` that the network can reach."""

    text: str
    metric: str
    unit: str
    requested: float
    seed: float
    lowest: float
    satisfiable: bool


class Budgets:
    """Budgets bound to a graph: every question about whether widths fit is asked here.

    Args:
        graph: the seed's graph; shares are shares of its cost.
        texts: one or more budgets.
    """

    def __init__(self, graph: ConvGraph, texts: str | Sequence[str], *, round_to: int = 1) -> None:
        self.budgets = [parse_budget(text) for text in ([texts] if isinstance(texts, str) else list(texts))]
        if not self.budgets:
            raise UsageError("no budget is given", "a search needs a bound to search under", "add --budget flops=50%")
        self.round_to = round_to
        self._bind(graph)
        self.seed_costs = self.costs(graph.widths)
        self.limits = [budget.limit(self.seed_costs[budget.metric]) for budget in self.budgets]

    def _bind(self, graph: ConvGraph) -> None:
        self.graph = graph
        names = dict.fromkeys([*self.metrics, "flops", "params"])
        self.bound: dict[str, BoundCost] = {name: bind(graph, name) for name in names}

    def rebound(self, graph: ConvGraph) -> Budgets:
        """The same limits, counted on the same network as it is now (the seed's groups at other widths)."""
        twin = copy.copy(self)
        twin._bind(graph)
        return twin

    @property
    def metrics(self) -> list[str]:
        """Names of the cost models that the budgets use, in order."""
        return list(dict.fromkeys(budget.metric for budget in self.budgets))

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
        """What was asked, in absolute numbers, as files hold it."""
        return [
            {"text": budget.text, "metric": budget.metric, "limit": limit, "unit": self.unit(budget.metric)}
            for budget, limit in self._limited()
        ]

    def _limited(self) -> list[tuple[Budget, float]]:
        return list(zip(self.budgets, self.limits, strict=True))

    def fits(self, widths: Mapping[str, int], share: float = 1.0) -> bool:
        """Whether every budget (times `share`) holds."""
        point = vector(self.graph, widths)
        return all(self._cost(budget.metric, point) <= limit * share for budget, limit in self._limited())

    def load(self, widths: Mapping[str, int]) -> float:
        """Cost over limit of the budget that binds most; 1 is exactly full."""
        return max(self._loads(vector(self.graph, widths)))

    def _loads(self, point: Tensor) -> list[float]:
        return [float(self.bound[budget.metric].total(point)) / limit for budget, limit in self._limited()]

    def prices(self, widths: Mapping[str, int]) -> Tensor:
        """`g` float64: marginal price of a unit of each group, every budget's in shares of its limit, summed.

        Only budgets that are exceeded or nearly so (within a tenth) count; where none is, all do.
        """
        point = vector(self.graph, widths)
        loads = self._loads(point)
        binding = [load > 0.9 for load in loads]
        total = torch.zeros(len(self.graph.groups), dtype=torch.float64)
        for (budget, limit), counts in zip(self._limited(), binding, strict=True):
            if counts or not any(binding):
                total = total + self.bound[budget.metric].marginal(point) / limit
        return total

    def rows(self) -> list[BudgetRow]:
        """Each budget beside the seed's cost and the lowest possible one."""
        least = self.costs(lowest(self.graph, round_to=self.round_to))
        return [
            BudgetRow(
                text=budget.text,
                metric=budget.metric,
                unit=self.unit(budget.metric),
                requested=limit,
                seed=self.seed_costs[budget.metric],
                lowest=least[budget.metric],
                satisfiable=least[budget.metric] <= limit,
            )
            for budget, limit in self._limited()
        ]

    def check(self, *, expand: bool = True) -> None:
        """Refuse what cannot be met, before anything is trained.

        Raises:
            BudgetError: a budget below the lowest possible cost.
            UsageError: a budget above the seed's cost while nothing may grow.
        """
        rows = self.rows()
        for row in rows:
            if not row.satisfiable:
                raise impossible(row)
        if not expand and all(row.requested > row.seed for row in rows):
            row = rows[0]
            raise UsageError(
                f"budget {row.text} ({figure(row.requested)} {row.unit}) is above the seed's {figure(row.seed)}",
                "without expansion a search only removes",
                "allow expansion (leave out --no-expand), or ask for less than 100%",
            )


def impossible(row: BudgetRow) -> BudgetError:
    """The error for a budget that no widths meet, with the lowest cost that some do."""
    share = 100 * row.lowest / row.seed if row.seed else 100.0
    return BudgetError(
        f"budget {row.text}: {figure(row.requested)} {row.unit} at most",
        f"the lowest that this network can reach is {figure(row.lowest)} {row.unit} "
        f"({share:.2f}% of the seed's {figure(row.seed)})",
        f"ask for {row.metric}={share + 0.01:.2f}% or more",
    )


def figure(value: float) -> str:
    """A cost in a sentence: whole numbers with thousands separators, others to four figures."""
    if value == round(value) or abs(value) >= 1e5:
        return f"{value:,.0f}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.1f}"
