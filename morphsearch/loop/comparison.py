"""The table of what was retrained, and what it says: who won, and whether the difference is one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from morphsearch.errors import InputError
from morphsearch.loop.architecture import Architecture
from morphsearch.loop.baselines import BASELINES
from morphsearch.loop.rundir import RunDirectory
from morphsearch.training import RetrainResult, load_result

EQUAL_COST = 0.01  # costs that differ by less are called equal


@dataclass
class Row:
    """One architecture in the table.

    Attributes:
        label: ``001`` for the first morph, ``uniform``, ``random``, ``seed``; ``001-distilled`` with a teacher.
        kind: "found", "baseline", "seed", or "distilled" for any that had a teacher: the verdict leaves those aside.
        costs: by metric; of random widths the mean over the draws.
        accuracies: one a training seed, in 0..1, on the split named by `evaluated_on`.
        mean, spread: of them; the spread is the sample standard deviation, None for fewer than two.
        baseline_of: the found architecture that a baseline matches in cost.
        val_accuracies: the same on the validation part, which choices may be made on.
        latency: milliseconds where they were measured: `measured`, `low`, `high`, and `predicted` where a profile says.
    """

    label: str
    kind: str
    costs: dict[str, float]
    accuracies: list[float]
    mean: float | None
    spread: float | None
    evaluated_on: str = "test"
    val_accuracies: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    seconds: float = 0.0
    widths: dict[str, int] = field(default_factory=dict)
    baseline_of: str | None = None
    latency: dict[str, float] | None = None


@dataclass
class Comparison:
    """The table and what it says.

    Attributes:
        rows: found architectures first, then baselines, then the seed.
        verdict: in words.
        metrics_units: unit of every cost.
        warnings: what to mind when reading it.
        latency_of: how latency was measured; None where it was not.
    """

    rows: list[Row]
    verdict: str
    metrics_units: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    latency_of: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def compare(run_dir: str | Path) -> Comparison:
    """Gather the finished retrainings of a run.

    Raises:
        InputError: no run there, or nothing is retrained yet.
    """
    run = RunDirectory.open(run_dir)
    results = [result for path in sorted((run.path / "retrained").glob("*-seed*")) if (result := load_result(path))]
    if not results:
        raise InputError(
            f"nothing in {run.path} is retrained yet",
            "architectures are compared after training from scratch",
            f"morphsearch retrain {run.path} --baselines uniform,random --seeds 3",
        )
    return table(results, run.architectures(), run.asked())


def table(results: Sequence[RetrainResult], found: Sequence[Architecture], asked: Mapping[str, Any]) -> Comparison:
    """The table of some results.

    Args:
        results: one or more. found: the architectures of the run. asked: what ``run.json`` holds.
    """
    labels: dict[str, list[RetrainResult]] = {}
    for result in results:
        labels.setdefault(result.label, []).append(result)
    rows = sorted((_row(label, group) for label, group in labels.items()), key=_order)
    units = {name: entry["unit"] for one in found for name, entry in one.costs.items()}
    metrics = list(dict.fromkeys(b["metric"] for b in asked.get("budgets", []))) or ["flops"]
    recipes = {str(sorted(result.recipe.items(), key=str)) for result in results}
    warnings = (
        [] if len(recipes) == 1 else ["Not all rows were trained by the same recipe; their accuracies do not compare."]
    )
    warnings += _strangers(labels, {one.name: one.widths for one in found})
    return Comparison(rows, verdict(rows, metrics, family=_differ(found)), units, warnings)


def _strangers(labels: Mapping[str, Sequence[RetrainResult]], widths: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A warning for results of other networks than their row's, as a folder that was copied between runs brings them.

    Rows of random widths are of several networks by intent.
    """
    warnings = []
    for label, results in labels.items():
        own = widths.get(label) or results[0].extra.get("widths") or {}
        other = [one for one in results if one.extra.get("widths", own) != own]
        if other and label.partition("-")[0] != "random":
            names = ", ".join(f"retrained/{label}-seed{one.seed}" for one in other)
            warnings.append(
                f"{names}: not of the widths of {label}, from another run it seems; move it away to compare."
            )
    return warnings


def is_family(run: RunDirectory) -> bool:
    """Whether a run has a schedule of budgets: its architectures were found under different ones."""
    return _differ(run.architectures())


def _differ(found: Sequence[Architecture]) -> bool:
    return any(one.budgets != found[0].budgets for one in found)


def _order(row: Row) -> tuple[int, str]:
    return (("found", "baseline", "seed", "distilled").index(row.kind), row.label)


def _row(label: str, results: Sequence[RetrainResult]) -> Row:
    results = sorted(results, key=lambda result: result.seed)
    accuracies = [result.accuracy for result in results]
    names = [name for name in results[0].extra.get("costs", {}) if all(name in _costs(result) for result in results)]
    costs = {name: statistics.fmean(_costs(result)[name] for result in results) for name in names}
    kind = "seed" if label == "seed" else "baseline" if label.split("-")[0] in BASELINES else "found"
    return Row(
        label=label,
        kind="distilled" if results[0].extra.get("teacher") else kind,
        costs=costs,
        accuracies=accuracies,
        mean=statistics.fmean(accuracies),
        spread=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        evaluated_on=results[0].evaluated_on,
        val_accuracies=[result.val_accuracy for result in results],
        seeds=[result.seed for result in results],
        seconds=sum(result.seconds for result in results),
        widths=results[0].extra.get("widths", {}),
        baseline_of=results[0].extra.get("baseline_of"),
    )


def _costs(result: RetrainResult) -> dict[str, float]:
    costs: dict[str, float] = result.extra.get("costs", {})
    return costs


def verdict(rows: Sequence[Row], metrics: Sequence[str], *, family: bool = False) -> str:
    """Whether the found architecture beats the baselines by more than the spread, in words.

    Of several found ones the best on the validation part speaks: the test part chooses nothing. Of a `family`, found
    under a schedule of budgets, each that has baselines of its own cost speaks for itself.
    """
    found = [row for row in rows if row.kind == "found"]
    others = [row for row in rows if row.kind == "baseline"]
    if not found:
        return "No found architecture is retrained yet."
    best = max(found, key=lambda row: statistics.fmean(row.val_accuracies))
    own = [(one, [row for row in others if row.baseline_of == one.label]) for one in found]
    if family and any(rivals for _, rivals in own):
        return " ".join(_judge(one, other, metrics) for one, rivals in own for other in rivals)
    matched = [row for row in others if row.baseline_of in (None, best.label)]
    if not others:
        return (
            f"{best.label} reaches {100 * (best.mean or 0):.2f}%. "
            "Retrain baselines to know whether that beats a plain scaling."
        )
    return " ".join(_judge(best, other, metrics) for other in matched or others)


def _judge(best: Row, other: Row, metrics: Sequence[str]) -> str:
    difference = 100 * ((best.mean or 0) - (other.mean or 0))
    kind = other.label.split("-")[0]
    name = {"uniform": "uniform scaling", "random": "random widths"}.get(kind, other.label)
    gaps = [abs(other.costs[m] / best.costs[m] - 1) for m in metrics if best.costs.get(m) and m in other.costs]
    cost = "" if max(gaps, default=0) <= EQUAL_COST else f" (at a cost that differs by {100 * max(gaps):.1f}%)"
    if best.spread is None or other.spread is None:
        return (
            f"{best.label} is {abs(difference):.2f} points {'above' if difference >= 0 else 'below'} {name}{cost}, "
            "on one training seed: that is no evidence either way."
        )
    spread = 100 * (best.spread**2 + other.spread**2) ** 0.5
    if difference > spread:
        return f"{best.label} beats {name}{cost} by {difference:.2f} points, more than the spread of {spread:.2f}."
    if difference < -spread:
        return f"{best.label} loses to {name}{cost} by {-difference:.2f} points, more than the spread of {spread:.2f}."
    return (
        f"{best.label} and {name}{cost} differ by {difference:+.2f} points, within the spread of {spread:.2f}: "
        "no difference is shown."
    )
