"""Records of runs drawn as tables. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from morphsearch.report import style
from morphsearch.report.numbers import change, exact, percent, short

if TYPE_CHECKING:
    from morphsearch.report.verification import VerificationRecord

STATES = {"complete": "green", "interrupted": "yellow", "running": "cyan", "damaged": "red"}


def plugins(rows: Sequence[Any]) -> Table:
    """What is installed; broken ones stand out."""
    made = style.table("", ["kind", "name", "*what it does", "from", "*status"])
    last = None
    for row in rows:
        colour = "red" if row.status.startswith("broken") else "dim" if row.status == "disabled" else ""
        kind = "" if row.kind == last else row.kind
        made.add_row(kind, Text(row.name), Text(row.summary), Text(row.origin), Text(row.status), style=colour)
        last = row.kind
    return made


def verification(record: VerificationRecord) -> RenderableType:
    """The verdict, what limits it and what can be reached."""
    verdict = "exact" if record.exact else "NOT exact"
    parts: list[RenderableType] = [
        Text.assemble(
            "rewriting ",
            (record.name, "bold"),
            " is ",
            (verdict, "bold green" if record.exact else "bold red"),
            f"; largest relative error {record.max_error:.2g} (float64, against the seed with the same units at zero)",
        )
    ]
    if record.lowest:
        reach = style.table("what can be reached", ["cost", ">seed", ">lowest", ">of the seed", "unit"])
        for metric, (low, high, unit) in record.lowest.items():
            reach.add_row(metric, exact(high), exact(low), percent(low / high if high else None), unit)
        parts += ["", reach]
    if record.mixes:
        parts += ["", style.rows("mixing", ["*removal is not exact there"], [(name,) for name in record.mixes])]
    if record.frozen:
        parts += ["", style.rows("frozen groups", ["group", "*why it keeps its width"], list(record.frozen.items()))]
    else:
        parts.append(Text("no group is frozen"))
    return Group(*parts)


def plan(record: Any) -> RenderableType:
    """What a search would do: each budget beside the seed's cost and the lowest possible one."""
    made = style.table("plan", ["budget", ">asked for", ">seed", ">lowest", "unit", "can be met"])
    for row in record.budgets:
        verdict = Text("yes", style="green") if row.satisfiable else Text("no", style="bold red")
        made.add_row(Text(row.text), exact(row.requested), exact(row.seed), exact(row.lowest), row.unit, verdict)
    parts: list[RenderableType] = [made]
    parts += [Text(f"- {step}") for step in record.steps or ()]
    parts += [Text(f"note: {note}", style="yellow") for note in record.notes or ()]
    return Group(*parts)


def found(result: Any) -> RenderableType:
    """The architectures of a search in the order in which they were found, and the widths of the best one."""
    architectures = list(result.architectures)
    units = {metric: cost["unit"] for item in architectures for metric, cost in item.costs.items()}
    made = style.table("found", ["architecture", *(f">{unit}" for unit in units.values()), ">validation accuracy"])
    for item in architectures:
        costs = [exact((item.costs.get(metric) or {}).get("total")) for metric in units]
        mark = " (best)" if result.best is not None and item.name == result.best.name and len(architectures) > 1 else ""
        made.add_row(Text(f"{item.name}{mark}"), *costs, percent((item.metrics or {}).get("accuracy"), 2))
    parts: list[RenderableType] = [made]
    if result.best is not None:
        parts += ["", widths(result.best.seed_widths, result.best.widths, f"widths of {result.best.name}")]
    return Group(*parts)


def widths(before: Mapping[str, int], after: Mapping[str, int], title: str = "widths") -> Table:
    """Width per group before and after as paired bars, in network order."""
    made = style.table(title, ["group", ">width", "", ">kept"])
    most = max([*before.values(), *after.values(), 1])
    for name, old in before.items():
        new = after.get(name, old)
        made.add_row(
            Text(name), change(old, new), style.bar(new, most, before=old), percent(new / old if old else None, 0)
        )
    return made


def comparison(record: Any) -> RenderableType:
    """One line an architecture: costs, accuracy with its spread over seeds, number of seeds; then the verdict."""
    metrics = [metric for metric in record.metrics_units if any(metric in row.costs for row in record.rows)]
    units = [record.metrics_units[metric] for metric in metrics]
    made = style.table("", ["architecture", *(f">{unit}" for unit in units), ">test accuracy", ">n"])
    top = max((row.mean for row in record.rows if row.mean is not None), default=None)
    for row in record.rows:
        count = len(row.accuracies)
        spread = f" ± {100 * row.spread:.2f}" if count > 1 and row.spread is not None else ""
        accuracy = f"{100 * row.mean:.2f}{spread} %" if count and row.mean is not None else "-"
        bold = "bold" if row.mean is not None and row.mean == top else ""
        costs = [exact(row.costs.get(metric)) for metric in metrics]
        made.add_row(Text(row.label), *costs, accuracy, str(count), style=bold)
    return Group(made, Text(str(record.verdict)))


def runs(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line a run."""
    made = style.table("", ["run", "state", "seed", "data", "budget", "strategy", ">morphs", "*best"])
    for row in rows:
        config = row.get("config") or {}
        budget = config.get("budget", ())
        done, asked = row.get("iterations"), config.get("iterations")
        state = str(row.get("state", "?"))
        made.add_row(
            Text(str(row["run_dir"])),
            Text(state, style=STATES.get(state, "")),
            Text(str(config.get("model", ""))),
            Text(str(config.get("data", ""))),
            Text(budget if isinstance(budget, str) else ", ".join(map(str, budget))),
            Text(str(config.get("strategy", ""))),
            "" if done is None else f"{done}/{asked}" if asked else str(done),
            Text(str(row.get("reason", "")) or best(row.get("best"))),
        )
    return made


def best(record: Any) -> str:
    """The best architecture of a run in a few words."""
    if not isinstance(record, Mapping):
        return "" if record is None else str(record)
    parts = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            parts += [
                f"{metric} {short(amount)}" for metric, amount in value.items() if isinstance(amount, int | float)
            ]
        elif isinstance(value, float):
            parts.append(f"{key} {percent(value) if 'accuracy' in key else short(value)}")
        elif value is not None:
            parts.append(f"{key} {value}")
    return ", ".join(parts)
