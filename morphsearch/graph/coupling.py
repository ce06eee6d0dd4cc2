"""Whether what stays is coupled, and grouped, as before when branches go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from morphsearch.graph.flow import Removal
from morphsearch.graph.unionfind import components, values_in

if TYPE_CHECKING:
    from morphsearch.graph.graph import ConvGraph
    from morphsearch.graph.resolve import Resolution
    from morphsearch.graph.tape import Tape


# Groups from which on it saves time to look at one unit of each kind alone: to find those takes as long as a hundred
# looks at all.
WORTH_CHOOSING = 200


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
        random = np.random.default_rng(0).integers(1, 2**63, len(graph.tape.slots), dtype=np.uint64)
        for ((name, _), ids), number in zip(graph.tape.slots.items(), random, strict=True):
            units = graph.resolution.unit_of[ids]
            groups = _groups_of(units, graph.unit_group, len(graph.groups))
            self.holders[groups] += number
            self.count[groups] += 1
            self.held.setdefault(name, []).append((groups, number))
        # Every pair of identifiers that met, in the order of the operations in which they did.
        none = np.zeros(0, np.int64)
        unions = sorted(graph.tape.unions, key=lambda union: union[2])
        self.one = np.concatenate([none, *(one for one, *_ in unions)])
        self.other = np.concatenate([none, *(union[1] for union in unions)])
        met = np.array([0, *(one.size for one, *_ in unions)])
        steps = np.array([union[2] for union in unions], np.int64)
        self.slots: dict[str, list[np.ndarray]] = {}
        for (name, _), ids in graph.tape.slots.items():
            self.slots.setdefault(name, []).append(ids)
        if len(graph.groups) > WORTH_CHOOSING:
            met = self._choose(met, steps)
        # For every operation, where the pairs that met in it begin.
        self.start = np.cumsum(met)[np.searchsorted(steps, np.arange(len(graph.tape.operations) + 2))]
        self.number_of = {name: number for number, name in enumerate(self.slots, 1)}
        self.holder = np.zeros(graph.resolution.class_of.size, np.int64)  # of identifiers: the parameter, 0 for none
        for name, own in self.slots.items():
            for ids in own:
                self.holder[ids] = self.number_of[name]

    def _choose(self, met: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Leave one unit of each kind, and say how many of the pairs are left of each union (after a zero).

        Args:
            met: how many those are (after a zero).
            steps: the operation of each union.
        """
        tape, class_of = self.graph.tape, self.graph.resolution.class_of
        operation = np.repeat(steps, met[1:])
        chosen = representatives(tape, self.graph.resolution, self.one, self.other, operation)
        kept = chosen[class_of[self.one]]
        before = np.append(0, np.cumsum(kept))[np.cumsum(met)]
        self.one, self.other = self.one[kept], self.other[kept]
        self.slots = {name: [ids[chosen[class_of[ids]]] for ids in own] for name, own in self.slots.items()}
        return np.append(0, np.diff(before))

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


def _groups_of(units: np.ndarray, unit_group: np.ndarray, count: int) -> np.ndarray:
    """Which of the `count` groups `units` are of; mostly one, whose units follow each other."""
    low, high = (int(units.min()), int(units.max())) if units.size else (-1, -1)
    if low >= 0 and unit_group[low] == unit_group[high]:
        return unit_group[low : low + 1]
    return values_in(unit_group[units[units >= 0]], count)


def representatives(
    tape: Tape, resolution: Resolution, one: np.ndarray, other: np.ndarray, operation: np.ndarray
) -> np.ndarray:
    """`c` bool: of the classes of identifiers that are alike, one each; what falls apart in it does so in all of them.

    Alike are classes of one group with as many identifiers in each of the same slots, which met in the same operations,
    the first of each slot with the first of the other, and so on.

    Args:
        one, other: the pairs that met, `n` each.
        operation: in which operation they did, `n`.
    """
    class_of = resolution.class_of
    count = int(class_of.max(initial=0)) + 1
    # Of every identifier: a hash of its slot and of its place among those of its class there; 0 where it is in none.
    hash_of = np.zeros(class_of.size, np.uint64)
    twice = []
    for number, ids in enumerate(tape.identifiers.values(), 1):
        if hash_of[ids].any():
            twice.append(ids[hash_of[ids] != 0])
        hash_of[ids] = _mixed(np.uint64(number << 32) + _occurrence(class_of[ids]))
    units = resolution.unit_of
    group = np.where(units < 0, 0, resolution.unit_group[units] + 1) if resolution.unit_group.size else 0 * units
    hashes = np.zeros(count, np.uint64)
    hashes[class_of] = _mixed(group.astype(np.uint64))
    np.add.at(hashes, class_of, hash_of)
    met = _mixed(operation.astype(np.uint64) + hash_of[one] * np.uint64(3) + hash_of[other] * np.uint64(5))
    np.add.at(hashes, class_of[one], met)
    _, first = np.unique(hashes, return_index=True)
    chosen = np.zeros(count, bool)
    chosen[first] = True
    # Of an identifier in two slots, or in none that is known, this does not tell all: its class stands for itself.
    for ids in (*twice, one[hash_of[one] == 0], other[hash_of[other] == 0]):
        chosen[class_of[ids]] = True
    return chosen


def _occurrence(classes: np.ndarray) -> np.ndarray:
    """How many equal ones came before each."""
    found = np.zeros(classes.size, np.uint64)
    if (classes[1:] > classes[:-1]).all():
        return found
    order = np.argsort(classes, kind="stable")
    sorted_ones = classes[order]
    starts = np.flatnonzero(np.append(True, sorted_ones[1:] != sorted_ones[:-1]))
    found[order] = np.arange(classes.size) - np.repeat(starts, np.diff(np.append(starts, classes.size)))
    return found


def _mixed(value: np.ndarray) -> np.ndarray:
    """A hash of every number, uint64 (the finaliser of splitmix64, Steele, Lea and Flood, 2014)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: np.ndarray = value ^ (value >> np.uint64(31))
    return found


__all__ = ["Coupling", "representatives"]
