"""Whom pressure is on: units leave one after another, and those that stay are left alone.

Letters: `u` units in the graph's flat numbering.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from morphsearch.loop.selection import Facts, Widths, death_order, fewest_deaths, widths_of

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

SPARED = 0.5  # of the share of a group that a plain scaling to the target keeps: so many of its best are not pressed
HARDEST, SLOPE = 1.5, 1.0  # the share of the pressure that the first takes, and how it falls to the last that must go


def demand(
    graph: ConvGraph,
    facts: Facts,
    present: np.ndarray,
    fits: Callable[[Widths], bool],
    spared: Mapping[str, int],
    threshold: float,
    round_to: int,
) -> tuple[float, np.ndarray]:
    """What the last unit that must go still needs, in score units per price, and the `u` prices under :func:`focus`.

    Args:
        facts: scores and plain prices. present: `u` bool, units that are not silent; the others count as gone.
        fits: whether widths meet the target of the morph.
        spared: how many of its best units each group keeps from pressure, where the target can be met without them.
    """
    order, _ = death_order(graph, facts, threshold, round_to)
    order = order[present[order]]
    fewer = order[~_best(graph, facts.score, spared)[order]]
    left = present.copy()
    left[fewer] = False
    if fits(widths_of(graph, left)):
        order = fewer
    count, _ = fewest_deaths(graph, order, fits, present)
    prices = facts.price * focus(graph.num_units, order, count)
    if not count:
        return 0.0, prices
    last = order[count - 1]
    return float(max(facts.score[last] - threshold, 0.0) / max(prices[last], 1e-12)), prices


def spared_of(graph: ConvGraph, share: float) -> dict[str, int]:
    """How many units of each group, when a morph begins, are not to be pressed: none where a branch may go as a whole.

    Args:
        share: of every group, that a plain scaling to the target keeps.
    """
    free = ((name, group) for name, group in graph.groups.items() if group.frozen is None)
    return {name: int(SPARED * share * group.width) if group.floor else 0 for name, group in free}


def _best(graph: ConvGraph, score: np.ndarray, counts: Mapping[str, int]) -> np.ndarray:
    """`u` bool: so many units of each group with the highest scores."""
    best = np.zeros(graph.num_units, bool)
    for name, count in counts.items():
        units = graph.units_of(name)
        best[units[np.argsort(-score[units], kind="stable")][:count]] = True
    return best


def focus(units: int, order: np.ndarray, count: int) -> np.ndarray:
    """`u`: the share of the pressure that every unit takes when the first `count` of `order` must go.

    1.5 for the first, 0.5 for the last that must go, and nothing from half as many places later on. Under equal
    pressure units that began alike come to zero together, those that stay are about as small by then, and the network
    loses at one stroke what it had learnt. This way they leave one after another, and what stays is whole. (Leaving the
    largest out of an L1 penalty is the trimmed penalty of Yun et al., ICML 2019, arXiv 1805.07495.)
    """
    shares = np.zeros(units)
    if count:
        shares[order] = np.clip(HARDEST - SLOPE * np.arange(1, order.size + 1) / count, 0.0, None)
    return shares
