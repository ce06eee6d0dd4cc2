"""Filters per layer, the seed's against those found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from morphsearch.report.inspection import LayerRow, inspect
from morphsearch.report.records import WidthRow, Widths

if TYPE_CHECKING:
    from morphsearch.loop.architecture import Architecture

MOST = 3
"""So many architectures are shown beside the seed: the best, then the last ones."""

FILTERS = ("conv", "linear")


def chosen(found: Sequence[Architecture], best: str | None) -> list[Architecture]:
    """Those whose widths are shown, in their order."""
    ranked = sorted(range(len(found)), key=lambda index: (found[index].name != best, -index))
    return [found[index] for index in sorted(ranked[:MOST])]


def widths(found: Sequence[Architecture], *, allow_code: bool = False) -> Widths:
    """By layer, where the seed can be built, and else by group.

    Args:
        found: one or more architectures of one seed.
        allow_code: leave to build a seed from code that is not morphsearch's.
    """
    gone = {one.name: [name for name, width in one.widths.items() if not width] for one in found}
    names = [one.name for one in found]
    try:
        rows = _layers(found, allow_code)
    except Exception as error:  # a seed is anybody's code; the groups tell the same without it
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        return Widths("group", names, _groups(found), gone, first)
    return Widths("layer", names, rows, gone)


def _groups(found: Sequence[Architecture]) -> list[WidthRow]:
    return [
        WidthRow(name, "", before, {one.name: one.widths.get(name, before) for one in found})
        for name, before in found[0].seed_widths.items()
    ]


def _layers(found: Sequence[Architecture], allow_code: bool) -> list[WidthRow]:
    import torch

    rows: dict[str, WidthRow] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        graph = found[0].graph(found[0].seed(allow_code=allow_code))
        for one in found:
            shown = inspect(graph, ["params"], widths=graph.check_widths(one.widths))
            for layer in shown.layers:
                if layer.channels is not None and _filters(layer):
                    row = rows.setdefault(layer.path, WidthRow(layer.path, layer.kind, layer.channels[0], {}))
                    row.after[one.name] = layer.channels[1]
    if not rows:
        return _groups(found)
    return list(rows.values())


def _filters(layer: LayerRow) -> bool:
    """Whether a layer has filters of its own; the norms after it have as many channels."""
    return any(word in layer.kind.lower() for word in FILTERS)
