"""What still runs of a graph whose branches are left out (:meth:`~morphsearch.graph.ConvGraph.left_at`).

Such a graph lists fewer operations, but tensors still say which operation of the whole network made them. Where a
branch joins the others, the sum is gone too, and what reads it reads what is left of it; or a copy of that, where the
next operation of the same module writes over it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from morphsearch.costs.kinds import VIEWS
from morphsearch.costs.lifetimes import Lifetimes, everything, watched

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph, Operation


@dataclass(frozen=True)
class Running:
    """The operations of the whole network, and which of them run.

    Attributes:
        operations: all of them; sums of which a copy is left as the ``clone`` that they become.
        gone: positions of those that do not run. copies: positions of such copies.
        left: for every sum that is gone, which of its inputs is left.
    """

    operations: tuple[Operation, ...]
    gone: frozenset[int]
    copies: frozenset[int]
    left: dict[int, int]

    @property
    def present(self) -> list[Operation]:
        """Those that run."""
        return [operation for number, operation in enumerate(self.operations) if number not in self.gone]

    def producer(self, number: int) -> int:
        """The operation that makes what is read from `number`: itself, or of a sum that is gone what is left."""
        while number in self.left:
            number = self.operations[number].raw.inputs[self.left[number]].producer
        return number


def running(graph: ConvGraph) -> Running:
    """What runs of `graph`."""
    if len(graph.operations) == graph.evaluated:
        return Running(graph.operations, frozenset(), frozenset(), {})
    operations = list(everything(graph))
    there = {id(operation.raw) for operation in graph.operations}
    gone = {number for number, operation in enumerate(operations) if id(operation.raw) not in there}
    found = Running(tuple(operations), frozenset(gone), frozenset(), {})
    copies = set()
    for number in sorted(gone):
        operation = operations[number]
        made = [found.producer(labels.producer) for labels in operation.raw.inputs]
        stays = [place for place, producer in enumerate(made) if producer not in gone]
        if not stays or len(stays) == len(made):
            continue
        # Some come from a branch that is gone, and some do not: it is where the branch ended.
        if _written_over(graph, number, operations, gone):
            place = stays[0]
            raw = replace(operation.raw, kind="clone", inputs=(operation.raw.inputs[place],))
            operations[number] = replace(operation, kind="clone", inputs=(operation.inputs[place],), raw=raw)
            copies.add(number)
            gone.discard(number)
        else:
            found.left[number] = stays[0]
    return Running(tuple(operations), frozenset(gone), frozenset(copies), found.left)


def _written_over(graph: ConvGraph, number: int, operations: list[Operation], gone: set[int]) -> bool:
    """Whether an operation of the same module works in place on what `number` makes."""
    seen, module = watched(graph), operations[number].module
    for reader, operation in enumerate(operations):
        if (
            reader in gone
            or operation.kind in VIEWS
            or operation.module.rpartition(".")[0] != module != operation.module
        ):
            continue
        for labels, storage in zip(operation.raw.inputs, seen.inputs[reader], strict=True):
            if labels.producer == number and storage in seen.outputs[reader][:1] and storage >= 0:
                return True
    return False


def lifetimes(graph: ConvGraph) -> Lifetimes:
    """When each tensor is in memory in the network of `graph`, less the branches that are left out of it."""
    seen, runs = watched(graph), running(graph)
    if not runs.gone:
        return seen
    maker: dict[int, int] = {}
    for number, outputs in enumerate(seen.outputs):
        for storage in outputs:
            maker.setdefault(storage, number)
    stands: dict[int, tuple[int, int]] = {}  # storage of a sum to its operation, and the storage that is left

    def left(storage: int, number: int) -> int:
        if maker.get(storage, -1) not in runs.gone:
            return storage
        since, other = stands.get(storage, (number + 1, -1))
        return other if since <= number else -1

    for number in sorted([*runs.left, *runs.copies]):
        for own in seen.outputs[number]:
            other = own if number in runs.copies else left(seen.inputs[number][runs.left[number]], number)
            stands[own] = number, other
    return replace(
        seen,
        live=tuple(frozenset(left(s, n) for s in live) - {-1} for n, live in enumerate(seen.live)),
        inputs=tuple(tuple(left(s, n) for s in one) for n, one in enumerate(seen.inputs)),
        outputs=tuple(tuple(left(s, n) for s in one) for n, one in enumerate(seen.outputs)),
        gone=runs.gone,
    )
