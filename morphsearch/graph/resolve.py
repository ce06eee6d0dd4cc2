"""From a tape to units and groups: one union-find over all identifiers, then one hash per unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from morphsearch.graph.folded import Folded
from morphsearch.graph.recording import OUTPUT
from morphsearch.graph.tape import Slot, Tape
from morphsearch.graph.unionfind import components, narrow


@dataclass(frozen=True)
class Binding:
    """The slices of one parameter or buffer along one dimension, and the unit that each belongs to.

    Of kernels that lie flat in a bank, rows and columns are two bindings along one dimension.

    Args:
        tensor: name in ``named_parameters()`` or ``named_buffers()``.
        dim: the dimension.
        units: flat unit index of every slice, -1 where the slice can never leave; its length is the size along `dim`.
        role: ``rows`` or ``columns`` of a weight, ``norm`` (a scale), ``bias``, ``gate``, ``other``.
        module: path of the module that used it.
    """

    tensor: str
    dim: int
    units: np.ndarray
    role: str
    module: str


@dataclass(frozen=True)
class Bound:
    """The bindings of a network, made when they are asked for: of flat banks they hold a number for every element."""

    slots: Mapping[Slot, np.ndarray]
    roles: Mapping[Slot, set[tuple[str, str]]]
    layouts: Mapping[str, Folded]
    unit_of: np.ndarray

    @cached_property
    def bindings(self) -> tuple[Binding, ...]:
        """One for each slot, in their order."""
        bindings = []
        for slot, ids in self.slots.items():
            units = self.unit_of[ids]
            role, module = sorted(self.roles[slot], key=lambda r: (_ROLE_ORDER.get(r[0], 9), r[1]))[0]
            layout = self.layouts.get(slot[0])
            dim = slot[1] if layout is None else layout.dim(slot[1])
            units = units if layout is None else layout.spread(units, slot[1])
            bindings.append(Binding(slot[0], dim, units, role, module))
        return tuple(bindings)


@dataclass(frozen=True)
class Group:
    """Units of the same structure.

    Args:
        name: path of the first layer that makes these units (``#2`` and so on where a layer makes several groups).
        width: number of units.
        floor: the fewest units the group may keep; 0 where its branch can be left out.
        multiple: widths must be multiples of this.
        frozen: why no unit of it may leave, or None.
        mixes: operations in which a removed unit changes what the others compute (removal is not exact there).
        layers: paths of all modules that hold slices of these units.
        channels: how many rows of its first layer one unit has.
    """

    name: str
    width: int
    floor: int = 1
    multiple: int = 1
    frozen: str | None = None
    mixes: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    channels: int = 1


@dataclass(frozen=True)
class Resolution:
    """Everything the tape's identifiers come to.

    `unit_of` maps an identifier to its flat unit (-1: fixed), `class_of` to its component (all identifiers),
    `unit_of_class` a component to its unit.
    """

    groups: dict[str, Group]
    bound: Bound
    unit_of: np.ndarray
    class_of: np.ndarray
    unit_of_class: np.ndarray
    unit_group: np.ndarray

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """Which unit each slice of each parameter and buffer belongs to."""
        return self.bound.bindings

    @cached_property
    def one_of_class(self) -> np.ndarray:
        """For every class one of its identifiers."""
        found = np.zeros(int(self.class_of.max(initial=0)) + 1, np.int64)
        found[self.class_of] = np.arange(self.class_of.size)
        return found


PRODUCING = ("rows", "gate")
BESIDE = "its layer makes the network's output, and no layer reads this part"


def resolve(tape: Tape, frozen: Mapping[int, str] | None = None) -> Resolution:
    """Resolve the tape's facts.

    Args:
        frozen: identifiers to pin beside the tape's own pins, with reasons (what a rewrite found impossible).
    """
    size = tape.next_id
    class_of = components(size, [(a, b) for a, b, _, _ in tape.unions])
    count = int(class_of.max()) + 1 if size else 0
    reasons, reason_of = _reasons(tape, class_of, count, frozen or {})

    produced = np.zeros(count, bool)
    first_row = np.full(count, size, class_of.dtype)
    hashes = np.zeros(count, np.uint64)
    generator = np.random.default_rng(0)
    for slot, ids in tape.slots.items():
        classes = class_of[ids]
        np.add.at(hashes, classes, generator.integers(1, 2**63, dtype=np.uint64))
        if any(role in PRODUCING for role, _ in tape.roles[slot]):
            produced[classes] = True
            np.minimum.at(first_row, classes, ids.astype(class_of.dtype))
    _keep_heads_whole(tape, class_of, reasons, reason_of)
    makers = _makers(tape)
    starts = [int(ids[0]) for _, ids in makers]
    # Units frozen for different reasons are different groups: what is frozen is explained group by group.
    hashes += (np.arange(len(reasons)).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))[reason_of]
    wanted = np.flatnonzero(produced).astype(class_of.dtype)
    group_of = _alike(hashes[wanted])
    del hashes, produced
    rows = first_row[wanted]
    order = _in_order(_first_of(group_of, rows), rows)
    wanted, group_of = wanted[order], group_of[order]
    boundaries = np.flatnonzero(np.append(True, group_of[1:] != group_of[:-1])[: group_of.size])
    del rows, order, group_of
    unit_of_class = np.full(count, -1, np.int64)
    unit_of_class[wanted] = np.arange(wanted.size)

    layers = _layers(tape, class_of, unit_of_class, boundaries)
    mixes = _mixes(tape, class_of, wanted[boundaries])
    unit_group = np.zeros(wanted.size, np.int64)
    groups: dict[str, Group] = {}
    for position, (start, end) in enumerate(zip(boundaries, [*boundaries[1:], wanted.size], strict=False)):
        first_class = wanted[start]
        maker, maker_ids = makers[int(np.searchsorted(starts, first_row[first_class], "right")) - 1]
        channels = np.count_nonzero(class_of[maker_ids] == first_class)
        name, suffix = maker, 1
        while name in groups:
            suffix += 1
            name = f"{maker}#{suffix}"
        unit_group[start:end] = position
        groups[name] = Group(
            name=name,
            width=int(end - start),
            frozen=reasons[reason_of[first_class]],
            mixes=tuple(sorted(mixes.get(int(first_class), ()))),
            layers=tuple(layers.get(int(start), ())),
            channels=int(channels),
        )
    unit_of_class[class_of[0]] = -1  # of what is rigid
    unit_of = unit_of_class[class_of]
    bound = Bound(tape.slots, tape.roles, tape.layouts, unit_of)
    return Resolution(groups, bound, unit_of, class_of, unit_of_class, unit_group)


_ROLE_ORDER = {"rows": 0, "columns": 1, "norm": 2, "bias": 3, "gate": 4}


def _alike(values: np.ndarray) -> np.ndarray:
    """A number for each element, the same where `values` are: neighbours mostly are, so only runs are sorted."""
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: values.size])
    _, found = np.unique(values[starts], return_inverse=True)
    return np.repeat(found.astype(narrow(values.size)), np.diff(np.append(starts, values.size)))


def _in_order(first: np.ndarray, second: np.ndarray) -> np.ndarray | slice:
    """What sorts by `first`, then by `second`; they mostly are sorted."""
    after, same = first[1:] > first[:-1], first[1:] == first[:-1]
    if (after | (same & (second[1:] >= second[:-1]))).all():
        return slice(None)
    return np.lexsort((second, first))


def _first_of(group_of: np.ndarray, value: np.ndarray) -> np.ndarray:
    """For each element the least `value` in its group, so that groups sort by where they begin."""
    least = np.full(int(group_of.max(initial=-1)) + 1, np.iinfo(value.dtype).max, value.dtype)
    np.minimum.at(least, group_of, value)
    found: np.ndarray = least[group_of]
    return found


def _reasons(
    tape: Tape, class_of: np.ndarray, count: int, frozen: Mapping[int, str]
) -> tuple[list[str | None], np.ndarray]:
    """The distinct reasons (0: none) and, per component, which applies; the network's output goes before all others."""
    reasons: list[str | None] = [None]
    index: dict[str, int] = {}
    reason_of = np.zeros(count, np.int32)
    pins = [*tape.pins, *((np.array([i]), reason, -1) for i, reason in frozen.items())]
    for ids, reason, _ in reversed(pins):
        if reason not in index:
            index[reason] = len(reasons)
            reasons.append(reason)
        reason_of[class_of[ids]] = index[reason]
    for ids, reason, _ in pins:
        if reason == OUTPUT:
            reason_of[class_of[ids]] = index[reason]
    return reasons, reason_of


def _keep_heads_whole(tape: Tape, class_of: np.ndarray, reasons: list[str | None], reason_of: np.ndarray) -> None:
    """Freeze what a layer makes beside the network's output and no layer reads: a detector's background class, which
    its own code drops after the softmax. What is trained there has a meaning by its place, for the loss at least."""
    if OUTPUT not in reasons:
        return
    output = reasons.index(OUTPUT)
    read = np.zeros(reason_of.size, bool)
    for slot, ids in tape.slots.items():
        if any(role == "columns" for role, _ in tape.roles[slot]):
            read[class_of[ids]] = True
    for slot, ids in tape.slots.items():
        if not any(role in PRODUCING for role, _ in tape.roles[slot]):
            continue
        classes = class_of[ids]
        if (reason_of[classes] == output).any():
            dropped = classes[(reason_of[classes] == 0) & ~read[classes]]
            if dropped.size:
                if reasons[-1] != BESIDE:
                    reasons.append(BESIDE)
                reason_of[dropped] = len(reasons) - 1


def _mixes(tape: Tape, class_of: np.ndarray, firsts: np.ndarray) -> dict[int, set[str]]:
    """For the first class of every group (`firsts`): what mixes it."""
    is_first = np.zeros(int(class_of.max(initial=0)) + 1, bool)
    is_first[firsts] = True
    found: dict[int, set[str]] = {}
    weights = [(tape.slots[name, dim], what) for name, dim, what in tape.parameter_mixes if (name, dim) in tape.slots]
    for ids, what in [*tape.mixes, *weights]:
        classes = class_of[ids]
        for one in set(classes[is_first[classes]].tolist()):
            found.setdefault(one, set()).add(what)
    return found


def _makers(tape: Tape) -> list[tuple[str, np.ndarray]]:
    """Slots of rows in the order of their identifiers: (module that made them, identifiers)."""
    makers = []
    for slot, ids in tape.slots.items():
        producing = sorted(module for role, module in tape.roles[slot] if role in PRODUCING)
        if producing:
            makers.append((_module_of(slot, producing[0]), ids))
    return sorted(makers, key=lambda maker: int(maker[1][0]))


def _module_of(slot: Slot, fallback: str = "") -> str:
    """The module that a parameter belongs to; of a parametrized weight the layer, not the list inside of it."""
    holder = slot[0].rpartition(".")[0]
    holder = holder.partition(".parametrizations.")[0].removeprefix("parametrizations.")
    return holder or fallback or slot[0]


def _layers(tape: Tape, class_of: np.ndarray, unit_of_class: np.ndarray, firsts: np.ndarray) -> dict[int, list[str]]:
    """For the first unit of every group (`firsts`): the modules that hold slices of it, in network order.

    The units of a group have the same holders: that is what makes them a group.
    """
    is_first = np.zeros(unit_of_class.max(initial=-1) + 2, bool)
    is_first[firsts] = True
    holders: dict[int, dict[str, None]] = {}
    for slot, ids in tape.slots.items():
        module = _module_of(slot)
        units = unit_of_class[class_of[ids]]
        for unit in sorted(set(units[is_first[units]].tolist())):
            holders.setdefault(unit, {})[module] = None
    return {unit: list(found) for unit, found in holders.items()}
