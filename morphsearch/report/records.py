"""What a report shows of a run, as plain data: gathered by :mod:`morphsearch.report.gather`, JSON-ready."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

Numbers = dict[str, float]


@dataclass
class Fault:
    """What cannot be read, in three parts; `where` is the file, relative to the run."""

    where: str
    arrived: str
    rule: str = ""
    repair: str = ""


@dataclass
class Note:
    """A sentence that a reader should know; `kind` is "note", "warning", "recovered", "interrupted" or "resumed"."""

    kind: str
    text: str


@dataclass
class BudgetUse:
    """One budget beside what an architecture costs; `used` is the share of the limit."""

    text: str
    unit: str
    limit: float
    cost: float | None
    used: float | None


@dataclass
class Found:
    """One architecture of a search. `val_accuracy` is that of its inherited weights, on the validation part."""

    name: str
    costs: Numbers
    units: dict[str, str]
    budgets: list[BudgetUse]
    val_accuracy: float | None
    multiplier: float | None
    strength: float | None
    threshold: float | None
    parent: str | None
    best: bool = False


@dataclass
class Training:
    """One retraining: "complete", "not finished" (after so many `epochs`) or "damaged"."""

    label: str
    seed: int | None
    state: str
    epochs: float
    accuracy: float | None = None
    evaluated_on: str = ""
    seconds: float | None = None


@dataclass
class Curve:
    """Values over the steps of a run, in the order in which they were written."""

    name: str
    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass
class Panel:
    """Curves of one quantity. `scale` is "linear", "log" or "percent" (values are shares); `limits` are by name."""

    title: str
    curves: list[Curve]
    scale: str = "linear"
    limits: Numbers = field(default_factory=dict)


@dataclass
class Mark:
    """Something that happened at a step: "morph", "cut", "recovered", "warning", "interrupted" or "resumed".

    `cost` of a cut is that of the network after it, as a share of the seed's, in the first metric that has a budget.
    """

    step: float
    kind: str
    text: str
    cost: float | None = None


@dataclass
class Trial:
    """A candidate that was trained for a short while; `costs` are unknown to the log, `widths` are in it."""

    number: int
    iteration: int | None
    epochs: float | None
    loss: float | None
    accuracy: float | None


@dataclass
class Trajectory:
    """How a run went: panels that share their steps, what happened, and trials, where widths were tried out."""

    panels: list[Panel] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)


@dataclass
class Point:
    """An architecture in the plane of cost and accuracy; `kind` as in a comparison; `spread` over `n` seeds."""

    label: str
    kind: str
    costs: Numbers
    accuracy: float
    spread: float | None = None
    n: int = 1


@dataclass
class Front:
    """All points that were judged alike: `judged` says how ("test", or "validation, inherited weights").

    `metrics` are what it is drawn over: costs that have a budget first, each with its unit; `limits` are by metric.
    """

    judged: str
    metrics: dict[str, str]
    points: list[Point]
    limits: dict[str, list[float]] = field(default_factory=dict)

    def best(self, metric: str) -> list[Point]:
        """Those that no other beats in both cost and accuracy, the cheapest first; distilled ones do not count."""
        rivals = [point for point in self.points if metric in point.costs and point.kind != "distilled"]
        front: list[Point] = []
        for point in sorted(rivals, key=lambda point: (point.costs[metric], -point.accuracy)):
            if not front or point.accuracy > front[-1].accuracy:
                front.append(point)
        return front


@dataclass
class WidthRow:
    """A layer (or group) with its filters in the seed, and in each architecture that is shown, by name."""

    name: str
    kind: str
    before: int
    after: dict[str, int]


@dataclass
class Widths:
    """Filters of the seed against those found, in network order.

    `by` is "layer", or "group" where the seed is not built (`why`); `gone`: for each architecture the groups that left.
    """

    by: str
    names: list[str]
    rows: list[WidthRow]
    gone: dict[str, list[str]] = field(default_factory=dict)
    why: str = ""


@dataclass
class RunRecord:
    """A run as its report shows it.

    Attributes:
        path, name: of the run directory. kind: "search" or "sparsify". state: as :func:`morphsearch.loop.run.status`.
        summary: one line: seed, data, budgets, strategy.
        asked: what was asked, by name. config: the resolved configuration as TOML. command: what repeats the run; None
            for a run that was started from Python. versions: of programs.
        seed_costs, units: of the seed, by metric.
        comparison: as :meth:`morphsearch.loop.comparison.Comparison.to_dict`; None where nothing is retrained.
        verdict: in words. settled: whether it speaks of retrained architectures.
        sparsity: as :meth:`morphsearch.sparsity.SparsityReport.to_dict`, with `metrics`: of a sparsification.
        sparsified: the sparsifications of what this run found.
        resume: the command that goes on with it; None for a complete one.
        faults: what could not be read.
    """

    path: str
    name: str
    kind: str = "search"
    state: str = "damaged"
    summary: str = ""
    asked: dict[str, str] = field(default_factory=dict)
    config: str = ""
    command: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    seed_costs: Numbers = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    architectures: list[Found] = field(default_factory=list)
    comparison: dict[str, Any] | None = None
    verdict: str = ""
    settled: bool = False
    trainings: list[Training] = field(default_factory=list)
    trajectory: Trajectory = field(default_factory=Trajectory)
    front: Front | None = None
    widths: Widths | None = None
    sparsity: dict[str, Any] | None = None
    metrics: Numbers = field(default_factory=dict)
    sparsified: list[RunRecord] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    resume: str | None = None
    faults: list[Fault] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)
