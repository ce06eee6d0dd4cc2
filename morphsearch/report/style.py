"""The house style: one kind of table, shapes and bars as text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

BAR = 24


def table(title: str, columns: Iterable[str], *, footer: Sequence[str] = ()) -> Table:
    """An empty table. Columns ``>name`` are aligned to the right, columns ``~`` hold bars; neither is wrapped."""
    made = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        show_footer=bool(footer),
    )
    for index, name in enumerate(columns):
        made.add_column(
            Text(name.lstrip(">~")),
            footer=Text(footer[index]) if footer else "",
            justify="right" if name.startswith(">") else "left",
            no_wrap=name.startswith((">", "~")),
            overflow="fold",
        )
    return made


def rows(title: str, columns: Iterable[str], cells: Iterable[Sequence[str]]) -> Table:
    """A table of plain texts."""
    made = table(title, columns)
    for row in cells:
        made.add_row(*map(Text, row))
    return made


def shape(sizes: Sequence[int] | None) -> str:
    """``64x56x56``, without the batch."""
    if not sizes:
        return ""
    return "x".join(str(size) for size in sizes[1:]) or "1"


def bar(after: float, most: float, *, before: float | None = None, width: int = BAR) -> Text:
    """A bar of `after`; the light part reaches to `before` where something was taken away."""
    full, light = ("█", "░") if _blocks() else ("#", ".")
    scale = width / most if most > 0 else 0.0
    solid = max(1, round(after * scale)) if after > 0 else 0
    rest = max(0, round(before * scale) - solid) if before is not None else 0
    grown = before is not None and after > before
    return Text.assemble((full * solid, "green" if grown else "cyan"), (light * rest, "dim"))


def _blocks() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
