"""What all plots of the page share. Plotly makes them as JSON; the page draws them.

Colours of lines and points are seen on white and on black; text and grids take theirs from the style of the page.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from morphsearch.report.page.markup import Markup, plain

COLOURS = ("#2f7ed8", "#d3601f", "#2e8b57", "#a45bc9", "#8a7a1f", "#c2528b")
GREY = "#808080"
SMALL = {"size": 11}


@dataclass
class Drawn:
    """A plot: what plotly draws, what it shows in a sentence, and its numbers."""

    title: str
    figure: dict[str, Any]
    words: str
    numbers: Markup


def text(value: Any) -> str:
    """Text in a plot; plotly takes tags in it for markup."""
    return html.escape(plain(value), quote=False)


def layout(height: int) -> dict[str, Any]:
    """Of every figure: no background, margins that grow with their labels, no dragging."""
    clear = "rgba(0,0,0,0)"
    axis = {"automargin": True, "zeroline": False}
    return {
        "template": "none",
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 40, "b": 8},
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "dragmode": False,
        "hovermode": "closest",
        **{f"{side}axis{number}": axis for side in "xy" for number in ("", "2", "3", "4", "5")},
    }
