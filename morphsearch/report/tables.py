"""Records of runs drawn as tables. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from morphsearch.report import style
from morphsearch.report.numbers import change, exact, headings, percent, short

if TYPE_CHECKING:
    from morphsearch.loop.architecture import Architecture
    from morphsearch.loop.retraining import Comparison
    from morphsearch.loop.run import Plan, SearchResult

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


def verification(record: Mapping[str, Any]) -> list[RenderableType]:
    """The verdict, what can be reached, and what limits it."""
    exact_ = bool(record["exact"])
    trials = [trial for trial in record["trials"] if trial["exact_expected"]]
    verdict = Text.assemble(
        "shrinking ",
        (str(record["model"]), "bold"),
        " is ",
        ("exact", "bold green") if exact_ else ("NOT exact", "bold red"),
        f": largest relative error {record['max_error']:.2g} in {len(trials)} random trials "
        f"({record.get('precision', 'float64')}, against the seed with the same units at zero; "
        f"at most {record['tolerance']:.0e} is allowed)",
    )
    groups, units = record["groups"], record["units"]
    free = f"{groups['free']} of {groups['total']} groups and {units['free']:,} of {units['total']:,} units can leave"
    failed = [f"{name}: {outcome}" for name, outcome in record["runs"].items() if outcome != "ok"]
    fine = [name for name, outcome in record["runs"].items() if outcome == "ok"]
    works = f"the shrunk network also works for: {', '.join(fine)}" if fine else ""
    lines = [verdict, Text(free), *([Text(works)] if works else []), *(Text(line, style="red") for line in failed)]
    reach = style.table("what can be reached", ["cost", ">seed", ">lowest", ">of the seed"])
    for metric, row in record["costs"].items():
        share = row["lowest"] / row["seed"] if row["seed"] else None
        reach.add_row(metric, exact(row["seed"]), exact(row["lowest"]), percent(share, 2))
    parts: list[RenderableType] = [Group(*lines), reach]
    if record["mixes"]:
        rows = [(name, ", ".join(operations)) for name, operations in record["mixes"].items()]
        parts.append(style.rows("operations that mix channels: removal is not exact there", ["group", "*by"], rows))
    if record["frozen"]:
        rows = list(record["frozen"].items())
        parts.append(style.rows("frozen groups", ["group", "*why it keeps its width"], rows))
    return parts


def plan(record: Plan) -> RenderableType:
    """What a search would do: each budget beside the seed's cost and the lowest possible one."""
    several = len(record.budgets) > 1
    columns = [
        "budget",
        ">asked for",
        ">seed",
        ">lowest",
        *([">scaled evenly"] if several else []),
        "unit",
        "can be met",
    ]
    made = style.table("plan", columns)
    for row in record.budgets:
        verdict = Text("yes", style="green") if row.satisfiable else Text("no", style="bold red")
        if several and row.binds:
            verdict.append(", binds", style="bold cyan")
        even = [exact(row.uniform)] if several else []
        figures = [exact(row.requested), exact(row.seed), exact(row.lowest), *even]
        made.add_row(Text(row.text), *figures, row.unit, verdict)
    free = sum(1 for group in record.groups if not group["frozen"])
    costs = ", ".join(f"{exact(total)} {unit}" for total, unit in record.costs.values())
    steps = f"{record.steps:,} steps of training each" if record.steps else "no training"
    lines = [f"seed {record.model}: {costs}; {free} of {len(record.groups)} groups can change their width"]
    lines += [f"data {record.data}, strategy {record.strategy}, {steps}"]
    notes = [Text(f"note: {note}", style="yellow") for note in record.notes]
    return Group(made, "", *map(Text, lines), *notes)


def found(result: SearchResult) -> list[RenderableType]:
    """The architectures of a search in the order in which they were found, and the widths of the best one."""
    units = {metric: cost["unit"] for item in result.architectures for metric, cost in item.costs.items()}
    made = style.table(
        "found", ["architecture", *(f">{heading}" for heading in headings(units)), ">validation accuracy"]
    )
    for item in result.architectures:
        costs = [exact((item.costs.get(metric) or {}).get("total")) for metric in units]
        mark = " (best)" if item.name == result.best.name and len(result.architectures) > 1 else ""
        made.add_row(Text(f"{item.name}{mark}"), *costs, percent(item.metrics.get("val_accuracy"), 2))
    parts: list[RenderableType] = [made]
    if len(result.best.budgets) > 1:
        parts.append(used(result.best))
    return [*parts, widths(result.best.seed_widths, result.best.widths, f"widths of {result.best.name}")]


def used(found: Architecture) -> Table:
    """How full an architecture makes each of its budgets; the fullest is the one that binds."""
    made = style.table(f"budgets of {found.name}", ["budget", ">cost", ">at most", "unit", ">used", ""])
    shares = [found.costs[budget["metric"]]["total"] / budget["limit"] for budget in found.budgets]
    for budget, share in zip(found.budgets, shares, strict=True):
        binds = Text("binds" if share == max(shares) else "", style="bold cyan")
        total = found.costs[budget["metric"]]["total"]
        cells = [exact(total), exact(budget["limit"]), str(budget["unit"]), percent(share)]
        made.add_row(Text(str(budget["text"])), *cells, binds)
    return made


def widths(before: Mapping[str, int], after: Mapping[str, int], title: str = "widths") -> Table:
    """Width per group before and after as paired bars, in network order."""
    made = style.table(title, ["group", ">width", "", ">of the seed"])
    most = max([*before.values(), *after.values(), 1])
    for name, old in before.items():
        new = after.get(name, old)
        made.add_row(
            Text(name), change(old, new), style.bar(new, most, before=old), percent(new / old if old else None, 0)
        )
    return made


def comparison(record: Comparison) -> list[RenderableType]:
    """One line an architecture: costs, accuracy with its spread over seeds, number of seeds; then the verdict."""
    units = {name: unit for name, unit in record.metrics_units.items() if any(name in row.costs for row in record.rows)}
    judged = sorted({row.evaluated_on for row in record.rows})
    timed = any(row.latency for row in record.rows)
    foretold = timed and any("predicted" in (row.latency or {}) for row in record.rows)
    times = [">ms measured", ">interval", *([">ms predicted"] if foretold else [])] if timed else []
    columns = [
        "architecture",
        *(f">{heading}" for heading in headings(units)),
        *times,
        f">{'/'.join(judged)} accuracy",
        ">n",
    ]
    made = style.table("", columns)
    rivals = [row for row in record.rows if row.kind in ("found", "baseline")]
    top = max((row.mean for row in rivals if row.mean is not None), default=None)
    for row in record.rows:
        spread = "" if row.spread is None else f" ± {100 * row.spread:.2f}"
        accuracy = "-" if row.mean is None else f"{100 * row.mean:.2f}{spread} %"
        costs = [exact(row.costs.get(name)) for name in units]
        label = row.label if row.kind != "found" else f"{row.label} (found)"
        bold = "bold" if row.mean is not None and row.mean == top and row in rivals else ""
        made.add_row(Text(label), *costs, *_times(row, timed, foretold), accuracy, str(len(row.accuracies)), style=bold)
    warnings = [Text(f"warning: {warning}", style="yellow") for warning in record.warnings]
    spread_note = "spread: standard deviation over training seeds; n: their number"
    taught = any(row.kind == "distilled" for row in record.rows)
    taught_note = "distilled: trained with the scores of the trained seed as well; the verdict leaves these rows aside"
    how = [Text(taught_note, style="dim")] if taught else []
    how += [Text(f"latency measured here: {record.latency_of}", style="dim")] if record.latency_of else []
    return [made, Group(Text(record.verdict), Text(spread_note, style="dim"), *how, *warnings)]


def _times(row: Any, timed: bool, foretold: bool) -> list[str]:
    """The cells of measured latency."""
    if not timed:
        return []
    found = row.latency or {}
    measured = f"{found['measured']:.3f}" if found else "-"
    interval = f"{found['low']:.3f} to {found['high']:.3f}" if found else "-"
    predicted = f"{found['predicted']:.3f}" if "predicted" in found else "-"
    return [measured, interval, *([predicted] if foretold else [])]


def runs(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line a run; a damaged one says what is wrong."""
    made = style.table("", ["run", "state", "seed", "data", "budget", "strategy", ">morphs", "*last found"])
    for row in rows:
        state, done, asked = str(row.get("state", "?")), row.get("iterations"), row.get("asked")
        costs = ", ".join(f"{name} {short(total)}" for name, total in (row.get("costs") or {}).items())
        made.add_row(
            Text(str(row.get("path", ""))),
            Text(state, style=STATES.get(state, "")),
            Text(str(row.get("seed_spec") or "")),
            Text(str(row.get("data") or "")),
            Text(", ".join(map(str, row.get("budgets") or ()))),
            Text(str(row.get("strategy") or "")),
            "" if done is None else f"{done}/{asked}" if asked else str(done),
            Text(str(row.get("error") or costs)),
        )
    return made
