"""Hardware profiles and measured latency, drawn as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from morphsearch.report import style
from morphsearch.report.numbers import percent


def listing(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What can be searched for."""
    made = style.table("", ["hardware", "kind", "*settings", ">held-out error", ">noise", "measured on"])
    for row in rows:
        if row["kind"] == "damaged":
            made.add_row(Text(row["hardware"]), Text("damaged", style="red"), Text(row["problem"]), "", "", "")
            continue
        if row["kind"] != "measured":
            made.add_row(Text(row["hardware"]), "roofline", "", "", "", "")
            continue
        made.add_row(
            Text(row["hardware"]),
            "measured",
            Text(settings(row["settings"])),
            percent(row["error"]["mape"], 1),
            percent(row["noise"]["repeated"], 1),
            Text(f"{row['device'].get('name', '')}, {row['created'][:10]}"),
        )
    return made


def settings(found: Mapping[str, Any]) -> str:
    """Settings in a line."""
    threads = f", {found['threads']} threads" if found["device"] == "cpu" else ""
    return f"{found['backend']}, {found['device']}, {found['dtype']}, batch {found['batch']}{threads}"


def profile(summary: Mapping[str, Any]) -> RenderableType:
    """A measured profile: what it holds for, how good it is, what it has seen."""
    if summary["kind"] != "measured":
        made = style.table(str(summary.get("name", "roofline")), ["", "*"])
        for key, value in summary.items():
            if key not in ("format", "schema_version"):
                made.add_row(key, Text(str(value)))
        return made
    error, noise = summary["error"], summary["noise"]
    lines = [
        f"{summary['name']}: {settings(summary['settings'])}",
        f"measured on {summary['device'].get('name')} at {summary['created']}, "
        f"{error['networks']:.0f} networks in {summary['seconds']:.0f} s; "
        + ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
        f"networks that the fit had not seen: {percent(error['mape'], 1)} off on average, "
        f"{percent(error['within_10'], 0)} within 10%, at most {percent(error['largest'], 0)}",
        f"the same network measured twice: {percent(noise['repeated'], 1)} apart on average, "
        f"at most {percent(noise['worst'], 0)}",
    ]
    made = style.table("operations seen", ["family", ">samples", ">held-out error of one"])
    for name, fit in summary["families"].items():
        made.add_row(name, str(fit["samples"]), percent(fit["error"], 1) if fit["error"] else "-")
    return Group(*map(Text, lines), "", made)


def verification(record: Mapping[str, Any]) -> list[RenderableType]:
    """Predicted beside measured."""
    made = style.table("", ["network", ">predicted ms", ">measured ms", ">interval", ">off"])
    for row in record["rows"]:
        off = row["predicted"] / row["measured"] - 1
        colour = "" if abs(off) <= 0.1 else "yellow" if abs(off) <= 0.2 else "red"
        made.add_row(
            Text(row["network"]),
            f"{row['predicted']:.3f}",
            f"{row['measured']:.3f}",
            f"{row['low']:.3f} to {row['high']:.3f}",
            Text(f"{100 * off:+.1f}%", style=colour),
        )
    error = record["error"]
    line = (
        f"{record['profile']}: {percent(error['mape'], 1)} off on average, {percent(error['within_10'], 0)} within "
        f"10%, rank correlation {error['rank']:.3f}; measured twice, a network differs by {percent(record['noise'], 1)}"
    )
    return [made, Text(line)]
