"""Whether what stays is coupled, and grouped, as before when branches go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from morphsearch.graph.flow import Removal
from morphsearch.graph.unionfind import components

if TYPE_CHECKING:
    from morphsearch.graph.graph import ConvGraph


class Coupling:
    """What couples the units of a network: whether those that stay are coupled as before when some go.

    In Res2Net (arXiv 1904.01169) each scale adds the one before it: where a scale goes that alone read a sum, what met
    in that sum is no longer coupled, and its one group would be two. In SKNet (arXiv 1903.06586) one path reads the
    first half of a stream and another the second: where the last such reader goes, two groups would be one.
    """

    def __init__(self, graph: ConvGraph) -> None:
        self.graph = graph
        # Groups are told apart by the layers that hold them: by a sum of random numbers, one for each of them.
        self.free = np.array([group.frozen is None for group in graph.groups.values()], bool)
        self.holders = np.zeros(len(graph.groups), np.uint64)
        self.count = np.zeros(len(graph.groups), np.int64)
        self.held: dict[str, list[tuple[np.ndarray, np.uint64]]] = {}
        random = np.random.default_rng(0).integers(1, 2**63, len(graph.bindings), dtype=np.uint64)
        for binding, number in zip(graph.bindings, random, strict=True):
            groups = values_in(graph.unit_group[binding.units[binding.units >= 0]], len(graph.groups))
            self.holders[groups] += number
            self.count[groups] += 1
            self.held.setdefault(binding.tensor, []).append((groups, number))
        unions = [(one, other, np.full(one.size, operation)) for one, other, operation, _ in graph.tape.unions]
        # Every pair of identifiers that met, and the operation in which they did.
        none = np.zeros(0, np.int64)
        self.one = np.concatenate([none, *(one for one, *_ in unions)])
        self.other = np.concatenate([none, *(other for _, other, _ in unions)])
        self.operation = np.concatenate([none, *(operation for *_, operation in unions)])
        self.slots: dict[str, list[np.ndarray]] = {}
        for (name, _), ids in graph.tape.slots.items():
            self.slots.setdefault(name, []).append(ids)

    def stays(self, removal: Removal) -> bool:
        """Without what goes, the units that stay are still coupled as in the seed, and in the same groups."""
        return self._apart(removal) and self._together(removal)

    def _apart(self, removal: Removal) -> bool:
        """No two groups are held by the same layers, which would make them one."""
        staying = self.free.copy()
        staying[list(removal.groups)] = False
        return self._distinct(removal.parameters, staying)

    def _distinct(self, parameters: Iterable[str], staying: np.ndarray) -> bool:
        """The groups `staying` (`g` bool) are as many without the layers of these parameters."""
        holders, count = self.holders.copy(), self.count.copy()
        for name in parameters:
            for groups, number in self.held.get(name, ()):
                holders[groups] -= number
                count[groups] -= 1
        held = staying & (count > 0)
        return np.unique(holders[held]).size == np.unique(self.holders[held]).size

    def robust(self, names: Iterable[str]) -> list[str]:
        """Of groups that may go alone, those of which any may go together, and no two others become one."""
        chosen: list[str] = []
        gone: frozenset[str] = frozenset()
        staying = self.free
        for name in names:
            removal = self.graph.gone_with([name])
            if removal is None:
                continue
            left = staying.copy()
            left[list(removal.groups)] = False
            if self._distinct(gone | removal.parameters, left):
                gone, staying = gone | removal.parameters, left
                chosen.append(name)
        return chosen

    def _together(self, removal: Removal) -> bool:
        """No unit falls apart into several."""
        graph, class_of = self.graph, self.graph.resolution.class_of
        gone = np.zeros(len(graph.groups), bool)
        gone[list(removal.groups)] = True
        left = np.append(~gone[graph.unit_group], True)[graph.resolution.unit_of]  # -1, fixed, stays
        for name in removal.parameters:
            for ids in self.slots.get(name, ()):
                left[ids] = False
        out = np.zeros(self.operation.max(initial=0) + 1, bool)
        out[[one for one in removal.operations if one < out.size]] = True
        lost = out[self.operation]
        apart = lost & left[self.one] & left[self.other]
        if not apart.any():
            return True
        # Only what met there can have fallen apart.
        touched = np.zeros(class_of.max(initial=0) + 1, bool)
        touched[class_of[self.one[apart]]] = True
        kept = ~lost & touched[class_of[self.one]]
        slots = [ids[left[ids]] for name, own in self.slots.items() if name not in removal.parameters for ids in own]
        ids = np.concatenate([np.zeros(0, np.int64), *slots])
        ids = ids[touched[class_of[ids]]]
        one, other = self.one[kept], self.other[kept]
        place = np.zeros(class_of.size, np.int64)
        known = values_in(np.concatenate([ids, one, other]), class_of.size)
        place[known] = np.arange(known.size)
        after = components(known.size, [(place[one], place[other])])[place[ids]]
        return values_in(after, class_of.size).size == values_in(class_of[ids], class_of.size).size


def values_in(numbers: np.ndarray, size: int) -> np.ndarray:
    """The values, in order, of whole numbers from 0 to ``size - 1``; far quicker than sorting or hashing them."""
    there = np.zeros(size, bool)
    there[numbers] = True
    return np.flatnonzero(there)


__all__ = ["Coupling"]
