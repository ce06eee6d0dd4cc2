"""What searches say before and after: the plan and the result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from morphsearch.errors import UsageError
from morphsearch.loop.architecture import Architecture
from morphsearch.loop.budget import BudgetRow

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Plan:
    """What a search would do; nothing is written."""

    model: str
    data: str
    strategy: str
    widths: dict[str, int]
    costs: dict[str, tuple[float, str]]
    budgets: list[BudgetRow]
    groups: list[dict[str, Any]]
    steps: int | None
    notes: list[str] = field(default_factory=list)

    @property
    def satisfiable(self) -> bool:
        """Whether every budget can be met."""
        return all(row.satisfiable for row in self.budgets)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "satisfiable": self.satisfiable}


@dataclass
class SearchResult:
    """What a search found.

    Attributes:
        architectures: in the order they were found. best: the one that did best on the validation part.
        run_dir: where everything lies. summary: what ``result.json`` holds.
        model: the network that the last architecture is now, with the weights of the search.
    """

    architectures: list[Architecture]
    best: Architecture
    run_dir: Path | None
    summary: dict[str, Any]
    model: nn.Module | None = field(default=None, repr=False)

    @classmethod
    def of(cls, found: list[Architecture], run_dir: Path | None, model: nn.Module) -> SearchResult:
        """The result of a search that found these."""
        best = max(found, key=lambda one: (one.metrics.get("val_accuracy") or 0.0, one.name))
        summary = {"schema_version": 1, "best": best.name, "architectures": [_summary(one) for one in found]}
        return cls(found, best, run_dir, summary, model)

    def to_dataframe(self) -> pd.DataFrame:
        """One row an architecture: costs, metrics, multiplier and all widths. Needs pandas."""
        try:
            import pandas as pd
        except ImportError as error:
            raise UsageError("pandas is not installed", "to_dataframe needs it", "pip install pandas") from error
        rows = []
        for one in self.architectures:
            widths = {f"width:{name}": width for name, width in one.widths.items()}
            rows.append({"name": one.name, **one.totals, **one.metrics, "multiplier": one.multiplier, **widths})
        return pd.DataFrame(rows)


def _summary(one: Architecture) -> dict[str, Any]:
    return {"name": one.name, "costs": one.totals, "multiplier": one.multiplier, **one.metrics}
