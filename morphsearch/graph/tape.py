"""The tape: runs a network once and writes down its operations, units and what couples them.

A ``TorchFunctionMode`` sees whole layers (``conv2d``, ``linear``, ``batch_norm``) before they fall apart, with the
parameters they were given; a ``TorchDispatchMode`` sees everything else as ATen operations, whatever Python called
them.
Every tensor carries :class:`~morphsearch.graph.labels.Labels`; every dimension of every parameter that a layer reads by
channel is a *slot*, a row of fresh unit identifiers. Rules say which identifiers are the same unit (`union`), which can
never leave (`pin`) and where removal is not exact (`mix`); the tape only collects these as arrays, and
:mod:`~morphsearch.graph.resolve` makes units and groups of them at the end, all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_map

from morphsearch.graph.answers import Answers
from morphsearch.graph.folded import Folded
from morphsearch.graph.labels import LOOSE, RIGID, Labels, compact, constant, numbers, unknown
from morphsearch.graph.layout import Aligned, Layout
from morphsearch.graph.outside import Outside
from morphsearch.graph.paths import buffers_of, modules_of
from morphsearch.graph.state import Kept, Stale, State
from morphsearch.graph.tensors import tensors_in

Slot = tuple[str, int]
Union = tuple[np.ndarray, np.ndarray, int, Slot | None]
"""What is one, in which operation, and where it may be rearranged."""
MANY = 4096  # entries from which on it is worth looking for those that come again


@dataclass
class RawOperation:
    """One recorded operation; `inputs` and `outputs` hold the labels as they were recorded."""

    kind: str
    module: str
    inputs: tuple[Labels, ...]
    outputs: tuple[Labels, ...]
    parameters: dict[str, str] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None


@dataclass(frozen=True)
class Making:
    """What an operation gave that mixed a parameter by data, and which of its elements that is."""

    parameter: str
    made: Labels
    elements: Tensor


@dataclass(frozen=True)
class Values:
    """What a module was called with (positional arguments), or gave, and the labels that its tensors had then."""

    values: Any
    labels: list[tuple[Tensor, Labels]]

    @classmethod
    def of(cls, values: Any, parameters: Collection[int]) -> Values | None:
        """Values of this moment; lists are copied, since the network may go on to fill them. None where one of them is
        a parameter (`parameters`: their identities), which another run will not know again."""
        tensors = tensors_in(values)
        if any(id(tensor) in parameters for tensor in tensors):
            return None
        labels = [(tensor, getattr(tensor, "_morphsearch_labels", None)) for tensor in tensors]
        return cls(tree_map(lambda leaf: leaf, values), [(tensor, one) for tensor, one in labels if one is not None])


@dataclass
class Call:
    """One call of a module."""

    given: Values | None
    made: Values | None = None


class Untraceable(Exception):
    """Recording on shapes alone is impossible here (the network looks at values): record on real numbers."""


class Tape:
    """Collects operations, slots, unions, pins and mixes while the network runs.

    Args:
        model: the network; `names` and module paths are read from it.
        slots: identifiers that slots must have, from a previous recording (used to check a rewritten network).
        decisions: choices that a rule made for this network at other widths and must make again (by weight name).
        modules: those of the network by path, where they are at hand.
    """

    def __init__(
        self,
        model: nn.Module,
        slots: Mapping[Slot, np.ndarray] | None = None,
        first_id: int = 1,
        decisions: Mapping[str, str] | None = None,
        modules: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self.preset = dict(slots or {})
        self.decisions = dict(decisions or {})
        self.replaying = decisions is not None or slots is not None
        self.asked: dict[str, int] = {}
        self.doing = ""
        self.fillers: dict[str, np.ndarray] = {}
        self.parameter_mixes: list[tuple[str, int, str]] = []
        self.positions: list[tuple[Tensor, np.ndarray, str]] = []
        self.slots: dict[Slot, np.ndarray] = {}
        self.roles: dict[Slot, set[tuple[str, str]]] = {}
        self.states: dict[str, str] = {}  # which of them begin a recurrence, and their dimension of units
        self.created = 0  # tensors made on the way that could hold channels
        self.joins: dict[str, Callable[[int, str], np.ndarray]] = {}  # parameters that were joined, see rules.joining
        self.parts: dict[str, tuple[str, ...]] = {}  # and which those are
        self.merged: dict[Slot, np.ndarray] = {}  # their slices
        self.vectors: dict[Slot, Slot] = {}  # a vector made of a parameter, and the slices that a product sums with it
        self.mixtures: dict[str, str] = {}  # names of weights mixed by data, and their parameters, see rules.mixtures
        self.makings: dict[str, list[Making]] = {}  # what made them
        self.addends: dict[str, list[dict[int, Slot]]] = {}  # what was added to them: by dimension of the parameter
        self.beside: dict[str, int] = {}  # those parameters, and their dimension of columns
        self.weighed: dict[int, str] = {}  # operations that may have mixed a parameter, and which
        self.wishes: set[str] = set()  # parameters that convolutions read, weighed by data
        self.layouts: dict[str, Folded] = {}  # parameters that hold several dimensions as one
        self.lengths: dict[Slot, str] = {}  # slices of which only the direction counts, and what holds their lengths
        self.sums: list[tuple[str, str]] = []  # parameters that are added, element by element, to make one weight
        self.bent: dict[str, str] = {}  # parameters that are computed with otherwise than linearly, and by what
        self.lifted: dict[
            str, str
        ] = {}  # those of which something is made that is not zero where they are, and by what
        modules = modules_of(model) if modules is None else modules
        self.buffers = set(buffers_of(modules))
        self.unions: list[Union] = []
        self.pins: list[tuple[np.ndarray, str, int]] = []
        self.mixes: list[tuple[np.ndarray, str]] = []
        self.operations: list[RawOperation] = []
        self.next_id = first_id
        self.names: dict[int, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.imaginary: dict[str, str] = {}  # complex parameters and buffers, and what messages call them
        self.read: set[str] = set()  # parameters and buffers that a rule has looked into
        self.latest: Labels | None = None  # of the parameter that was looked at last: rules look repeatedly
        self.module_names = {id(module): name for name, module in modules.items()}
        self.module_stack: list[str] = [""]
        self.visited: set[str] = set()
        self.graphs: dict[Any, Any] = {}  # traces of modules, by what makes modules alike
        self.traces: dict[str, Any] = {}  # what traces of modules gave, by path, for every rewrite
        self.foreseen: tuple[str, ...] = ()  # modules in which a rewrite was proven with sizes that they told
        self.written: dict[str, Any] = {}  # what calls with sizes gave in code that cannot be traced, by path
        self.watched: dict[str, Any] = {}  # which of their nodes is which operation, by path
        self.calls: dict[str, Call | None] = {}  # how modules were called; None: several times
        self.keeps_calls = False
        self.remembers = False  # what the modules hold, though it is a recording of a rewritten network
        self.state: State | None = None  # what the modules held when this recording began
        self.outside: Outside | None = None  # what their code kept elsewhere then
        self.caches: Kept = {}  # what their code wrote into them
        self.stale: Stale = {}  # of that, what networks at other widths were seen not to go on with
        # Memory that is written in slices, by its key: a reference that keeps that key from being used again (and not
        # the memory from being freed), and a label for each element.
        self.storages: dict[int, tuple[StorageWeakRef, Tensor]] = {}
        self.muted = 0
        self.splits: list[Layout] = []
        self.layout_of: dict[str, Layout] = {}  # the same, by name
        self.aligned: dict[Any, Aligned] = {}  # units in lockstep, by where their labels lie in memory and how
        self.parted: list[tuple[str, Tensor, int]] = []  # reshapes of channels into parts: name, units, their dimension
        self.side: int | None = None
        self.pairs = False
        self.on_meta = False
        self.answers = Answers()  # what follows from data, where it runs on real numbers
        self.in_training = False

    # -- names ---------------------------------------------------------------------------------------------------

    def register(self, tensor: Tensor, name: str) -> None:
        """Make `tensor` known as the parameter or buffer `name` (the first name of a tied one is kept)."""
        self.names.setdefault(id(tensor), name)
        self.shapes[self.names[id(tensor)]] = tuple(tensor.shape)

    def name_of(self, tensor: Any) -> str | None:
        """The name of a parameter or buffer, None for other tensors."""
        return self.names.get(id(tensor))

    @property
    def module(self) -> str:
        """Path of the module whose forward is running."""
        return self.module_stack[-1]

    # -- labels --------------------------------------------------------------------------------------------------

    def labels(self, tensor: Tensor) -> Labels | None:
        """The labels of `tensor`: of an activation, of a parameter's elements, or None for a constant from nowhere."""
        name = self.names.get(id(tensor))
        if name is not None:
            self.read.add(name)
            if name in self.imaginary:
                return unknown(tuple(tensor.shape))
            if self.latest is None or self.latest.parameter != name:
                shape = tuple(tensor.shape)
                self.latest = Labels(numbers(tensor.numel()).view(shape), shape, -1, name)
            return self.latest
        if self.storages:
            written = self.storages.get(storage_key(tensor))
            if written is not None:
                ids = written[1].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
                return compact(ids.clone(), tuple(tensor.shape))
        found: Labels | None = getattr(tensor, "_morphsearch_labels", None)
        return found if found is None or found.second is None else self._one_side(found)

    def pair(self, tensor: Tensor) -> Labels | None:
        """The labels of an outer product of channels, both sides; None for other tensors."""
        found: Labels | None = getattr(tensor, "_morphsearch_labels", None)
        return found if found is not None and found.second is not None else None

    def _one_side(self, labels: Labels) -> Labels:
        """The side of an outer product that is looked at; a rule that looks at none fixes the channels of both."""
        assert labels.second is not None
        if self.side is not None:
            return Labels(labels.second if self.side else labels.ids, labels.shape, labels.producer)
        for ids in (labels.ids, labels.second):
            self.pin(ids, f"{self.where(self.doing or 'an operation')}: it reads an outer product of channels")
        return constant(RIGID, labels.shape)

    def activation(self, tensor: Tensor) -> Labels:
        """The labels of an activation; a constant or parameter counts as rigid data."""
        labels = self.labels(tensor)
        if labels is None or labels.parameter is not None:
            return constant(RIGID, tuple(tensor.shape))
        return labels

    def put(self, tensor: Tensor, labels: Labels) -> None:
        """Attach labels to a tensor."""
        tensor._morphsearch_labels = labels  # type: ignore[attr-defined]

    # -- facts ---------------------------------------------------------------------------------------------------

    def slot(self, name: str, dim: int, role: str) -> np.ndarray:
        """The identifiers of the slices of parameter `name` along `dim`, made on first use."""
        key = (name, dim)
        if name in self.joins:
            self.merged[key] = self.joins[name](dim, role)
            return self.merged[key]
        ids = self.slots.get(key)
        if ids is None:
            ids = self.preset.get(key)
            if ids is None:
                ids = self.fresh(self.shapes[name][dim])
            self.slots[key] = ids
            self.roles[key] = set()
        self.roles[key].add((role, self.module))
        return ids

    def parts_of(self, name: str) -> tuple[str, ...]:
        """The parameters behind a name: itself, or those that were joined."""
        return self.parts.get(name, (name,) if name else ())

    def fresh(self, count: int) -> np.ndarray:
        """New unit identifiers."""
        ids = np.arange(self.next_id, self.next_id + count, dtype=np.int64)
        self.next_id += count
        return ids

    def filler(self, what: str, count: int) -> np.ndarray | None:
        """Identifiers for `count` channels that no parameter holds (zero padding, the sets of a norm without scale).

        They follow the units that they meet. None where a rewritten network has another number of them than planned.
        """
        key = self.occurrence(what)
        if self.preset:
            planned: np.ndarray | None = self.preset.get((key, 0))
            if planned is None or planned.size != count:
                return None
            self.fillers[key] = planned
            return self.fillers[key]
        new: np.ndarray = self.fresh(count)
        self.fillers[key] = new
        return new

    @property
    def identifiers(self) -> dict[Slot, np.ndarray]:
        """All slots and, under their keys, the fillers."""
        return self.slots | {(key, 0): ids for key, ids in self.fillers.items()}

    @property
    def last_filler(self) -> str:
        """The key of the filler that was made last."""
        return next(reversed(self.fillers), "")

    def decide(self, what: str, choice: str | None, *, strict: bool = False) -> str | None:
        """What a rule chose here for the seed, which every network at other widths must choose too.

        Which dimensions carry units cannot be seen where a group has shrunk to one unit. `choice` is what this
        recording suggests, None for the usual; only unusual ones are written down.
        """
        key = self.occurrence(what)
        if key in self.decisions:
            return self.decisions[key]
        if choice is not None and not self.replaying:
            self.decisions[key] = choice
        return None if strict and self.replaying else choice

    def asked_last(self, what: str) -> str:
        """The name under which the last decision about `what` in this module is kept."""
        key = f"{self.module}:{what}"
        return f"{key}#{self.asked[key]}"

    def lay_out(self, ids: Tensor) -> None:
        """Remember a reshape to more dimensions."""
        layout = Layout(self.occurrence("layout"), ids)
        self.splits.append(layout)
        self.layout_of[layout.name] = layout

    def occurrence(self, what: str) -> str:
        """A name for what happens here, which says how many times it did before in this module."""
        key = f"{self.module}:{what}"
        self.asked[key] = self.asked.get(key, 0) + 1
        return f"{key}#{self.asked[key]}"

    def fuse(self, ids: Tensor, dim: int) -> Tensor:
        """All units along `dim` become one (rigid data among them pins it); returns the labels with size 1 there."""
        if ids.shape[dim] == 1:
            return ids
        head = ids.amax(dim, keepdim=True)
        self.union(head.expand_as(ids), ids)
        return head

    def union(self, a: np.ndarray | Tensor, b: np.ndarray | Tensor, slot: Slot | None = None) -> None:
        """Element by element, `a` and `b` are the same unit; a unit that meets rigid data is pinned.

        `slot` names the parameter dimension that `b` came from, where the order of `b` may be rearranged to suit `a`.
        """
        a, b = flat(a), flat(b)
        differ = a != b if a.size == b.size else None
        if differ is not None and not differ.any():
            return
        both = (a > 0) & (b > 0)
        whole = bool(both.all())
        if self.preset:  # a rewritten network is checked: only what should be equal and is not says something
            self.unions.append((a, b, len(self.operations), slot))
        else:
            differ = a != b if differ is None else differ
            left, right = distinct(a, b, keep=differ if whole else differ & both)
            self.unions.append((left, right, len(self.operations), slot))
        if not whole:
            alone = np.concatenate([a[(a > 0) & (b == RIGID)], b[(b > 0) & (a == RIGID)]])
            if alone.size:
                what = self.where(self.doing or "an operation")
                self.pin(
                    alone,
                    f"{what}: it meets data whose number of channels is fixed (the network's input or a constant)",
                )

    def pin(self, ids: np.ndarray | Tensor, reason: str) -> None:
        """These units can never leave."""
        (units,) = distinct(every := flat(ids), keep=every > 0)
        if units.size:
            self.pins.append((units, reason, len(self.operations)))

    def mix(self, ids: np.ndarray | Tensor, what: str) -> None:
        """Removing one of these units changes what the others compute."""
        (units,) = distinct(every := flat(ids), keep=every > 0)
        if units.size:
            self.mixes.append((units, what))

    def mark_positions(self, index: Tensor, ids: np.ndarray | Tensor, what: str) -> None:
        """`index` holds channel numbers: whoever reads it fixes the channels `ids` that it counts."""
        every = flat(ids)
        if (every > 0).any():
            self.positions.append((index, every, what))

    def read_positions(self, values: Any) -> None:
        """Pin what is counted by an index among `values`."""
        if not self.positions:
            return
        given = {id(tensor) for tensor in tensors_in(values)}
        for index, ids, what in self.positions:
            if id(index) in given:
                self.pin(ids, f"{what}: the numbers of its channels are read")

    def where(self, what: str) -> str:
        """`what`, with the module it ran in, for messages."""
        return f"{what} in {self.module}" if self.module else what

    def emit(
        self,
        kind: str,
        inputs: Sequence[Labels],
        outputs: Sequence[Labels],
        **extra: Any,
    ) -> int:
        """Write one operation down and return its index; the outputs' labels are marked as made by it."""
        index = len(self.operations)
        for labels in outputs:
            labels.producer = index
        self.operations.append(RawOperation(kind, self.module, tuple(inputs), tuple(outputs), **extra))
        return index


class unseen:
    """What runs inside is nothing to record: it goes past both modes."""

    __slots__ = ("_dispatch", "_function")

    def __enter__(self) -> None:
        self._function, self._dispatch = torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch()
        self._function.__enter__()
        self._dispatch.__enter__()

    def __exit__(self, *error: object) -> None:
        self._dispatch.__exit__(None, None, None)
        self._function.__exit__(None, None, None)


def flat(ids: np.ndarray | Tensor) -> np.ndarray:
    """Identifiers in one row."""
    return (ids.numpy() if isinstance(ids, Tensor) else np.asarray(ids)).reshape(-1)


def distinct(*rows: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, ...]:
    """Where `keep` holds, the entries of one array, or of two side by side; long ones without what comes again.

    Labels of attention and of flattened images say the same of millions of elements.
    """
    kept = rows if keep.all() else tuple(row[keep] for row in rows)
    if kept[0].size < MANY:
        return kept
    first = kept[0]
    new = np.ones(first.size, bool)
    np.not_equal(first[1:], first[:-1], out=new[1:])
    for row in kept[1:]:
        new[1:] |= row[1:] != row[:-1]
    if not new.all():
        kept = tuple(row[new] for row in kept)
        first = kept[0]
    if first.size >= MANY and not (first[1:] > first[:-1]).all():
        # Identifiers stay far below 2 ** 31, so that two make one number.
        joined = first if len(kept) == 1 else (first.astype(np.int64) << 32) | kept[1]
        _, places = np.unique(joined, return_index=True)
        if places.size < first.size:
            places.sort()
            kept = tuple(row[places] for row in kept)
    return kept


def storage_key(tensor: Tensor) -> int:
    """An identity of the memory behind a tensor, also where there is none (meta)."""
    return int(tensor.untyped_storage()._cdata)


__all__ = [
    "LOOSE",
    "RIGID",
    "RawOperation",
    "Slot",
    "Tape",
    "Untraceable",
    "storage_key",
    "unseen",
]
