"""Numbers as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(value: float | None) -> str:
    """Three or four significant digits and a suffix: 40,813,184 -> ``40.8M``; small whole numbers stay whole."""
    if value is None or not math.isfinite(value):
        return "-"
    for size, suffix in SUFFIXES:
        if abs(value) >= size:
            scaled = value / size
            return f"{scaled:.{2 if abs(scaled) < 10 else 1 if abs(scaled) < 100 else 0}f}{suffix}"
    return f"{value:g}" if float(value).is_integer() else f"{value:.3g}"


def exact(value: float | None) -> str:
    """All digits, with thousands apart; of what is not whole four significant ones, or no fraction from 1,000 up."""
    if value is None or not math.isfinite(value):
        return "-"
    if abs(value) >= 1000:
        value = round(value)
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.4g}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percent: 0.507 -> ``50.7%``."""
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}%"


def change(before: float, after: float, show: Callable[[float | None], str] = exact) -> str:
    """``64 -> 37``, or one number where nothing changed."""
    return show(before) if before == after else f"{show(before)} -> {show(after)}"


def headings(units: Mapping[str, str]) -> list[str]:
    """What columns of costs are called: by their units, and by their names where two share one."""
    shared = list(units.values())
    return [unit if shared.count(unit) == 1 else f"{name} ({unit})" for name, unit in units.items()]


def duration(seconds: float | None) -> str:
    """``0:27``, ``1:02:03``; ``-`` for an unknown one."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
