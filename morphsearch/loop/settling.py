"""Widths to where the hardware is fast.

A cost that moves in steps (``bound.steps``: widths that are multiples of them may be faster than others beside them) is
met well by widths just at the edge of a step. After the expansion each group may go to a multiple nearby, up where that
is free or nearly so, down where a few units save a lot. A move is worth it where the logarithm of the width gains more
than its milliseconds are worth, at the price at which all groups together trade the one for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log
from typing import TYPE_CHECKING, Any

from morphsearch.costs import vector
from morphsearch.strategies.widths import lowest_width, step_of

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph
    from morphsearch.loop.budget import Budgets

SWEEPS = 2
FURTHEST = 0.25  # of a width that a move may take or add


def settle(
    graph: ConvGraph,
    widths: Mapping[str, int],
    budgets: Budgets,
    *,
    round_to: int = 1,
    grow: bool = True,
    fits: Callable[[dict[str, int]], bool] | None = None,
) -> dict[str, int]:
    """`widths` moved to multiples that the hardware likes; what fitted before fits after.

    Args:
        graph: its groups limit where widths may go. round_to: widths stay multiples of it.
        grow: whether groups may become wider than `widths` at all.
        fits: what must hold; default: the budgets.
    """
    result = dict(widths)
    fits = fits or budgets.fits
    bounds = [budgets.bound[metric] for metric in budgets.metrics if hasattr(budgets.bound[metric], "steps")]
    if not bounds or not fits(result):
        return result
    bound: Any = bounds[0]
    for _ in range(SWEEPS):
        slopes = dict(zip(graph.groups, bound.prices(vector(graph, result)).tolist(), strict=True))
        movable = [name for name in graph.free if result[name] > 0]
        spent = sum(result[name] * slopes[name] for name in movable)
        if spent <= 0:
            return result
        worth = len(movable) / spent
        moved = False
        for name in movable:
            best = _best(graph, result, name, bound, worth, round_to, grow)
            if best is not None and fits({**result, name: best}):
                result[name], moved = best, True
        if not moved:
            break
    return result


def _best(
    graph: ConvGraph, widths: Mapping[str, int], name: str, bound: Any, worth: float, round_to: int, grow: bool
) -> int | None:
    """The multiple nearby that gains most, or None where staying is best."""
    group, width = graph.groups[name], widths[name]
    unit, least = step_of(group, round_to), lowest_width(group, round_to)
    near = {place * step for step in bound.steps for place in (width // step, -(-width // step))}
    legal = [
        other
        for other in sorted(near)
        if other != width
        and other % unit == 0
        and least <= other
        and abs(other - width) <= max(FURTHEST * width, 4)
        and (grow or other < width)
    ]
    here = float(bound.total(vector(graph, widths)))
    gains = [
        (log(other / width) - worth * (float(bound.total(vector(graph, {**widths, name: other}))) - here), other)
        for other in legal
    ]
    gain, other = max(gains, default=(0.0, width))
    return other if gain > 1e-6 else None
