"""The tables of docs/zoo.md, from the lines that zoo.py wrote."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

Line = dict[str, Any]
FIRST = ("forward_s", "record_s", "halve_s", "memory", "channels", "free_share", "frozen")  # what the first step tells


def summary(lines: list[Line], timed: list[Line], everything: int) -> str:
    """Markdown: totals, one row a family, what is frozen most, and every failure, of `everything` networks.

    `timed` are lines of the first step alone, which are newer.
    """
    newer = {line["network"]: {key: line[key] for key in FIRST} for line in timed}
    done = [{**line, **newer.get(line["network"], {})} for line in lines if line["status"] == "ok"]
    failed = [line for line in lines if line["status"] == "failed"]
    rows = [
        _totals(done, failed, everything),
        _uneven(done),
        _families(done),
        _least_free(done),
        _slow(done),
        _failures(failed),
    ]
    return "\n\n".join(row for row in rows if row) + "\n"


def exact(line: Line) -> bool:
    """Within 1e-6 of the seed with the dropped slices at zero (1e-4 where it ran in single precision)."""
    return bool(line["error"] <= (1e-6 if line["precision"] == "float64" else 1e-4) and line["finite"])


def _totals(done: list[Line], failed: list[Line], everything: int) -> str:
    seconds = sorted(line["record_s"] + line["halve_s"] for line in done)
    forwards = [(line["record_s"] + line["halve_s"]) / line["forward_s"] for line in done if line["forward_s"]]
    memory = [line["memory"]["ratio"] for line in done]
    trained = sum(line["runs"]["train"] == "ok" for line in done)
    copied = sum(line["runs"]["state_dict"] == line["runs"]["deepcopy"] == "ok" for line in done)
    counts = [line["costs"][which] for line in done if "costs" in line for which in ("seed", "shrunk")]
    traced = [count for count in counts if "flops" in count]
    rows = [
        ("networks measured so far", f"{len(done) + len(failed)} of {everything}"),
        ("ran to the end", f"{len(done)} of {len(done) + len(failed)}"),
        ("exact where nothing mixes", f"{sum(map(exact, done))} of {len(done)}"),
        (
            "largest relative error in float64",
            f"{max(line['error'] for line in done if line['precision'] == 'float64'):.1e}",
        ),
        ("units free, all networks: at least 99%", f"{sum(line['free_share'] >= 0.99 for line in done)}"),
        ("units free: 90% to 99%", f"{sum(0.9 <= line['free_share'] < 0.99 for line in done)}"),
        ("units free: less", f"{sum(line['free_share'] < 0.9 for line in done)}"),
        (
            "convolution channels removed by halving every free group, median",
            f"{statistics.median(line['channels']['removed'] for line in done):.1%}",
        ),
        (
            "FLOPs equal to fvcore's, of the seed and shrunk (lines that have them, and that fvcore can trace)",
            f"{sum(count['flops'] == 0 for count in traced)} of {len(traced)}",
        ),
        ("parameters equal to `numel`", f"{sum(count['params'] == 0 for count in counts)} of {len(counts)}"),
        ("one backward pass in training mode", f"{trained} of {len(done)}"),
        ("`state_dict` and `deepcopy`", f"{copied} of {len(done)}"),
        ("seconds to record and halve, median", f"{statistics.median(seconds):.2f}"),
        ("the same, 95th percentile and longest", f"{seconds[int(0.95 * len(seconds))]:.2f}, {seconds[-1]:.1f}"),
        (
            f"the same, in forward passes, median of the {len(forwards)} lines that timed one by itself",
            f"{statistics.median(forwards):.1f}",
        ),
        (
            "peak memory over that of a forward pass, median and 95th percentile",
            f"{statistics.median(memory):.1f}, {sorted(memory)[int(0.95 * len(memory))]:.1f}",
        ),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _uneven(done: list[Line]) -> str:
    """Networks whose FLOPs are not fvcore's, with the operations that differ."""
    apart = [
        (line["network"], line["costs"]["seed"])
        for line in done
        if "costs" in line and line["costs"]["seed"].get("flops")
    ]
    if not apart:
        return ""
    rows = [f"| {name} | {count['flops']:+,.0f} | {'; '.join(count['operations'][:3])} |" for name, count in apart]
    return "\n".join(["| FLOPs apart from fvcore's | ours less theirs | operations |", "|---|---|---|", *rows])


def family(line: Line) -> str:
    """The part of a name before its first number or underscore, with the library."""
    library, _, name = line["network"].partition(":")
    for prefix in ("tf_", "legacy_", "gluon_", "test_", "dm_", "seresnet", "ecaresnet", "skresnet"):
        if name.startswith(prefix) and prefix.endswith("_"):
            name = name.removeprefix(prefix)
    head = name.split("_")[0].rstrip("0123456789")
    while head and head[-1].isdigit():
        head = head[:-1]
    for index, letter in enumerate(head):
        if letter.isdigit() and index > 2:
            head = head[:index]
            break
    return f"{library}:{head or name}"


def _families(done: list[Line]) -> str:
    groups: dict[str, list[Line]] = defaultdict(list)
    for line in done:
        groups[family(line)].append(line)
    table = [
        "| family | networks | exact | largest error | free units, least | channels removed, least | seconds, median |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, members in sorted(groups.items()):
        seconds = statistics.median(line["record_s"] + line["halve_s"] for line in members)
        table.append(
            f"| {name} | {len(members)} | {sum(map(exact, members))} | {max(line['error'] for line in members):.0e} "
            f"| {min(line['free_share'] for line in members):.0%} "
            f"| {min(line['channels']['removed'] for line in members):.0%} | {seconds:.2f} |"
        )
    return "\n".join(table)


def _least_free(done: list[Line]) -> str:
    low = sorted((line for line in done if line["free_share"] < 0.9), key=lambda line: line["free_share"])
    if not low:
        return "No network has less than 90% of its units free."
    table = ["| less than 90% free | free | what holds most units |", "|---|---|---|"]
    for line in low:
        reason = next(iter(line["frozen"]), "").split("; write it")[0].replace("|", "/").replace("\n", " ")
        table.append(f"| {line['network']} | {line['free_share']:.0%} | {reason[:200]} |")
    return "\n".join(table)


def _slow(done: list[Line]) -> str:
    slow = sorted(done, key=lambda line: -line["record_s"] - line["halve_s"])
    if not slow or slow[0]["record_s"] + slow[0]["halve_s"] <= 5:
        return "No network took over 5 s."
    table = ["| over 5 s | record | halve | forward |", "|---|---|---|---|"]
    for line in slow:
        if line["record_s"] + line["halve_s"] <= 5:
            break
        forward = f"{line['forward_s']:.1f}" if line["forward_s"] else "-"
        table.append(f"| {line['network']} | {line['record_s']:.1f} | {line['halve_s']:.1f} | {forward} |")
    return "\n".join(table)


def _failures(failed: list[Line]) -> str:
    if not failed:
        return "No network failed."
    table = ["| failed | why |", "|---|---|"]
    for line in failed:
        why = line["failure"].splitlines()[0].replace("|", "/")[:220]
        table.append(f"| {line['network']} | {line.get('phase', '')}: {why} |")
    return "\n".join(table)
