"""Which units stay, and how wide the groups become: the two halves of a morph, on numbers alone.

Letters: `u` units in the graph's flat numbering, `g` groups.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from morphsearch.errors import InputError
from morphsearch.strategies.widths import largest_multiplier, lowest_width, step_of

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph, Group

Widths = dict[str, int]

FULL = 0.99  # of a budget: from here on a group takes a single step to fill it


@dataclass
class Facts:
    """What is known about the units at one moment, `u` each: score, price (mean 1), whether judged, whether alive."""

    score: np.ndarray
    price: np.ndarray
    judged: np.ndarray
    alive: np.ndarray


def free_units(graph: ConvGraph) -> np.ndarray:
    """`u` bool: units of groups that are not frozen."""
    free = np.array([group.frozen is None for group in graph.groups.values()], bool)
    return free[graph.unit_group] if graph.num_units else np.zeros(0, bool)


def floors(graph: ConvGraph, round_to: int = 1) -> np.ndarray:
    """`g` int64: the fewest units of each group, 0 where its branch may go; all of them where it is frozen."""
    least = [lowest_width(one, round_to) if one.floor or one.frozen else 0 for one in graph.groups.values()]
    return np.minimum(least, list(graph.widths.values())).astype(np.int64)


def protect(graph: ConvGraph, alive: np.ndarray, score: np.ndarray, round_to: int = 1) -> tuple[np.ndarray, list[str]]:
    """`alive` with the best units of every group that would fall below its floor put back, and those groups' names."""
    alive = alive | ~free_units(graph)
    counts = np.bincount(graph.unit_group[alive], minlength=len(graph.groups))
    least = floors(graph, round_to)
    rescued = []
    for position in np.nonzero(counts < least)[0]:
        units = np.nonzero(graph.unit_group == position)[0]
        best = units[np.argsort(-score[units], kind="stable")[: least[position]]]
        alive[best] = True
        rescued.append(list(graph.groups)[position])
    return alive, rescued


def widths_of(graph: ConvGraph, alive: np.ndarray) -> Widths:
    """Alive units of every group; none where the branch of a group goes since another of its groups has none."""
    counts = np.bincount(graph.unit_group[alive], minlength=len(graph.groups))
    return graph.closed({name: int(count) for name, count in zip(graph.groups, counts, strict=True)})


def closed(graph: ConvGraph, alive: np.ndarray) -> np.ndarray:
    """`alive` without the units that go with branches of which a group has none left."""
    widths = widths_of(graph, alive)
    left = np.array([width > 0 for width in widths.values()], bool)
    result: np.ndarray = alive & left[graph.unit_group]
    return result


def death_order(graph: ConvGraph, facts: Facts, threshold: float, round_to: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Units in the order in which steady pressure would kill them, and the pressure that each needs.

    Under a proximal step every score falls by strength times price, so a unit needs ``(score - threshold) / price``.
    The last units of every group, down to its floor, never die.

    Returns:
        `k` unit indices and `k` pressures, ascending.
    """
    able = facts.judged & free_units(graph)
    need = np.maximum(facts.score - threshold, 0.0) / np.maximum(facts.price, 1e-12)
    least = floors(graph, round_to)
    # Spare the best of each group: rank within the group, best first.
    by_group = np.lexsort((-need, graph.unit_group))
    starts = np.concatenate([[0], np.cumsum(np.bincount(graph.unit_group, minlength=len(graph.groups)))[:-1]])
    rank = np.empty(graph.num_units, np.int64)
    rank[by_group] = np.arange(graph.num_units) - starts[graph.unit_group[by_group]]
    able &= rank >= least[graph.unit_group]
    units = np.nonzero(able)[0]
    order = units[np.argsort(need[units], kind="stable")]
    return order, need[order]


def fewest_deaths(
    graph: ConvGraph, order: np.ndarray, enough: Callable[[Widths], bool], alive: np.ndarray | None = None
) -> tuple[int, np.ndarray]:
    """The shortest prefix of `order` whose removal makes `enough` true, by bisection; and who is alive then.

    All of `order` where even that is not enough.
    """
    everyone = np.ones(graph.num_units, bool) if alive is None else alive

    def without(count: int) -> np.ndarray:
        left = everyone.copy()
        left[order[:count]] = False
        return left

    low, high = 0, order.size
    while low < high:
        middle = (low + high) // 2
        if enough(widths_of(graph, without(middle))):
            high = middle
        else:
            low = middle + 1
    return low, without(low)


def expansion(
    graph: ConvGraph,
    kept: Widths,
    fits: Callable[[Widths], bool],
    *,
    limit: float,
    round_to: int,
    load: Callable[[Widths], float] | None = None,
) -> tuple[float, Widths]:
    """The largest uniform multiplier of `kept` that fits, and its widths (MorphNet's omega, arXiv 1711.06798, step 3).

    With a `limit` of 1 nothing grows: widths are `kept`, rounded down. `load`: see :func:`fill_up`.
    """
    if limit == 1.0:
        same = {name: _rounded_down(graph.groups[name], width, round_to) for name, width in kept.items()}
        if fits(same):
            return 1.0, same
    multiplier, widths = largest_multiplier(graph, kept, fits, limit, round_to=round_to)
    return multiplier, fill_up(graph, widths, fits, base=kept, limit=limit, round_to=round_to, load=load)


def _rounded_down(group: Group, width: int, round_to: int) -> int:
    """The largest legal width up to `width`; the lowest legal one where there is none."""
    if group.frozen is not None:
        return width
    if not width and not group.floor:
        return 0  # its branch is left out
    step = step_of(group, round_to)
    return max(width // step * step, lowest_width(group, round_to))


def fill_up(
    graph: ConvGraph,
    widths: Widths,
    fits: Callable[[Widths], bool],
    *,
    base: Mapping[str, float] | None = None,
    limit: float = 4.0,
    round_to: int = 1,
    load: Callable[[Widths], float] | None = None,
) -> Widths:
    """`widths` with single steps added for as long as the budget has room for one.

    The next uniform multiplier does not fit, but one step of a dear group can be a third of a small network's budget,
    which others have room in. Groups get their steps in the order in which a growing multiplier would have given them;
    one that finds no room is passed over.

    Args:
        base: what the multiplier multiplies, not necessarily whole; default: `widths`.
        limit: no group becomes wider than so many times its base.
        load: how full widths make the budget that binds, 1 for full. With it, a group takes further steps only
            where they fill the budget more, and from :data:`FULL` on a single one: nearly full, only the cheapest group
            would find room, for dozens of steps out of all proportion.
    """
    reference = base or widths
    result = dict(widths)

    def waiting(name: str) -> tuple[float, int, str]:
        """The multiplier at which the group would take its next step; equals in the order of the graph."""
        next_width = result[name] + 0.5 * step_of(graph.groups[name], round_to)
        return next_width / max(1.0, reference[name]), places[name], name

    places = {name: place for place, name in enumerate(graph.groups)}
    queue = [waiting(name) for name in graph.free if result[name]]
    heapq.heapify(queue)
    full = load(result) if load is not None else 0.0
    late: set[str] = set()  # groups that took a step when it was as good as full
    idle: list[str] = []  # groups whose step filled nothing: it may, once another budget binds
    while queue:
        name = heapq.heappop(queue)[-1]
        step = step_of(graph.groups[name], round_to)
        further = result[name] > widths[name]
        grown = {**result, name: result[name] + step}
        if name in late or grown[name] > max(limit * reference[name], step) or not fits(grown):
            continue
        then = load(grown) if load is not None else 0.0
        if further and load is not None and then <= full:
            idle.append(name)
            continue
        if full >= FULL:
            late.add(name)
        result, full = grown, then
        for waiter in (name, *idle):
            heapq.heappush(queue, waiting(waiter))
        idle = []
    return result


def capped(
    fits: Callable[[Widths], bool], widths: Widths, most: Mapping[str, float] | None
) -> Callable[[Widths], bool]:
    """`fits`, and no group grows from `widths` to more than `most` of it; None: as wide as fits."""
    if most is None:
        return fits
    highest = {name: max(width, most.get(name, np.inf)) for name, width in widths.items()}
    return lambda other: all(width <= highest[name] for name, width in other.items()) and fits(other)


def occurrences(graph: ConvGraph, alive: np.ndarray, score: np.ndarray, widths: Widths) -> np.ndarray:
    """`u` int64: how often each unit occurs at `widths`: the best alive units stay, the best are repeated to widen."""
    multiplicity = np.zeros(graph.num_units, np.int64)
    for position, (name, group) in enumerate(graph.groups.items()):
        units = np.nonzero(graph.unit_group == position)[0]
        if group.frozen is not None:
            multiplicity[units] = 1
            continue
        # Alive units first, best first; dead ones only where the group must stay wider than what is alive.
        ranked = units[np.lexsort((-score[units], ~alive[units]))]
        count = int(alive[units].sum()) or 1
        width = widths[name]
        times, extra = divmod(width, count)
        if times == 0:
            multiplicity[ranked[:width]] = 1
        else:
            multiplicity[ranked[:count]] = times
            multiplicity[ranked[:extra]] += 1
    return multiplicity


def kept_positions(graph: ConvGraph, multiplicity: np.ndarray) -> dict[str, list[int]]:
    """For each group the positions of its units that occur, repeated as often as they do."""
    result = {}
    for position, name in enumerate(graph.groups):
        counts = multiplicity[graph.unit_group == position]
        result[name] = [int(i) for i in np.repeat(np.arange(counts.size), counts)]
    return result


def from_positions(graph: ConvGraph, kept: dict[str, list[int]]) -> np.ndarray:
    """The inverse of :func:`kept_positions`.

    Raises:
        InputError: a position that the graph does not have.
    """
    multiplicity = np.ones(graph.num_units, np.int64)
    for position, name in enumerate(graph.groups):
        if name in kept:
            units = graph.unit_group == position
            counts = np.bincount(np.array(kept[name], np.int64))
            if counts.size > units.sum():
                raise InputError(
                    f"unit {counts.size - 1} of group {name!r} was kept of {int(units.sum())}",
                    "kept units are positions in the group of the parent",
                    "restore the architecture file from a copy, or search again",
                )
            multiplicity[units] = np.pad(counts, (0, int(units.sum()) - counts.size))
    return multiplicity
