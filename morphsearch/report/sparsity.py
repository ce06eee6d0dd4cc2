"""Sparsifications drawn as tables. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from morphsearch.report import style
from morphsearch.report.numbers import exact, percent

if TYPE_CHECKING:
    from morphsearch.sparsity import SparsityReport
    from morphsearch.sparsity.measure import Row, Sizes
    from morphsearch.sparsity.results import SparsifyPlan, SparsifyResult

FAR = 0.01
"""A sparsity this far from the one asked for stands out."""


def result(record: SparsifyResult) -> list[RenderableType]:
    """Layers, sizes, and how well the network does."""
    return [*report(record.report), Text(_accuracy(record.metrics))]


def report(record: SparsityReport) -> list[RenderableType]:
    """Sparsity asked beside reached for every weight; then sizes before and after."""
    made = style.table("sparsity", ["weight", "kind", ">shape", ">weights", ">non-zero", ">asked", ">reached", ""])
    for row in record.rows:
        if row.kept is None:
            colour = "yellow" if row.asked is not None and abs(row.asked - row.reached) > FAR else ""
            reached = Text(percent(row.reached, 2), style=colour)
            bar = style.bar(row.nonzeros, max(row.weights, 1), before=row.weights)
            cells = [*_head(row), exact(row.nonzeros), percent(row.asked, 2), reached, bar]
            made.add_row(*cells)
    prunable = [row for row in record.rows if row.kept is None]
    made.add_section()
    made.add_row(
        Text("all of these", style="bold"),
        "",
        "",
        exact(sum(row.weights for row in prunable)),
        exact(sum(row.nonzeros for row in prunable)),
        percent(record.asked, 2),
        percent(record.reached, 2),
        "",
    )
    whole = (exact(record.after.parameters), exact(record.after.nonzeros), "", percent(record.network, 2))
    made.add_row("network", "", "", *whole, "")
    return [made, *_kept(record.rows), files(record.before, record.after)]


def files(before: Sizes | None, after: Sizes) -> Table:
    """Parameters, non-zeros and bytes, before and after."""
    made = style.table("size", ["", ">before", ">after", ">after / before"])
    rows = [
        ("parameters", "parameters"),
        ("non-zero parameters", "nonzeros"),
        ("safetensors file, bytes", "file"),
        ("the same in gzip", "gzip"),
        ("the same in zip", "zip"),
    ]
    for label, name in rows:
        old, new = (getattr(before, name) if before is not None else None), getattr(after, name)
        made.add_row(label, exact(old), exact(new), percent(new / old if old else None))
    return made


def plan(record: SparsifyPlan) -> list[RenderableType]:
    """What would be pruned, and when."""
    made = style.table("plan", ["weight", "kind", ">shape", ">weights", ">asked"])
    for row in record.rows:
        if row.kept is None:
            made.add_row(*_head(row), percent(row.asked, 2))
    times = record.timetable
    when = f"{record.updates} updates from step {times.begin} to {times.end}, every {times.frequency}"
    if record.updates == 1:
        when = f"one update, at step {times.begin}"
    lines = [f"{when}, of {record.steps:,} steps on {record.data}"]
    notes = [Text(f"note: {note}", style="yellow") for note in record.notes]
    return [made, *_kept(record.rows), Group(*map(Text, lines), *notes)]


def _head(row: Row) -> list[RenderableType]:
    return [Text(row.name), row.kind, "x".join(map(str, row.shape)), exact(row.weights)]


def _kept(rows: Sequence[Row]) -> list[RenderableType]:
    """How much is not pruned, by reason."""
    sums: dict[str, list[int]] = {}
    for row in rows:
        if row.kept is not None:
            entry = sums.setdefault(row.kept, [0, 0])
            entry[0], entry[1] = entry[0] + 1, entry[1] + row.weights
    if not sums:
        return []
    cells = [(why, exact(tensors), exact(weights)) for why, (tensors, weights) in sums.items()]
    return [style.rows("not pruned", ["why", ">tensors", ">parameters"], cells)]


def _accuracy(metrics: Mapping[str, Any]) -> str:
    names = (("start_val_accuracy", "validation before"), ("val_accuracy", "validation"), ("test_accuracy", "test"))
    found = [f"{label} {percent(metrics[name], 2)}" for name, label in names if metrics.get(name) is not None]
    return f"accuracy: {', '.join(found)}"
