"""The house style: one kind of table, shapes and bars as text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

BAR = 24
PROSE = 24


class HouseTable(Table):
    """A table whose columns never get narrower than what they hold, sentences apart: rich would cut them."""

    def add_row(self, *renderables: RenderableType | None, style: Any = None, end_section: bool = False) -> None:
        """As rich's."""
        super().add_row(*renderables, style=style, end_section=end_section)
        for column, cell in zip(self.columns, renderables, strict=False):
            _widen(column, cell)


def table(title: str, columns: Iterable[str], *, footer: Sequence[str] = ()) -> Table:
    """An empty table. Columns ``>name`` are aligned to the right; ``*name`` hold sentences, and only they wrap."""
    made = HouseTable(
        title=Text(title, style="bold", no_wrap=True) if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        show_footer=bool(footer),
    )
    for index, name in enumerate(columns):
        prose = name.startswith("*")
        made.add_column(
            Text(name.lstrip(">*")),
            footer=Text(footer[index]) if footer else "",
            justify="right" if name.startswith(">") else "left",
            no_wrap=not prose,
            min_width=PROSE if prose else None,
            overflow="fold",
        )
        _widen(made.columns[-1], made.columns[-1].header)
        _widen(made.columns[-1], made.columns[-1].footer)
    return made


def _widen(column: Column, cell: RenderableType | None) -> None:
    text = cell.plain if isinstance(cell, Text) else cell if isinstance(cell, str) else ""
    if column.no_wrap:
        column.min_width = max([column.min_width or 0, *map(cell_len, text.splitlines())])


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
