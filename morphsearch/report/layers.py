"""The layer tree and the groups of an inspection, as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from morphsearch.report import style
from morphsearch.report.inspection import Inspection, LayerRow
from morphsearch.report.numbers import change, exact, headings, percent, short

MOST = 100


def layers(found: Inspection, *, depth: int | None = None, compact: bool = False) -> Table:
    """One line a module, indented as the network nests; containers carry the sums of what is below them, dimmed.

    With `depth`, modules below that depth are added up in their ancestor. The footer has the totals. A `compact` table
    leaves out what a narrow screen has no room for: the shapes, and the digits that matter least.
    """
    metrics = list(found.units)
    show = short if compact else exact
    of = "seed's " if found.changed else ""
    shapes = [] if compact else [f">{of}input", f">{of}output"]
    columns = ["layer", "kind", *shapes, ">channels"]
    columns += [f">{heading}" for heading in headings(found.units)]
    parts = _parts(found)
    columns += [f"{'' if part == 'bound' else '>'}{_PARTS[part]}" for _, part in parts]
    totals = [change(found.totals_before[metric], found.totals[metric], show) for metric in metrics]
    footer = ["total", "", *[""] * len(shapes), "", *totals]
    if found.changed:
        shares = [_share(found.totals_before[metric], found.totals[metric]) for metric in metrics]
        footer = ["total\nof the seed", "", *[""] * len(shapes), "", *map("\n".join, zip(totals, shares, strict=True))]
    footer += [_sum(found.layers, metric, part, show) for metric, part in parts]
    made = style.table(found.name, columns, footer=footer)
    for path, row in _tree(found, depth):
        name = path.rpartition(".")[2] or "(network)"
        level = path.count(".") + 1 if path else 0
        label = Text("  " * (level - 1 if level else 0) + name)
        if isinstance(row, LayerRow):
            cells = [
                change(row.costs_before[metric], row.costs[metric], show) if row.costs[metric] else ""
                for metric in metrics
            ]
            channels = change(*row.channels) if row.channels else ""
            changed = bool(row.channels and row.channels[0] != row.channels[1])
            made.add_row(
                label,
                Text(row.kind),
                *[style.shape(end) for end in (row.input, row.output)[: len(shapes)]],
                Text(channels, style="bold cyan" if changed else ""),
                *cells,
                *[_part(row, metric, part, show) for metric, part in parts],
            )
        else:
            below = [layer for layer in found.layers if _inside(layer.path, path)]
            sums = [
                change(
                    sum(layer.costs_before[metric] for layer in below),
                    sum(layer.costs[metric] for layer in below),
                    show,
                )
                for metric in metrics
            ]
            shown = depth is not None and level >= depth
            ends = [below[0].input, below[-1].output] if shown and below else [None, None]
            sums += [_sum(below, metric, part, show) for metric, part in parts]
            made.add_row(
                label, Text(row), *map(style.shape, ends[: len(shapes)]), "", *sums, style="" if shown else "dim"
            )
    return made


_PARTS = {"compute": "computing", "memory": "moving data", "launch": "launches", "bound": "bound by"}


def _parts(found: Inspection) -> list[tuple[str, str]]:
    """What costs are made of, where they tell; launches only where there are any."""
    return [
        (metric, part)
        for metric in found.units
        for part in _PARTS
        if any(layer.details.get(metric, {}).get(part) for layer in found.layers)
    ]


def _part(row: LayerRow, metric: str, part: str, show: Callable[[float | None], str]) -> str:
    value = row.details.get(metric, {}).get(part, "")
    return value if isinstance(value, str) else show(value)


def _sum(below: Sequence[LayerRow], metric: str, part: str, show: Callable[[float | None], str]) -> str:
    values = [row.details.get(metric, {}).get(part) for row in below]
    numbers = [value for value in values if isinstance(value, int | float)]
    return show(sum(numbers)) if numbers else ""


def _tree(found: Inspection, depth: int | None) -> list[tuple[str, LayerRow | str]]:
    """Layers in network order, each container before its first layer."""
    rows: list[tuple[str, LayerRow | str]] = []
    seen: set[str] = set()
    for layer in found.layers:
        parts = layer.path.split(".")
        for level in range(1, len(parts)):
            container = ".".join(parts[:level])
            if container not in seen and (depth is None or level <= depth):
                seen.add(container)
                rows.append((container, found.modules.get(container, "")))
        if layer.path in seen:
            continue
        if depth is None or len(parts) <= depth:
            own = any(_inside(other.path, layer.path) for other in found.layers if other is not layer)
            seen.add(layer.path)
            rows.append((layer.path, found.modules.get(layer.path, layer.kind) if own and layer.path else layer))
    return rows


def _inside(path: str, container: str) -> bool:
    return path == container or path.startswith(f"{container}.")


def _share(before: float, after: float) -> str:
    return percent(after / before if before else None)


def groups(found: Inspection, *, width: int = 200) -> RenderableType:
    """The groups of widths in network order, what is frozen and why, and where removal is not exact.

    `width` is that of the screen in characters: the list of layers is cut to fit.
    """
    stepped = any(row.multiple > 1 for row in found.groups)
    columns = ["group", ">width", "", ">floor", *([">multiple"] if stepped else []), "layers that change together"]
    made = style.table("groups of widths", columns)
    most = max((max(row.width, row.before) for row in found.groups), default=1)
    names = max((len(row.name) for row in found.groups), default=0)
    room = max(16, width - names - len(change(most, most + 1 if found.changed else most)) - style.BAR - 24)
    for row in found.groups:
        made.add_row(
            Text(row.name),
            change(row.before, row.width),
            style.bar(row.width, most, before=row.before),
            exact(row.floor),
            *([exact(row.multiple)] if stepped else []),
            Text("frozen" if row.frozen else _together(row.layers, room)),
            style="dim" if row.frozen else "",
        )
    parts: list[RenderableType] = [made]
    frozen = [(row.name, row.frozen) for row in found.groups if row.frozen]
    if frozen:
        parts += ["", style.rows("frozen groups", ["group", "*why it keeps its width"], frozen)]
    mixing = [(row.name, ", ".join(row.mixes)) for row in found.groups if row.mixes]
    if mixing:
        parts += ["", style.rows("operations that mix channels: removal is not exact there", ["group", "*by"], mixing)]
    free = len(found.groups) - len(frozen)
    parts += ["", Text(f"{free} of {len(found.groups)} groups can change their width")]
    return Group(*parts)


def _together(names: Sequence[str], room: int) -> str:
    """As many names as fit, and how many more there are."""
    for shown in range(len(names), 0, -1):
        rest = len(names) - shown
        text = ", ".join(names[:shown]) + (f" and {rest} more" if rest else "")
        if len(text) <= min(room, MOST):
            return text
    return f"{len(names)} layers"
