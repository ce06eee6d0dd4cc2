"""What a sparsification leaves behind."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from morphsearch.sparsity.measure import Row, Sizes, SparsityReport
from morphsearch.sparsity.schedule import Timetable

NAME = "sparsified"


@dataclass
class SparsifyResult:
    """A sparse network.

    Attributes:
        model: plain, with its zeros. report: sparsity and sizes.
        metrics: ``val_accuracy``, ``val_loss`` and, where there is a test part, ``test_accuracy``, ``test_loss``;
            ``start_val_accuracy`` of the network that it started from; ``epochs``, ``steps`` and ``seconds``.
        run_dir: where everything lies, None where nothing was saved.
    """

    model: nn.Module = field(repr=False)
    report: SparsityReport
    metrics: dict[str, Any]
    run_dir: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """What ``result.json`` holds."""
        return {"schema_version": 1, "best": NAME, "metrics": self.metrics, "sparsity": self.report.to_dict()}


@dataclass
class SparsifyPlan:
    """What a sparsification would do: every tensor with the sparsity asked of it, and when."""

    model: str
    data: str
    steps: int
    timetable: Timetable
    updates: int
    rows: list[Row]
    before: Sizes | None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)
