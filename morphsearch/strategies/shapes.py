"""Shapes: few numbers that say how widths are spread over a network, at any cost.

A uniform scaling multiplies every width alike. A shape multiplies each by a factor of its own, smooth along the depth
of the network, and scales all together to the budget. So the many widths of a network come down to a few numbers, few
enough to be tried out: RegNet (Radosavovic et al., arXiv 2003.13678, section 3.3) found that good networks
have widths that few numbers describe, MobileNetV1's own multiplier (arXiv 1704.04861, section 3.3) is the shape at the
origin, and EfficientNet (arXiv 1905.11946, section 3.2) shows that width and depth are worth weighing against each
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, floor
from typing import TYPE_CHECKING

import numpy as np

from morphsearch.strategies.base import Fits, Widths
from morphsearch.strategies.valley import SLOPE
from morphsearch.strategies.widths import largest_multiplier, lowest_width, step_of

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

AXES = ("early", "middle", "depth", "streams")
SLOPES = {"streams": 0.1}
"""How steeply losses are expected to change along an axis, where not as usual: what was tried of it told little."""


class Shapes:
    """The shapes of one network.

    Axes, with the logarithm of the factor of a group at depth `z` (-1 for the first free group, 1 for the last):

    - ``early``: ``-z``, so that 0.5 makes the first layers 2.7 times as wide as the last, in relation to the seed;
    - ``middle``: ``1/2 - 3/2 z^2`` (Legendre's second polynomial, turned over): 1/2 in the middle, -1 at both ends;
    - ``depth``: how many of the branches that end in the same stream (residual blocks of one stage) leave, the last
      first: ``exp(-depth)`` of them stay, to the nearest whole number, and at least one; what they cost makes the rest
      wider. A negative one changes nothing. Only where some stream has two branches or more that may leave;
    - ``streams``: 1/2 for groups that several layers make together (residual streams), -1/2 for the others; only where
      there are both.

    Args:
        graph: of the network; groups count in the order in which they are recorded.
        limit: no group gets wider than so many times its width in `graph`.
    """

    def __init__(self, graph: ConvGraph, limit: float) -> None:
        self.graph, self.limit = graph, limit
        free = [name for name in graph.groups if graph.groups[name].frozen is None]
        z = np.linspace(-1.0, 1.0, len(free)) if len(free) > 1 else np.zeros(len(free))
        makers = dict(zip(graph.groups, _makers(graph), strict=True))
        shared = np.array([makers[name] > 1 for name in free], bool)
        self._stacks = _stacks(graph)
        rows = {"early": -z, "middle": 0.5 - 1.5 * z**2}
        if self._stacks:
            rows["depth"] = np.zeros(len(free))
        if shared.any() and not shared.all():
            rows["streams"] = np.where(shared, 0.5, -0.5)
        self.axes: tuple[str, ...] = tuple(name for name in AXES if name in rows and len(free) > 1)
        self._rows = np.array([rows[name] for name in self.axes]).reshape(len(self.axes), len(free))
        self.slopes: tuple[float, ...] = tuple(SLOPES.get(name, SLOPE) for name in self.axes)
        self._free = free

    def widths(self, point: Sequence[float], fits: Fits, *, round_to: int = 1) -> Widths:
        """The widest widths of the shape at `point` (one number an axis) that `fits` accepts.

        Raises:
            BudgetError: not even the smallest widths fit.
        """
        factors = np.exp(np.asarray(point, float) @ self._rows) if self.axes else np.ones(len(self._free))
        base = {name: self.graph.widths[name] * float(factor) for name, factor in zip(self._free, factors, strict=True)}
        base |= dict.fromkeys(self._leaving(point), 0.0)
        most = {name: self._most(name, round_to) for name in self._free}

        def cut(widths: Widths) -> Widths:
            """Groups at the limit stay there, and the others take what is left."""
            return {**widths, **{name: min(widths[name], most[name]) for name in self._free}}

        _, found = largest_multiplier(self.graph, base, lambda widths: fits(cut(widths)), round_to=round_to)
        return cut(found)

    def within(self, point: Sequence[float]) -> tuple[float, ...]:
        """The same shape, without a number that changes nothing (a negative depth)."""
        return tuple(max(0.0, one) if axis == "depth" else one for axis, one in zip(self.axes, point, strict=True))

    def around(self, point: Sequence[float], step: float) -> list[tuple[float, ...]]:
        """The shapes a step along one axis from `point`, each way, but none beyond two steps from uniform scaling."""
        found: list[tuple[float, ...]] = []
        for axis in range(len(self.axes)):
            for way in (step, -step):
                moved = [min(max(one + way * (axis == at), -2 * step), 2 * step) for at, one in enumerate(point)]
                found.append(self.within(moved))
        return [one for one in dict.fromkeys(found) if one != tuple(point)]

    def described(self, point: Sequence[float]) -> str:
        """`point` in words: ``early -0.28, depth +0.5 (3 branches leave)``."""
        told = {axis: f"{axis} {one:+.2g}" for axis, one in zip(self.axes, point, strict=True) if one}
        if "depth" in told:
            count = sum(len(stack) - self._stay(point, stack) for stack in self._stacks)
            told["depth"] += f" ({count} {'branch leaves' if count == 1 else 'branches leave'})"
        return ", ".join(told.values()) or "uniform scaling"

    def _stay(self, point: Sequence[float], stack: Sequence[object]) -> int:
        """How many branches of a stream stay."""
        depth = max(0.0, float(point[self.axes.index("depth")]))
        return max(1, floor(len(stack) * exp(-depth) + 0.5))

    def _leaving(self, point: Sequence[float]) -> list[str]:
        """The groups that go with the branches that leave at `point`."""
        return [name for stack in self._stacks for one in stack[self._stay(point, stack) :] for name in one]

    def _most(self, name: str, round_to: int) -> int:
        group = self.graph.groups[name]
        step = step_of(group, round_to)
        return max(int(self.limit * group.width) // step * step, lowest_width(group, round_to))


def _stacks(graph: ConvGraph) -> list[list[list[str]]]:
    """The branches that may leave, in the order in which they are recorded, by the stream in which they end; each is
    the groups that go with it. Streams with one branch are left out: one stays in any case."""
    names, unit_of = list(graph.groups), graph.resolution.unit_of
    found: dict[frozenset[int], list[list[str]]] = {}
    known: set[frozenset[int]] = set()
    for name in names:
        if graph.groups[name].frozen is not None or graph.groups[name].floor > 0:
            continue
        removal = graph.gone_with([name])
        if removal is None or removal.groups in known:
            continue
        known.add(removal.groups)
        ids = np.concatenate([np.asarray(graph.tape.operations[join].outputs[0].ids).ravel() for join in removal.joins])
        units = unit_of[ids[ids > 0]]
        stream = frozenset(graph.unit_group[units[units >= 0]].tolist())
        found.setdefault(stream, []).append([names[one] for one in sorted(removal.groups)])
    stacks = [stack for stack in found.values() if len(stack) > 1]
    leaving = [name for stack in stacks for one in stack[1:] for name in one]
    return stacks if leaving and graph.gone_with(leaving) is not None else []


def _makers(graph: ConvGraph) -> np.ndarray:
    """`g`: how many layers make units of each group, those aside that go channel by channel."""
    apart = {op.parameters.get("weight") for op in graph.operations if op.attrs.get("groups", 1) > 1}
    mixing = {
        binding.tensor
        for binding in graph.bindings
        if binding.role == "columns" and not (binding.tensor in apart and binding.units.size == 1)
    }
    count = np.zeros(len(graph.groups), np.int64)
    for binding in graph.bindings:
        if binding.role == "rows" and binding.tensor in mixing:
            count[np.unique(graph.unit_group[binding.units[binding.units >= 0]])] += 1
    return count


__all__ = ["AXES", "Shapes"]
