"""Budgets: ``flops=50%``, ``params<=1.2M``, ``latency<=8ms``; one or several at once, or a falling schedule of them.

``flops=80%,65%,50%`` is a schedule: the first morph meets 80%, the next goes on from its network to 65%, and so on. A
budget without a schedule holds in all of them.
"""

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


def parse_schedule(text: str) -> list[Budget]:
    """Parse ``METRIC=N%,N%,...`` or ``METRIC<=N,N,...``: budgets of one metric that fall from morph to morph.

    Raises:
        UsageError: one does not parse, they do not fall, or shares of the seed and bounds are mixed.
        UnknownName: no cost model of that name.
    """
    if not isinstance(text, str) or "," not in text:
        return [parse_budget(text)]
    head = re.match(r"^\s*[A-Za-z][\w.+-]*\s*(?:<=|=)", text)
    if head is None:
        parse_budget(text)  # says how a budget reads
        raise AssertionError(text)
    parts = [part.strip() for part in text[head.end() :].split(",")]
    example = "write for example flops=80%,65%,50%, or params<=1.2M,800K"
    if not all(parts):
        place = parts.index("") + 1
        raise UsageError(f"budget {text!r} has no value at place {place}", "commas stand between the budgets", example)
    if len({part.endswith("%") for part in parts}) > 1 and all(re.match(r"\.?\d", part) for part in parts):
        raise UsageError(
            f"budget {text!r} mixes shares of the seed and bounds",
            "all budgets of a schedule are of one kind, so that it can be seen to fall",
            example,
        )
    digits = [part for part in parts[1:] if re.match(r"\d{3}(?!\d)", part)]
    if parts[0].isdigit() and len(digits) == len(parts) - 1 and not float(parts[0]) > float(digits[0][:3]) > 0:
        raise UsageError(
            f"budget {text!r} has commas within a number",
            "commas stand between the budgets of a schedule",
            f"write {head.group().strip()}{'_'.join(parts)}, or use K, M and G",
        )
    budgets = [parse_budget(f"{head.group().strip()}{part}") for part in parts]
    sizes = [budget.limit(100.0) for budget in budgets]
    for before, after, one, other in zip(sizes, sizes[1:], parts, parts[1:], strict=False):
        if after >= before:
            falling = [part for _, part in sorted(zip(sizes, parts, strict=True), key=lambda pair: -pair[0])]
            raise UsageError(
                f"budget {text!r} {'rises' if after > before else 'stays'} from {one} to {other}",
                "the budgets of a schedule fall: each morph goes on from the network before it",
                f"write {head.group().strip()}{','.join(dict.fromkeys(falling))}",
            )
    return budgets


def schedule_length(texts: str | Sequence[str]) -> int:
    """How many budgets follow one another: 1 without a schedule.

    Raises:
        UsageError: schedules of different lengths, or one that does not parse.
    """
    return _length([parse_schedule(text) for text in _as_list(texts)])


def _length(schedules: Sequence[Sequence[Budget]]) -> int:
    """The common length of those that are schedules."""
    long = [schedule for schedule in schedules if len(schedule) > 1]
    lengths = sorted({len(schedule) for schedule in long})
    if len(lengths) > 1:
        told = " and ".join(f"{len(schedule)} for {schedule[0].metric}" for schedule in long)
        raise UsageError(
            f"the schedules of the budgets have different lengths: {told}",
            "schedules go forward together, a budget of each for every morph; a single budget holds in all",
            "give every schedule as many budgets",
        )
    return lengths[0] if lengths else 1


def _as_list(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


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
        texts: one or more budgets or schedules of budgets.

    Attributes:
        stages: how many budgets follow one another. stage: the present one, from 0.
    """

    def __init__(self, graph: ConvGraph, texts: str | Sequence[str], *, round_to: int = 1) -> None:
        self.schedules = [parse_schedule(text) for text in _as_list(texts)]
        if not self.schedules:
            raise UsageError("no budget is given", "a search needs a bound to search under", "add --budget flops=50%")
        self.stages, self.stage = _length(self.schedules), 0
        self.round_to = round_to
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
        self.bound: dict[str, BoundCost] = {name: bind(graph, name) for name in names}

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
                total = total + self.bound[budget.metric].marginal(point) / limit
        return total

    def rows(self) -> list[BudgetRow]:
        """Each budget, of all stages, beside the seed's cost and the lowest possible one."""
        least = self.costs(lowest(self.graph, round_to=self.round_to))
        return [
            BudgetRow(
                text=budget.text,
                metric=budget.metric,
                unit=self.unit(budget.metric),
                requested=budget.limit(self.seed_costs[budget.metric]),
                seed=self.seed_costs[budget.metric],
                lowest=least[budget.metric],
                satisfiable=least[budget.metric] <= budget.limit(self.seed_costs[budget.metric]),
            )
            for budget in self._all()
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
