"""When each tensor of a network is in memory: the network is run again on shapes, and storages are watched.

What keeps a tensor alive is not only who reads it last but also which Python frame still names it: ``x`` in
``x = self.stage(x)`` lives until the whole stage is done. So lifetimes are seen, not derived: after every operation,
weak references tell which storages are still there. Views and in-place operations share a storage and cost nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from morphsearch.costs.polynomial import Polynomial
from morphsearch.costs.sizes import elements
from morphsearch.graph.labels import Labels, counted
from morphsearch.graph.operations import TensorShape
from morphsearch.graph.recording import run_tape
from morphsearch.graph.tape import RawOperation, Tape, storage_key

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph, Operation


@dataclass(frozen=True)
class Storage:
    """Memory of one activation: its `size` in bytes, and the `module` that made it ("" for the network's input)."""

    size: Polynomial
    module: str


@dataclass(frozen=True)
class Lifetimes:
    """Storages of one run in evaluation mode.

    Attributes:
        storages: in the order of their making.
        live: for every operation, the storages that are there as it ends: its inputs, its outputs, and all that wait.
        inputs, outputs: for every operation, the storage of each of its inputs and outputs; -1 where it is not known.
        seen: whether the lifetimes were watched; else they end with the last operation that reads.
        gone: operations that do not run, since their branch is left out.
    """

    storages: tuple[Storage, ...]
    live: tuple[frozenset[int], ...]
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    seen: bool
    gone: frozenset[int] = frozenset()


class _Watch(Tape):
    """A tape that also notes which storages exist as each operation ends."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.alive: dict[int, int] = {}  # storages by key
        self.references: list[StorageWeakRef] = []  # they also keep an address from being used again
        self.storage_of: dict[int, int] = {}  # by identity of the labels, which the operations keep
        self.made: list[tuple[Labels, int, int]] = []  # labels, bytes, operation
        self.kept: list[Labels] = []
        self.live: dict[int, set[int]] = {}
        self.numbers: dict[int, int] = {}  # storages by key, also those that are gone
        self.filled: dict[int, Labels] = {}  # of storages that held filler, what was written over all of it

    def put(self, tensor: Tensor, labels: Labels) -> None:
        super().put(tensor, labels)
        if labels.parameter is not None:
            return
        self.alive = {key: s for key, s in self.alive.items() if not self.references[s].expired()}
        now = len(self.operations) - 1
        key = storage_key(tensor)
        if key not in self.alive:
            self.alive[key] = self.numbers[key] = len(self.made)
            self.references.append(StorageWeakRef(tensor.untyped_storage()))
            self.made.append((labels, tensor.untyped_storage().nbytes(), now))
        number = self.storage_of[id(labels)] = self.alive[key]
        first, size, _ = self.made[number]
        if first is not labels and first.blank and not labels.blank and tensor.nbytes == size:
            self.filled[number] = labels
        self.kept.append(labels)
        self.live.setdefault(now, set()).update(self.alive.values())


# Of graphs whose network was run already: a strategy may hang its gates on a network that is bound again later.
_KNOWN: WeakKeyDictionary[Tape, tuple[Any, Lifetimes]] = WeakKeyDictionary()


def everything(graph: ConvGraph) -> tuple[Operation, ...]:
    """All operations of the network that was recorded, also those of branches that are left out of `graph`."""
    whole = copy.copy(graph)
    whole.__dict__.pop("operations", None)
    return whole.operations


def watched(graph: ConvGraph) -> Lifetimes:
    """When each tensor is in memory in the network that was recorded, with all its branches; run once a graph."""
    known = _KNOWN.get(graph.tape)
    if known is None or known[0] is not graph.resolution:
        whole = copy.copy(graph)
        whole.__dict__["operations"] = everything(graph)
        known = _KNOWN[graph.tape] = graph.resolution, _watched(whole)
    return known[1]


def _watched(graph: ConvGraph) -> Lifetimes:
    """Run the network of `graph` once more, as it was recorded, and watch its storages.

    Where the second run is not the first (a network that counts its calls), lifetimes are derived from the graph alone:
    every output is new memory, free again after its last reader.
    """
    tapes: list[_Watch] = []

    def blank() -> Tape:
        tapes.append(_Watch(graph.model, decisions=graph.tape.decisions))
        return tapes[-1]

    run_tape(graph.model, graph.example_inputs, blank=blank, modes=(graph.on_meta,), like=graph.tape)
    tape = tapes[-1]
    recorded = graph.tape.operations[: graph.evaluated]
    again = tape.operations[: graph.evaluated]
    if [(o.kind, o.module) for o in recorded] != [(o.kind, o.module) for o in again]:
        return _derived(graph)
    where = {id(labels): (number, place) for number, op in enumerate(again) for place, labels in enumerate(op.outputs)}
    storages = []
    in_slices = _written_in_slices(graph, tape)
    for number, (first, size, now) in enumerate(tape.made):
        if number in in_slices:
            shape = TensorShape(in_slices[number], graph.resolution)
            storages.append(
                Storage(
                    elements(shape) * (size / max(1, prod(shape.shape))),
                    again[now].module if 0 <= now < len(again) else "",
                )
            )
            continue
        labels = tape.filled.get(number, first)
        maker, place = where.get(id(labels)) or _same_shape(again, now, labels)
        if maker < 0:  # the network's input, or filler that no operation of the graph made
            storages.append(Storage(Polynomial.constant(size), ""))
            continue
        shape = graph.operations[maker].outputs[place]
        per_element = size / max(1, prod(shape.shape))
        storages.append(Storage(elements(shape) * per_element, again[maker].module))
        tape.storage_of.setdefault(id(again[maker].outputs[place]), number)
    live: list[frozenset[int]] = []
    for number in range(len(again)):
        found = tape.live.get(number)
        live.append(frozenset(found) if found is not None else live[-1] if live else frozenset())
    find = tape.storage_of.get
    return Lifetimes(
        tuple(storages),
        tuple(live),
        tuple(tuple(find(id(labels), -1) for labels in op.inputs) for op in again),
        tuple(tuple(find(id(labels), -1) for labels in op.outputs) for op in again),
        seen=True,
    )


def _written_in_slices(graph: ConvGraph, tape: _Watch) -> dict[int, Labels]:
    """For storages that were made as filler and written slice by slice: the labels of all their elements."""
    found = {}
    # The same run as the recording's, whose units are known: storages come in its order.
    for key, (_, flat) in zip(tape.storages, graph.tape.storages.values(), strict=False):
        number = tape.numbers.get(key, -1)
        shape = tape.made[number][0].shape if number >= 0 else ()
        if prod(shape) == flat.numel():
            found[number] = counted(Labels(flat.reshape(shape), shape))
    return found


def _same_shape(operations: Sequence[RawOperation], now: int, labels: Labels) -> tuple[int, int]:
    """The output of the operation `now` that has the shape of `labels`; -1 where there is none."""
    if 0 <= now < len(operations):
        for place, output in enumerate(operations[now].outputs):
            if output.shape == labels.shape:
                return now, place
    return -1, -1


def _derived(graph: ConvGraph) -> Lifetimes:
    """Lifetimes from the graph alone."""
    storages: list[Storage] = []
    of: dict[int, int] = {}
    first: list[int] = []
    last: list[int] = []
    size = next((p.element_size() for p in graph.model.parameters() if p.is_floating_point()), 4)

    def find(labels: Labels, numel: Polynomial, module: str, now: int) -> int:
        if id(labels) not in of:
            of[id(labels)] = len(storages)
            storages.append(Storage(numel * size, module))
            first.append(now)
            last.append(now)
        last[of[id(labels)]] = now
        return of[id(labels)]

    inputs, outputs = [], []
    for now, op in enumerate(graph.operations):
        arriving = zip(op.raw.inputs, op.inputs, strict=True)
        leaving = zip(op.raw.outputs, op.outputs, strict=True)
        inputs.append(tuple(find(labels, elements(shape), "", now) for labels, shape in arriving))
        outputs.append(tuple(find(labels, elements(shape), op.module, now) for labels, shape in leaving))
    live = [
        frozenset(s for s in range(len(storages)) if first[s] <= now <= last[s]) for now in range(len(graph.operations))
    ]
    return Lifetimes(tuple(storages), tuple(live), tuple(inputs), tuple(outputs), seen=False)
