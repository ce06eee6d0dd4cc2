"""Widths by a uniform multiplier, rounded, and the largest multiplier that meets a budget.

MorphNet's expansion (arXiv 1711.06798, algorithm 1): omega is the largest number with ``F(omega * widths) <= budget``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, floor, lcm
from typing import TYPE_CHECKING

import numpy as np

from morphsearch.errors import BudgetError, UsageError

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph, Group

# A multiplier that was computed as a breakpoint must land on the upper side of it in spite of rounding errors.
_SLACK = 1e-9
_FEW = 2048


def step_of(group: Group, round_to: int = 1) -> int:
    """What the widths of `group` are multiples of: its own divisibility and the one asked for."""
    return lcm(max(1, group.multiple), max(1, round_to))


def lowest_width(group: Group, round_to: int = 1) -> int:
    """The smallest legal width of a group that stays; a frozen one has no other than its own."""
    if group.frozen:
        return group.width
    step = step_of(group, round_to)
    return max(1, ceil(group.floor / step)) * step


def lowest(graph: ConvGraph, *, round_to: int = 1) -> dict[str, int]:
    """The smallest legal widths of all groups, none of which is left out."""
    return {name: lowest_width(group, round_to) for name, group in graph.groups.items()}


def scale(
    graph: ConvGraph, multiplier: float, base_widths: Mapping[str, float] | None = None, *, round_to: int = 1
) -> dict[str, int]:
    """`multiplier` times `base_widths`, each rounded to the nearest legal width (halves up), never to nothing.

    A base of 0, that of a branch that is left out, stays 0.

    Args:
        graph: gives floors, multiples and frozen groups; the latter keep their width.
        multiplier: zero or more.
        base_widths: by group, not necessarily whole; default: those of the graph. Groups not named keep the graph's
            as base.
        round_to: widths become multiples of it, and of the group's own multiple.

    Raises:
        UsageError: a negative multiplier.
    """
    if not multiplier >= 0:
        raise UsageError(f"width multiplier {multiplier!r}", "a width multiplier is zero or more", "use 0.5, 1, 2, ...")
    base = {**graph.widths, **(base_widths or {})}
    widths = {}
    for name, group in graph.groups.items():
        if group.frozen:
            widths[name] = group.width
        elif base[name] <= 0 and group.floor == 0:
            widths[name] = 0
        else:
            step = step_of(group, round_to)
            rounded = floor(multiplier * base[name] / step + 0.5 + _SLACK) * step
            widths[name] = max(rounded, lowest_width(group, round_to))
    return widths


def largest_multiplier(
    graph: ConvGraph,
    base_widths: Mapping[str, float] | None,
    fits: Callable[[dict[str, int]], bool],
    limit: float = 64.0,
    *,
    round_to: int = 1,
) -> tuple[float, dict[str, int]]:
    """The largest multiplier up to `limit` whose widths fit, and those widths.

    Exact: widths change only at finitely many multipliers (where one group rounds up), so those are bisected, with
    about 20 calls of `fits`. The widths at the next breakpoint do not fit, nor do any beyond, provided that wider never
    fits better.

    Args:
        graph, base_widths, round_to: as for :func:`scale`.
        fits: whether complete widths meet the budgets.
        limit: never go beyond it.

    Raises:
        BudgetError: the lowest widths do not fit.
        UsageError: the limit is not a positive number.
    """
    if not 0 < limit < float("inf"):
        raise UsageError(f"multiplier limit {limit!r}", "the limit is a positive number", "use 4, 16, ...")
    base = {**graph.widths, **(base_widths or {})}
    widths = scale(graph, 0.0, base, round_to=round_to)
    if not fits(widths):
        raise BudgetError(
            "no multiplier of these widths fits the budget",
            f"the lowest widths are over it: {_summary(widths)}",
            "raise the budget or lower the floors",
        )
    # Invariant: `low` fits. Double until `high` does not, then halve until few breakpoints are left to list.
    low, high = 0.0, min(1.0, limit)
    while fits(scale(graph, high, base, round_to=round_to)):
        if high >= limit:
            return limit, scale(graph, limit, base, round_to=round_to)
        low, high = high, min(2 * high, limit)
    while (high - low) * sum(base.values()) > _FEW:
        middle_point = (low + high) / 2
        if fits(scale(graph, middle_point, base, round_to=round_to)):
            low = middle_point
        else:
            high = middle_point
    points = _breakpoints(graph, base, low, high, round_to)
    # Invariant: points[first - 1] fits (or `low` does), points[last] does not.
    first, last = 0, len(points)
    while first < last:
        middle = (first + last) // 2
        if fits(scale(graph, points[middle], base, round_to=round_to)):
            first = middle + 1
        else:
            last = middle
    multiplier = points[first - 1] if first else low
    return multiplier, scale(graph, multiplier, base, round_to=round_to)


def meant(graph: ConvGraph, multiplier: float, base: Mapping[str, float], round_to: int = 1) -> dict[str, float]:
    """`multiplier` times `base` before it is rounded, but never less than a group's lowest width."""
    return {name: max(multiplier * base[name], lowest_width(group, round_to)) for name, group in graph.groups.items()}


def _breakpoints(graph: ConvGraph, base: Mapping[str, float], low: float, high: float, round_to: int) -> list[float]:
    """All multipliers in (low, high] at which some free group changes its width, ascending, `low` itself aside."""
    points = []
    for name, group in graph.groups.items():
        if group.frozen or base[name] <= 0:
            continue
        step = step_of(group, round_to)
        # The width becomes (k + 1) * step at (k + 1/2) * step / base, for k from the floor on.
        first = max(lowest_width(group, round_to) // step, floor(low * base[name] / step + 0.5 + _SLACK))
        last = floor(high * base[name] / step + 0.5 + _SLACK)
        points.append((np.arange(first, last) + 0.5) * step / base[name])
    if not points:
        return []
    merged = np.unique(np.concatenate(points))
    return [float(point) for point in merged if low < point <= high]


def _summary(widths: Mapping[str, int], most: int = 5) -> str:
    shown = ", ".join(f"{name}={width}" for name, width in list(widths.items())[:most])
    return shown + (f" and {len(widths) - most} more" if len(widths) > most else "")
