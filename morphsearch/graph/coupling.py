"""Whether what stays is coupled, and grouped, as before when branches go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from morphsearch.graph.flow import Removal
from morphsearch.graph.unionfind import components, values_in

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
        # Every pair of identifiers that met, in the order of the operations in which they did.
        none = np.zeros(0, np.int64)
        unions = sorted(graph.tape.unions, key=lambda union: union[2])
        self.one = np.concatenate([none, *(one for one, *_ in unions)])
        self.other = np.concatenate([none, *(union[1] for union in unions)])
        self.operation = np.concatenate([none, *(np.full(union[0].size, union[2]) for union in unions)])
        steps = np.arange(len(graph.tape.operations) + 2)
        self.start = np.searchsorted(self.operation, steps)
        self.slots: dict[str, list[np.ndarray]] = {}
        for (name, _), ids in graph.tape.slots.items():
            self.slots.setdefault(name, []).append(ids)
        self.number_of = {name: number for number, name in enumerate(self.slots, 1)}
        self.holder = np.zeros(graph.resolution.class_of.size, np.int64)  # of identifiers: the parameter, 0 for none
        for name, own in self.slots.items():
            for ids in own:
                self.holder[ids] = self.number_of[name]

    def stays(self, removal: Removal) -> bool:
        """Without what goes, the units that stay are still coupled as in the seed, and in the same groups."""
        return self._apart(removal) and self._together(removal)

    def _apart(self, removal: Removal) -> bool:
        """No two groups are held by the same layers, which would make them one."""
        staying = self.free.copy()
        staying[list(removal.groups)] = False
        return self._distinct(*self._less(self.holders, self.count, removal.parameters), staying)

    def _less(self, holders: np.ndarray, count: np.ndarray, parameters: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """`holders` and `count` of groups without the layers of these parameters."""
        holders, count = holders.copy(), count.copy()
        for name in parameters:
            for groups, number in self.held.get(name, ()):
                holders[groups] -= number
                count[groups] -= 1
        return holders, count

    def _distinct(self, holders: np.ndarray, count: np.ndarray, staying: np.ndarray) -> bool:
        """The groups `staying` (`g` bool) are as many with these holders as in the seed."""
        held = staying & (count > 0)
        return len(set(holders[held].tolist())) == len(set(self.holders[held].tolist()))

    def robust(self, names: Iterable[str]) -> list[str]:
        """Of groups that may go alone, those of which any may go together, and no two others become one."""
        chosen: list[str] = []
        gone: set[str] = set()
        staying, holders, count = self.free, self.holders, self.count
        for name in names:
            removal = self.graph.gone_with([name])
            if removal is None:
                continue
            left = staying.copy()
            left[list(removal.groups)] = False
            less = self._less(holders, count, removal.parameters - gone)
            if self._distinct(*less, left):
                gone |= removal.parameters
                staying, (holders, count) = left, less
                chosen.append(name)
        return chosen

    def _together(self, removal: Removal) -> bool:
        """No unit falls apart into several."""
        graph, class_of = self.graph, self.graph.resolution.class_of
        gone = np.zeros(len(graph.groups), bool)
        gone[list(removal.groups)] = True
        leaving = np.zeros(len(self.number_of) + 1, bool)
        leaving[[self.number_of[name] for name in removal.parameters if name in self.number_of]] = True

        def left(ids: np.ndarray) -> np.ndarray:
            units = graph.resolution.unit_of[ids]
            found: np.ndarray = leaving[self.holder[ids]] | ((units >= 0) & gone[graph.unit_group[units]])
            return ~found

        places = [np.arange(self.start[one], self.start[one + 1]) for one in sorted(removal.operations)]
        lost = np.concatenate([np.zeros(0, np.int64), *places])
        apart = lost[left(self.one[lost]) & left(self.other[lost])]
        if not apart.size:
            return True
        # Only what met there can have fallen apart.
        touched = np.zeros(class_of.max(initial=0) + 1, bool)
        touched[class_of[self.one[apart]]] = True
        kept = touched[class_of[self.one]]
        kept[lost] = False
        slots = [ids for name, own in self.slots.items() if name not in removal.parameters for ids in own]
        ids = np.concatenate([np.zeros(0, np.int64), *slots])
        ids = ids[touched[class_of[ids]]]
        ids = ids[left(ids)]
        one, other = self.one[kept], self.other[kept]
        place = np.zeros(class_of.size, np.int64)
        known = values_in(np.concatenate([ids, one, other]), class_of.size)
        place[known] = np.arange(known.size)
        after = components(known.size, [(place[one], place[other])])[place[ids]]
        return values_in(after, class_of.size).size == values_in(class_of[ids], class_of.size).size


__all__ = ["Coupling"]
