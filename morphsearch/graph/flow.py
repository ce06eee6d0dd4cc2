"""What of a network is left with nothing to do once whole groups of units are gone.

Every operation is put into one of four states, in the order of execution. An operation whose output consists of gone
units alone is *absent*. One that computes zero from what is gone, its own parameters at zero, is *zero*: the
convolution that reads an absent tensor, the norm after it. One that computes a constant from zeros (the sigmoid of a
gate) is *constant*. All others are alive. Where what is gone meets what is alive, only two ways are legal: a sum, of
which the other term remains (the skip of a residual block), and a concatenation, of which the other parts remain (a
dense input). In the end, what nobody reads any more is gone as well.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from morphsearch.graph.labels import Labels
from morphsearch.graph.resolve import Resolution
from morphsearch.graph.silence import ZERO_TO_ZERO
from morphsearch.graph.tape import RawOperation, Tape

ABSENT, ZERO, CONSTANT = "absent", "zero", "constant"
OTHER = -1  # stands for units that no group has

_DENSE = frozenset("conv conv_transpose linear".split())
_NORMS = frozenset("batch_norm layer_norm group_norm instance_norm".split())
_PRODUCTS = frozenset("mul mm bmm matmul".split())
_TO_CONSTANT = frozenset(
    "sigmoid hardsigmoid exp softplus clamp clamp_min clamp_max softmax _softmax log_sigmoid_forward rsub".split()
)


@dataclass(frozen=True)
class Removal:
    """What goes when groups go.

    Attributes:
        groups: positions of all groups that are gone then. operations: indices of the operations that are.
        joins: indices of the sums and concatenations that have lost a term.
        parameters: names of the parameters and buffers that nothing reads any more.
    """

    groups: frozenset[int]
    operations: frozenset[int]
    joins: frozenset[int]
    parameters: frozenset[str]


@dataclass
class Flow:
    """Who reads what, and whose units lie in it: the tape of a network in terms of groups."""

    operations: list[RawOperation]
    movable: frozenset[int]
    reads: list[list[tuple[frozenset[int], int, tuple[int, ...]]]] = field(default_factory=list)
    makes: list[list[frozenset[int]]] = field(default_factory=list)
    readers: list[list[int]] = field(default_factory=list)
    touching: dict[int, list[int]] = field(default_factory=dict)
    users: dict[str, list[int]] = field(default_factory=dict)
    hopeless: set[tuple[int, str]] = field(default_factory=set)  # operations that cannot be in a state, alone

    @classmethod
    def of(cls, tape: Tape, resolution: Resolution) -> Flow:
        """`movable` are the positions of the groups whose width may change."""
        groups = resolution.groups.values()
        flow = cls(tape.operations, frozenset(i for i, group in enumerate(groups) if group.frozen is None))
        flow.readers = [[] for _ in tape.operations]
        unit_group = np.append(resolution.unit_group, OTHER) - OTHER  # unit -1 reads the last
        present = np.zeros(len(groups) - OTHER, bool)
        known: dict[int, frozenset[int]] = {}  # the tape keeps labels alive

        def groups_in(labels: Labels) -> frozenset[int]:
            if id(labels) not in known:
                sides = [labels.ids] if labels.second is None else [labels.ids, labels.second]
                ids = np.concatenate([np.asarray(side).reshape(-1) for side in sides])
                units = np.where(ids > 0, resolution.unit_of[np.maximum(ids, 0)], -1)
                present[:] = False
                present[unit_group[units]] = True
                known[id(labels)] = frozenset((np.flatnonzero(present) + OTHER).tolist())
            return known[id(labels)]

        for index, operation in enumerate(tape.operations):
            inputs = [(groups_in(one), one.producer, one.shape) for one in operation.inputs if one.parameter is None]
            flow.reads.append(inputs)
            flow.makes.append([groups_in(one) for one in operation.outputs])
            for name in operation.parameters.values():
                flow.users.setdefault(name, []).append(index)
            for _, producer, _ in inputs:
                if 0 <= producer < index and (not flow.readers[producer] or flow.readers[producer][-1] != index):
                    flow.readers[producer].append(index)
            for group in set().union(*flow.makes[-1], *(read for read, _, _ in inputs)):
                flow.touching.setdefault(group, []).append(index)
        return flow

    def removal(self, groups: Iterable[int]) -> Removal | None:
        """What goes with `groups`, positions of groups; None where they cannot all go."""
        gone = set(groups)
        while gone <= self.movable:
            found = self._states(gone)
            if found is None:
                return None
            states, joins, more = found
            if not more:
                removed = self._unread(states)
                more = {
                    group
                    for index in removed
                    for group in {g for made in self.makes[index] for g in made} - gone - {OTHER}
                    if all(one in removed for one in self.touching[group])
                }
                if not more:
                    return self._removal(gone, removed, joins, states)
            gone |= more
        return None

    def _states(self, gone: set[int]) -> tuple[dict[int, str], set[int], set[int]] | None:
        """The states of all that is not alive, where the two meet, and groups that have to go as well.

        Where all else is alive behind an operation, what follows depends on its state alone, so no group has to go that
        way again once it led nowhere: else the groups of a plain stack would all go to its end.
        """
        passed: set[tuple[int, str]] = set()
        found = self._followed(gone, passed)
        if found is None:
            self.hopeless |= passed
        return found

    def _followed(
        self, gone: set[int], passed: set[tuple[int, str]]
    ) -> tuple[dict[int, str], set[int], set[int]] | None:
        """What :meth:`_states` finds; `passed` gets the operations behind which there is nothing but what follows."""
        states: dict[int, str] = {}
        joins: set[int] = set()
        queue = sorted({index for group in gone for index in self.touching.get(group, ())})
        known = set(queue)
        while queue:
            index = heapq.heappop(queue)
            kind, makes = self.operations[index].kind, self.makes[index]
            given = [ABSENT if groups <= gone else states.get(producer) for groups, producer, _ in self.reads[index]]
            state: str | None
            if makes and all(made <= gone for made in makes):
                state = ABSENT
            elif not any(given):
                continue
            elif kind in ("cat", "concat") and not all(given):
                passed.clear()  # what becomes of it depends on the groups that are gone as well
                more: set[int] = set()
                for one, (groups, _, _) in zip(given, self.reads[index], strict=True):
                    more |= groups - gone if one is not None else set()
                if not more <= self.movable:
                    return None
                if more:
                    return states, joins, more
                joins.add(index)
                continue
            elif kind in ("add", "sub") and not all(given):
                if not self._is_sum(index, given):
                    return None
                joins.add(index)
                continue
            else:
                state = self._state(self.operations[index], given)
                if state is None:
                    return None
            states[index] = state
            if not queue:
                if (index, state) in self.hopeless:
                    return None
                passed.add((index, state))
            for reader in self.readers[index]:
                if reader not in known:
                    known.add(reader)
                    heapq.heappush(queue, reader)
        return states, joins, set()

    def _is_sum(self, index: int, given: list[str | None]) -> bool:
        """Whether a sum without its terms that are zero is the one term that is alive."""
        operation = self.operations[index]
        alive = [shape for one, (_, _, shape) in zip(given, self.reads[index], strict=True) if one is None]
        ends = [producer for one, (_, producer, _) in zip(given, self.reads[index], strict=True) if one is None]
        if any(end >= 0 and self.operations[end].kind == "constant_pad_nd" for end in ends):
            return False  # channels that a shortcut fills with zeros are coupled to nothing without the branch
        plain = not operation.attrs.get("numbers") and not operation.parameters and set(given) <= {ZERO, None}
        first = operation.kind == "add" or given[0] is None
        return plain and first and len(alive) == 1 and alive[0] == operation.outputs[0].shape

    @staticmethod
    def _state(operation: RawOperation, given: list[str | None]) -> str | None:
        """What an operation makes of inputs that are not all alive; None where that is not known."""
        kind = operation.kind
        if kind in _DENSE or kind == "addmm":
            return None if len(given) != 1 else CONSTANT if given[0] == CONSTANT else ZERO
        if ABSENT in given:
            return None  # it reads across units that are gone, and makes something all the same
        if kind in _PRODUCTS and ZERO in given:
            return ZERO
        if None in given and not (kind == "div" and given[0] == ZERO):
            return None
        only_zeros = CONSTANT not in given
        if kind in _NORMS:
            return ZERO if only_zeros and "weight" in operation.parameters else CONSTANT
        if kind in ("add", "sub"):
            return ZERO if only_zeros and not operation.attrs.get("numbers") else CONSTANT
        if kind in ZERO_TO_ZERO or kind in ("cat", "concat", "stack", *_PRODUCTS) or kind == "div":
            return ZERO if only_zeros else CONSTANT
        return CONSTANT if kind in _TO_CONSTANT else None

    def _unread(self, states: Mapping[int, str]) -> set[int]:
        """Those with a state, and whatever is read by such alone."""
        removed = set(states)
        queue = [-producer for index in states for _, producer, _ in self.reads[index] if producer >= 0]
        heapq.heapify(queue)
        while queue:
            index = -heapq.heappop(queue)
            if index in removed or not all(reader in removed for reader in self.readers[index]):
                continue
            removed.add(index)
            for _, producer, _ in self.reads[index]:
                if producer >= 0:
                    heapq.heappush(queue, -producer)
        return removed

    def _removal(self, gone: set[int], removed: set[int], joins: set[int], states: Mapping[int, str]) -> Removal | None:
        own = {name for index in removed for name in self.operations[index].parameters.values()}
        if not own or not joins - removed:  # nothing goes, or what nobody reads as it is
            return None
        shared = {name for name in own if not removed.issuperset(self.users[name])}
        zeroed = {n for i, state in states.items() if state == ZERO for n in self.operations[i].parameters.values()}
        if shared & zeroed:  # a bias that somebody else reads cannot be at zero
            return None
        return Removal(frozenset(gone), frozenset(removed), frozenset(joins - removed), frozenset(own - shared))
