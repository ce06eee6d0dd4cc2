"""What still runs of a graph whose branches are left out (:meth:`~morphsearch.graph.ConvGraph.left_at`).

Such a graph lists fewer operations, but tensors still say which operation of the whole network made them. Where a
branch joins the others, the sum is gone too, and what reads it reads what is left of it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph, Operation


@dataclass(frozen=True)
class Running:
    """The operations of the whole network, and which of them run.

    Attributes:
        operations: all of them. gone: positions of those that do not run.
        left: for every sum that is gone, which of its inputs is left.
    """

    operations: tuple[Operation, ...]
    gone: frozenset[int]
    left: dict[int, int]

    def producer(self, number: int) -> int:
        """The operation that makes what is read from `number`: itself, or of a sum that is gone what is left."""
        while number in self.left:
            number = self.operations[number].raw.inputs[self.left[number]].producer
        return number


def running(graph: ConvGraph) -> Running:
    """What runs of `graph`."""
    recorded = graph.tape.operations[: graph.evaluated]
    if len(graph.operations) == len(recorded):
        return Running(graph.operations, frozenset(), {})
    whole = copy.copy(graph)
    whole.__dict__.pop("operations", None)
    there = {id(operation.raw) for operation in graph.operations}
    gone = frozenset(number for number, raw in enumerate(recorded) if id(raw) not in there)
    found = Running(whole.operations, gone, {})
    for number in sorted(gone):
        made = [found.producer(labels.producer) for labels in recorded[number].inputs]
        stays = [place for place, producer in enumerate(made) if producer not in gone]
        if stays and len(stays) < len(made):  # some come from a branch that is gone: it is where the branch ended
            found.left[number] = stays[0]
    return found
