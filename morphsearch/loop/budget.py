"""Budgets: ``flops=50%``, ``params<=1.2M``, ``latency<=8ms``; one or several at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from morphsearch import plugins
from morphsearch.costs import bind, vector
from morphsearch.costs.pricing import number
from morphsearch.errors import BudgetError, UsageError
from morphsearch.strategies.widths import lowest

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

_PATTERN = re.compile(r"^\s*([A-Za-z][\w.+-]*)\s*(<=|=)\s*([0-9][0-9_]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?)\s*(%|[A-Za-z]*)\s*$")
_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_SUFFIXES = ("flops", "params", "parameters", "macs", "mib", "ms", "us", "s")


@dataclass(frozen=True)
class Budget:
    """One bound. Exactly one of `fraction` (of the seed's cost) and `amount` (in the cost model's unit) is set."""

    text: str
    metric: str
    fraction: float | None = None
    amount: float | None = None

    def limit(self, seed_cost: float) -> float:
        """The bound in the cost model's unit."""
        return self.amount if self.amount is not None else float(self.fraction or 0.0) * seed_cost


def parse_budget(text: str) -> Budget:
    """Parse ``METRIC=N%`` (of the seed) or ``METRIC<=N`` with an optional K, M, G or a unit.

    Raises:
        UsageError: the text does not parse, or bounds nothing.
        UnknownName: no cost model of that name.
    """
    found = _PATTERN.match(text)
    rule = "a budget reads METRIC=N% (of the seed's cost) or METRIC<=N, as in flops=50%, params<=1.2M"
    if not found:
        raise UsageError(f"budget {text!r} does not parse", rule, "write for example --budget flops=50%")
    metric, relation, digits, suffix = found.groups()
    plugins.record("cost_models", metric)
    value = float(digits.replace("_", ""))
    if not 0 < value < float("inf"):
        raise UsageError(f"budget {text!r} leaves nothing", "a budget is more than zero", "write for example flops=50%")
    if suffix == "%":
        return Budget(text.strip(), metric, fraction=value / 100)
    if relation == "=":
        raise UsageError(
            f"budget {text!r} is neither a share nor a bound", rule, f"write {metric}={digits}% or {metric}<={digits}{suffix}"
        )
    return Budget(text.strip(), metric, amount=value * _scale(suffix, text, rule))


def _scale(suffix: str, text: str, rule: str) -> float:
    lowered = suffix.lower()
    for unit in ("", *_SUFFIXES):
        if lowered.endswith(unit) and lowered[: len(lowered) - len(unit)] in _SCALES:
            return _SCALES[lowered[: len(lowered) - len(unit)]]
    raise UsageError(f"budget {text!r} ends in {suffix!r}", rule, "use K, M or G, or no suffix at all")


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
        self.bound: dict[str, Any] = {}
        self.seed_costs: dict[str, float] = {}
        self.limits: list[float] = []
        self.rebind(graph)
        self.seed_graph_widths = dict(graph.widths)
        self.seed_costs = self.costs(graph.widths)
        self.limits = [budget.limit(self.seed_costs[budget.metric]) for budget in self.budgets]

    def rebind(self, graph: ConvGraph) -> None:
        """Price the same network as it is now (its groups are those of the seed, at other widths)."""
        self.graph = graph
        names = dict.fromkeys([*(budget.metric for budget in self.budgets), "flops", "params"])
        self.bound = {name: bind(graph, name) for name in names}

    @property
    def metrics(self) -> list[str]:
        """Names of the cost models that the budgets use, in order."""
        return list(dict.fromkeys(budget.metric for budget in self.budgets))

    def costs(self, widths: Mapping[str, int]) -> dict[str, float]:
        """Every cost at `widths`: those of the budgets, FLOPs and parameters."""
        point = vector(self.graph, widths)
        return {
            name: number(bound.total(point), bool(getattr(bound, "whole", False))) for name, bound in self.bound.items()
        }

    def unit(self, metric: str) -> str:
        """The unit of a cost."""
        return str(self.bound[metric].unit)

    def fits(self, widths: Mapping[str, int], share: float = 1.0) -> bool:
        """Whether every budget (times `share`) holds."""
        point = vector(self.graph, widths)
        return all(
            float(self.bound[b.metric].total(point)) <= limit * share for b, limit in zip(self.budgets, self.limits, strict=True)
        )

    def load(self, widths: Mapping[str, int]) -> float:
        """Cost over limit of the budget that binds most; 1 is exactly full."""
        point = vector(self.graph, widths)
        return max(
            float(self.bound[b.metric].total(point)) / limit for b, limit in zip(self.budgets, self.limits, strict=True)
        )

    def prices(self, widths: Mapping[str, float]) -> Tensor:
        """`g` float64: marginal price of a unit of each group, every budget's in shares of its limit, summed.

        Only budgets that are exceeded or nearly so (within a tenth) count; where none is, all do.
        """
        point = vector(self.graph, {name: int(width) for name, width in widths.items()})
        loads = [float(self.bound[b.metric].total(point)) / limit for b, limit in zip(self.budgets, self.limits, strict=True)]
        binding = [load > 0.9 for load in loads]
        use = binding if any(binding) else [True] * len(loads)
        terms = [
            self.bound[b.metric].marginal(point) / limit
            for b, limit, used in zip(self.budgets, self.limits, use, strict=True)
            if used
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def rows(self) -> list[BudgetRow]:
        """Each budget beside the seed's cost and the lowest possible one."""
        least = self.costs(lowest(self.graph, round_to=self.round_to))
        return [
            BudgetRow(
                b.text, b.metric, self.unit(b.metric), limit, self.seed_costs[b.metric], least[b.metric], least[b.metric] <= limit
            )
            for b, limit in zip(self.budgets, self.limits, strict=True)
        ]

    def check(self, *, expand: bool = True) -> None:
        """Refuse what cannot be met, before anything is trained.

        Raises:
            BudgetError: a budget below the lowest possible cost.
            UsageError: a budget above the seed's cost while nothing may grow.
        """
        for row in self.rows():
            if not row.satisfiable:
                raise BudgetError(
                    f"budget {row.text}: {row.requested:,.0f} {row.unit} at most",
                    f"the lowest that this network can reach is {row.lowest:,.0f} {row.unit} "
                    f"({100 * row.lowest / row.seed:.2f}% of the seed's {row.seed:,.0f})",
                    f"ask for {row.metric}={100 * row.lowest / row.seed + 0.01:.2f}% or more",
                )
        if not expand and all(row.requested > row.seed for row in self.rows()):
            row = self.rows()[0]
            raise UsageError(
                f"budget {row.text} is above the seed's {row.seed:,.0f} {row.unit}",
                "without expansion a search only removes",
                "allow expansion (leave out --no-expand), or ask for less than 100%",
            )

    def to_dict(self) -> list[dict[str, Any]]:
        """The rows as JSON-ready data."""
        return [asdict(row) for row in self.rows()]
