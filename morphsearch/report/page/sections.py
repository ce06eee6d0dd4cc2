"""The parts of a page: each takes a record and gives markup, or None where there is nothing to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from morphsearch.report import commands
from morphsearch.report.numbers import duration, exact, headings, percent, short
from morphsearch.report.page.markup import Markup, details, join, paragraphs, table, tag
from morphsearch.report.records import Fault, Found, Note, RunRecord, WidthRow, Widths

STATES = {
    "complete": "complete",
    "interrupted": "interrupted, and saved",
    "running": "not finished: it is running, or was killed",
    "damaged": "damaged",
}


def state(record: RunRecord) -> Markup:
    """The state as a word in a frame of its colour."""
    known = record.state if record.state in STATES else "damaged"
    return tag("span", STATES[known], class_=f"state {known}")


def verdict(record: RunRecord) -> Markup | None:
    """What came out, first."""
    going_on = None
    if record.resume:
        going_on = tag("p", "Go on with it: ", tag("code", record.resume))
    if not record.verdict and going_on is None:
        return None
    said, colon, command = record.verdict.partition(": morphsearch ")
    told = tag("p", said, ": " if colon else None, tag("code", f"morphsearch {command}") if colon else None)
    spread = tag(
        "p",
        "Spread: standard deviation over training seeds, of both rows together. What was chosen was chosen on the "
        "validation part; the test part is read once.",
        class_="quiet",
    )
    return tag("div", told if record.verdict else None, spread if record.settled else None, going_on, class_="verdict")


def faults(found: Sequence[Fault]) -> Markup | None:
    """What could not be read, in three parts."""
    if not found:
        return None
    entries = [
        tag(
            "li",
            tag("strong", fault.where),
            ": ",
            fault.arrived,
            tag("br"),
            tag("span", ". ".join(part for part in (fault.rule, fault.repair) if part), class_="quiet"),
        )
        for fault in found
    ]
    return tag(
        "div",
        tag("h3", "What could not be read"),
        tag("p", "The rest of the run is shown as it is."),
        tag("ul", entries),
        class_="faults",
    )


def notes(found: Sequence[Note]) -> Markup:
    """Warnings before notes."""
    if not found:
        return tag("p", "None.")
    ranked = sorted(found, key=lambda note: note.kind == "note")
    entries = [tag("li", tag("strong", f"{note.kind}: "), note.text, class_=f"note-{note.kind}") for note in ranked]
    return tag("ul", entries)


# -- tables ----------------------------------------------------------------------------------------------------------


def architectures(record: RunRecord) -> Markup | None:
    """Every architecture with its costs beside the budgets."""
    if not record.architectures:
        return None
    units = {name: unit for one in record.architectures for name, unit in one.units.items()}
    columns = ["architecture", *(f">{heading}" for heading in headings(units)), ">of the seed", "budgets"]
    columns += [">validation accuracy", ">multiplier", ">strength", "made from"]
    rows = [_architecture(one, record, list(units)) for one in record.architectures]
    seed = [exact(record.seed_costs.get(name)) for name in units]
    footer = ["seed", *seed, "", "", "", "", "", ""] if record.seed_costs else None
    return join(
        [
            table("Architectures", columns, rows, footer=footer),
            tag(
                "p",
                "Validation accuracy: with the weights that the search left, before any retraining; it does not "
                "compare with accuracies after retraining. Multiplier: by how much the kept widths were widened to "
                "fill the budget.",
                class_="quiet",
            ),
        ]
    )


def _architecture(one: Found, record: RunRecord, metrics: Sequence[str]) -> list[Any]:
    shares = [
        f"{percent(one.costs[name] / record.seed_costs[name])} of {one.units.get(name, name)}"
        for name in metrics
        if name in one.costs and record.seed_costs.get(name)
    ]
    uses = [f"{use.text}: {percent(use.used, 2)} used" + _over(use.used) for use in one.budgets]
    return [
        f"{one.name} (best on validation)" if one.best and len(record.architectures) > 1 else one.name,
        *(exact(one.costs.get(name)) for name in metrics),
        _lines(shares),
        _lines(uses),
        percent(one.val_accuracy, 2),
        "-" if one.multiplier is None else f"{one.multiplier:.3g}",
        "-" if one.strength is None else f"{one.strength:.2g}",
        one.parent or "seed",
    ]


def _over(used: float | None) -> str:
    return ", over the budget" if used is not None and used > 1 else ""


def _lines(texts: Sequence[str]) -> Markup:
    return join(part for index, text in enumerate(texts) for part in ([tag("br")] if index else []) + [text])


def comparison(record: RunRecord) -> Markup | None:
    """The retrained architectures with their spread, as ``compare`` prints them."""
    if record.comparison is None:
        return None
    rows, units = record.comparison["rows"], record.comparison["metrics_units"]
    known = {name: unit for name, unit in units.items() if any(name in row["costs"] for row in rows)}
    judged = "/".join(sorted({str(row["evaluated_on"]) for row in rows}))
    columns = ["architecture", "what", *(f">{heading}" for heading in headings(known))]
    columns += [f">{judged} accuracy", ">n", ">seconds each"]
    cells = []
    for row in rows:
        spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.2f}"
        accuracy = "-" if row["mean"] is None else f"{100 * row['mean']:.2f}{spread} %"
        count = len(row["accuracies"])
        costs = [exact(row["costs"].get(name)) for name in known]
        seconds = f"{row['seconds'] / count:,.1f}" if count else "-"
        cells.append([row["label"], row["kind"], *costs, accuracy, str(count), seconds])
    return table("Retrained from scratch, by one recipe", columns, cells)


def trainings(record: RunRecord) -> Markup | None:
    """Single retrainings, unfinished ones too."""
    if not record.trainings:
        return None
    rows = [
        [
            one.label,
            "-" if one.seed is None else str(one.seed),
            one.state,
            f"{one.epochs:g}",
            percent(one.accuracy, 2) + (f" ({one.evaluated_on})" if one.evaluated_on else ""),
            duration(one.seconds),
        ]
        for one in record.trainings
    ]
    columns = ["architecture", ">training seed", "state", ">epochs", ">accuracy", ">time"]
    made = table("Single retrainings", columns, rows)
    if all(one.state == "complete" for one in record.trainings):
        return details(f"The {len(rows)} single retrainings", made)
    return made


# -- widths ----------------------------------------------------------------------------------------------------------


def widths(shown: Widths) -> Markup:
    """Bars of filters, the seed's against those found, and the branches that went."""
    what = "layer" if shown.by == "layer" else "group of layers that change together"
    told = [f"Filters of each {what}, in network order. The frame is the seed, the bar what was found."]
    if shown.why:
        told.append(f"By group, since the seed cannot be built here: {shown.why}.")
    gone = [
        f"{name}: the branch of {', '.join(groups)} left the network." for name, groups in shown.gone.items() if groups
    ]
    most = max((max(row.before, *row.after.values()) for row in shown.rows), default=1)
    columns = [shown.by, ">seed"]
    for name in shown.names:
        columns += [f">{name}", f"{name}, as bars"]
    rows = [_width_row(row, shown.names, most) for row in shown.rows]
    return join([paragraphs(told), paragraphs(gone or ["No branch left the network."]), table("Widths", columns, rows)])


def _width_row(row: WidthRow, names: Sequence[str], most: int) -> list[Any]:
    cells: list[Any] = [row.name, f"{row.before:,}"]
    for name in names:
        after = row.after.get(name, row.before)
        share = percent(after / row.before if row.before else None, 0)
        cells += [f"{after:,}" + (" (left)" if not after else ""), _bar(after, row.before, most, share)]
    return cells


def _bar(after: int, before: int, most: int, share: str) -> Markup:
    """Drawn by the style alone; the number beside it says the same."""
    kind = "grown" if after > before else "kept"
    return tag(
        "div",
        tag("span", style=f"width:{100 * before / most:.2f}%", class_="seed"),
        tag("span", style=f"width:{100 * after / most:.2f}%", class_=kind),
        class_="bar",
        role="img",
        aria_label=f"{share} of the seed's",
    )


# -- sparsity --------------------------------------------------------------------------------------------------------


def sparsity(record: RunRecord) -> Markup | None:
    """Zeros per weight, and how small the file gets."""
    if record.sparsity is None:
        return None
    pruned = [row for row in record.sparsity["rows"] if row["kept"] is None]
    rows = [
        [
            row["name"],
            row["kind"],
            "x".join(map(str, row["shape"])),
            exact(row["weights"]),
            exact(row["nonzeros"]),
            percent(row["asked"], 2),
            percent(row["reached"], 2),
        ]
        for row in pruned
    ]
    columns = ["weight", "kind", ">shape", ">weights", ">not zero", ">zeros asked", ">zeros reached"]
    total = ["all of these", "", ""]
    total += [exact(sum(row[key] for row in pruned)) for key in ("weights", "nonzeros")]
    total += [percent(record.sparsity["asked"], 2), percent(record.sparsity["reached"], 2)]
    return join([_sizes(record), details(f"The {len(rows)} weights", table("Sparsity", columns, rows, footer=total))])


def _sizes(record: RunRecord) -> Markup:
    assert record.sparsity is not None
    before, after = record.sparsity.get("before"), record.sparsity["after"]
    named = {
        "parameters": "parameters",
        "nonzeros": "parameters that are not zero",
        "file": "bytes of the file",
        "gzip": "bytes, gzip",
        "zip": "bytes, zip",
    }
    rows = []
    for key, name in named.items():
        was = before.get(key) if before else None
        rows.append([name, exact(was), exact(after[key]), percent(after[key] / was if was else None)])
    return table("Size", ["", ">before", ">after", ">after / before"], rows)


# -- what was asked --------------------------------------------------------------------------------------------------


def asked(record: RunRecord) -> Markup:
    """Seed, data, budgets and the rest; what repeats it; versions."""
    rows = [*record.asked.items(), *((f"{name} version", version) for name, version in record.versions.items())]
    parts: list[Any] = [table("What was asked", ["", "*as recorded"], rows)] if rows else []
    if record.command is not None:
        parts.append(tag("p", "The same again:"))
        parts.append(tag("pre", tag("code", record.command), tabindex="0"))
        if commands.allows(record.command):
            parts.append(tag("p", commands.LEAVE))
    elif record.config == "" and record.asked:
        parts.append(tag("p", "It was started from Python, with a network or data that no file can name."))
    if record.config:
        parts.append(
            details("The resolved configuration, as --config reads it", tag("pre", tag("code", record.config)))
        )
    return join(parts)


def overview(records: Sequence[RunRecord], anchors: Sequence[str]) -> Markup:
    """One line a run, with links."""
    rows = []
    for record, anchor in zip(records, anchors, strict=True):
        best = next((one for one in record.architectures if one.best), None) or next(
            iter(record.architectures[-1:]), None
        )
        costs = (
            ", ".join(f"{short(total)} {best.units.get(name, name)}" for name, total in best.costs.items())
            if best
            else ""
        )
        rows.append(
            [
                tag("a", record.path, href=f"#{anchor}"),
                state(record),
                record.summary,
                f"{best.name}: {costs}" if best else "-",
                record.verdict,
            ]
        )
    return table("Runs", ["run", "state", "*what", "best on validation", "*verdict"], rows)
