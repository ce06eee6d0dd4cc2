"""Rewriting with proof: rebuild, record again, rearrange, patch, and say what cannot follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from morphsearch.errors import GraphError
from morphsearch.graph.dependence import Dependent, mark_dependent, not_of_data
from morphsearch.graph.foreseen import edit_foreseen
from morphsearch.graph.labels import Labels
from morphsearch.graph.patch import patch_modules
from morphsearch.graph.paths import class_written, modules_of
from morphsearch.graph.plan import Plan, make_plan
from morphsearch.graph.proof import check, rearrange
from morphsearch.graph.recording import tidy
from morphsearch.graph.rewrite import Made, rebuild
from morphsearch.graph.state import put_back
from morphsearch.graph.steps import CANNOT_FOLLOW, Mismatch, forget_frames
from morphsearch.graph.tape import RawOperation
from morphsearch.graph.tracing import trace
from morphsearch.graph.unionfind import distinct_values

if TYPE_CHECKING:
    from morphsearch.graph.graph import ConvGraph

# Operations in which forward code can have sizes, or equal parts, written down.
SIZED = frozenset(
    "view _unsafe_view reshape split split_with_sizes slice select narrow index_select unbind constant_pad_nd expand"
    " repeat".split()
)


def rewrite_checked(graph: ConvGraph, multiplicity: np.ndarray, *, meta: bool = False) -> tuple[nn.Module, Plan]:
    """The network in which unit `u` occurs ``multiplicity[u]`` times, with the plan it was built from.

    Raises:
        Mismatch: an operation cannot follow; `operation` is its index on the seed's tape.
    """
    patched: list[str] = []
    first: Mismatch | None = None
    # On real numbers a network may write into its own parameters: then every attempt has others.
    made: Made | None = {} if graph.on_meta and not meta else None
    # What an earlier rewrite could foresee is nearly always what this one needs, too.
    ahead = graph.tape.foreseen
    while True:
        plan = make_plan(graph.tape, graph.resolution, multiplicity)
        try:
            return _attempt(graph, plan, multiplicity, tuple(patched), ahead, meta, made), plan
        except _Unforeseen as error:
            forget_frames(error)
            tidy()
            ahead = ()
        except Mismatch as mismatch:
            forget_frames(mismatch)
            tidy()
            suspects = _suspects(graph, multiplicity, mismatch, patched)
            if not suspects:
                raise mismatch from first
            patched += suspects
            first = first or mismatch
            ahead = tuple(patched)


class _Unforeseen(Mismatch):
    """The check of a network whose patches were foreseen failed: a repair looks closer."""


def _suspects(graph: ConvGraph, multiplicity: np.ndarray, mismatch: Mismatch, known: Sequence[str]) -> list[str]:
    """Modules whose code may hold the sizes that are in the way of an operation, beside those `known`.

    Those around the operation and the nearest one before it, with all modules of their types, where they have sized
    operations; else the module of the operation itself, whose sizes may be written around parameters, which are no
    operations; else every module with sized operations; in the end all that have code of their own (a slice up to a
    width that is written down is no operation until the width grows).
    """
    sized = sized_modules(graph, multiplicity)
    modules = modules_of(graph.model)
    everything = [path for path in sized if path not in known] or [
        path
        for path, module in modules.items()
        if path not in known and path in graph.tape.visited and not type(module).__module__.startswith("torch.nn.")
    ]
    if mismatch.operation < 0:
        return everything
    where = graph.tape.operations[mismatch.operation].module
    parts = where.split(".") if where else []
    around = [".".join(parts[:n]) for n in range(len(parts) + 1)]
    before = [op.module for op in graph.tape.operations[: mismatch.operation + 1] if op.module in sized]
    near = [path for path in around if path in sized] + before[-1:]
    for chosen, among in ((near, list(sized)), ([where], list(modules))):
        # What was patched for another width has a class of its own, but the code of the others.
        kinds = {class_written(modules[path]) for path in chosen if path in modules}
        found = [path for path in among if path not in known and class_written(modules.get(path)) in kinds]
        if found:
            return found
    return everything


def _attempt(
    graph: ConvGraph,
    plan: Plan,
    multiplicity: np.ndarray,
    paths: tuple[str, ...],
    ahead: tuple[str, ...],
    meta: bool,
    made: Made | None,
) -> nn.Module:
    """A network with its modules at `paths` patched, by what is foreseen in those at `ahead` where that says it.

    Raises:
        _Unforeseen: that was not enough.
        Mismatch: an operation cannot follow.
    """
    tape = graph.tape
    for _ in range(2):
        twin = rebuild(graph.model, tape, plan, meta=meta, made=made)
        edited: list[str] | None = None
        if ahead and multiplicity.max(initial=1) <= 1:  # copies of a unit could stand where others were
            edited = edit_foreseen(graph.model, twin, ahead, graph.example_inputs, tape, graph.resolution, multiplicity)
        if paths and not edited:
            twin = patch_modules(
                graph.model, twin, list(paths), graph.example_inputs, tape, graph.resolution, plan, multiplicity
            )
        patched = bool(paths) and not edited
        try:
            _, order = check(twin, graph.example_inputs, tape, plan, patched=patched, foreseen=edited or ())
        except Mismatch as mismatch:
            if edited:
                raise _Unforeseen(mismatch.operation, mismatch.reason) from mismatch
            raise
        if not order:
            if edited:
                tape.foreseen = ahead
            if plan.stale and tape.state is not None:
                put_back(dict(twin.named_modules()), tape.state.before(plan.stale))
            return twin
        rearrange(plan, order)
    raise Mismatch(-1, "the order in which channels arrive depends on itself")


def sized_modules(graph: ConvGraph, multiplicity: np.ndarray) -> list[str]:
    """Modules whose own code moves channels that change, through operations that can have sizes written down."""
    unit_of = graph.resolution.unit_of
    found: dict[str, None] = {}
    for operation in graph.tape.operations:
        if operation.kind not in SIZED or operation.module in found:
            continue
        for labels in (*operation.inputs, *operation.outputs):
            ids = np.asarray(labels.ids).reshape(-1)
            units = unit_of[ids[ids > 0]]
            if labels.varying() and (multiplicity[units[units >= 0]] != 1).any():
                found[operation.module] = None
                break
    return list(found)


def describe(operation: RawOperation | None, reason: str) -> str:
    """Why an operation froze what it reads, with what to do about it."""
    if operation is None:
        return f"the network cannot run at other widths: {reason}"
    where = f"{operation.kind} in {operation.module}" if operation.module else operation.kind
    return (
        f"the operation {where} {CANNOT_FOLLOW} ({reason}); where code has a size written into it, take the size from "
        "a tensor's shape; an operation is taught through the hook morphsearch_operations"
    )


def freeze_what_fails(graph: ConvGraph) -> ConvGraph:
    """Try every free group at other widths and freeze those that an operation cannot follow, with its name.

    Raises:
        GraphError: nothing that could be frozen makes the network run at other widths.
    """
    from morphsearch.graph.graph import ConvGraph as Graph

    frozen = dict(graph.frozen_ids)
    failures: dict[str, int] = {}
    for _ in range(64):
        if not graph.free:
            return graph
        try:
            tried = trial(graph)
            _, plan = rewrite_checked(graph, tried, meta=graph.on_meta)
            changed = plan.dependent
            if changed and not graph.on_meta:
                changed = not_of_data(graph, changed, tried)
            if changed:
                mark_dependent(graph, changed, tried, partial(_dependent, graph))
                graph = Graph(graph.model, graph.example_inputs, graph.tape, graph.evaluated, frozen, graph.on_meta)
            return graph
        except Mismatch as mismatch:
            operation = graph.tape.operations[mismatch.operation] if mismatch.operation >= 0 else None
            reason = describe(operation, mismatch.reason)
            added = _culprits(graph, tried, mismatch.operation, _blame(graph, mismatch.operation, reason))
            for alike in _alike(graph, mismatch.operation):  # the same code will fail there too
                added |= _blame(graph, alike, describe(graph.tape.operations[alike], mismatch.reason))
            if operation is not None and operation.kind in SIZED:
                added |= _blame_layouts(graph, operation.module, reason)
            if operation is not None:
                failures[operation.module] = failures.get(operation.module, 0) + 1
                if failures[operation.module] > 2:  # one by one would take long: this code follows nothing
                    added |= _blame_module(graph, operation.module, reason)
            if not added.keys() - frozen.keys():
                added = {int(ids[0]): reason for ids in _free_slots(graph)}
            frozen.update(_whole_groups(graph, added))
            graph = Graph(graph.model, graph.example_inputs, graph.tape, graph.evaluated, frozen, graph.on_meta)
    raise GraphError(
        "no set of groups could be found that the network can change",
        "every rewrite is checked by running it",
        "teach the operations that are in the way through the hook morphsearch_operations",
    )


FROZEN = "frozen:"  # prefix of decisions that name a frozen group


def freeze_again(graph: ConvGraph, decisions: Mapping[str, str]) -> ConvGraph:
    """Freeze the groups that `decisions` name, for the reasons given there."""
    from morphsearch.graph.graph import ConvGraph as Graph

    frozen = dict(graph.frozen_ids)
    for name in graph.free:
        reason = decisions.get(FROZEN + name)
        if reason is not None:
            units = set(graph.units_of(name).tolist())
            for ids in graph.tape.slots.values():
                frozen |= {int(one): reason for one in ids if int(graph.resolution.unit_of[one]) in units}
    if frozen.keys() == graph.frozen_ids.keys():
        return graph
    return Graph(graph.model, graph.example_inputs, graph.tape, graph.evaluated, frozen, graph.on_meta)


def _dependent(graph: ConvGraph, multiplicity: np.ndarray) -> list[Dependent] | None:
    """Operations that compute with other numbers in the network of these multiplicities; None where it cannot be."""
    try:
        return rewrite_checked(graph, multiplicity, meta=graph.on_meta)[1].dependent
    except Mismatch:
        return None


def trial(graph: ConvGraph) -> np.ndarray:
    """Multiplicities that drop units of every free group, unevenly, and never all of it.

    Each group keeps a share of its own (golden-ratio steps between three and nine tenths): two groups that keep equally
    many could pass for one where they must not.
    """
    multiplicity = np.ones(graph.num_units, np.int64)
    rng = np.random.default_rng(0)
    for number, name in enumerate(graph.free):
        units = graph.units_of(name)
        share = 0.3 + 0.6 * ((number + 1) * 0.6180339887 % 1)
        keep = rng.permutation(units.size)[: max(1, round(share * units.size))]
        multiplicity[units] = 0
        multiplicity[units[keep]] = 1
    return multiplicity


def _blame(graph: ConvGraph, index: int, reason: str) -> dict[int, str]:
    """Identifiers of the free units that the operation at `index` reads (else makes), or those of the nearest before
    it."""
    for operation in reversed(graph.tape.operations[: index + 1] if index >= 0 else []):
        found = _free_of(graph, operation.inputs, reason) or _free_of(graph, operation.outputs, reason)
        if found:
            return found
    return {}


def _whole_groups(graph: ConvGraph, blamed: dict[int, str]) -> dict[int, str]:
    """`blamed`, and the other units of their groups: part of a group could not be told from the rest when a network of
    other widths is recorded."""
    unit_of, unit_group = graph.resolution.unit_of, graph.unit_group
    reasons = {int(unit_group[unit_of[one]]): why for one, why in blamed.items() if unit_of[one] >= 0}
    found = dict(blamed)
    for ids in graph.tape.slots.values():
        units = unit_of[ids]
        groups = np.where(units >= 0, unit_group[units], -1)
        for group in reasons.keys() & set(groups.tolist()):
            found |= dict.fromkeys((int(one) for one in ids[groups == group]), reasons[group])
    return found


MOST_SUSPECTS = 4


def _culprits(graph: ConvGraph, tried: np.ndarray, index: int, blamed: dict[int, str]) -> dict[int, str]:
    """Of the units that an operation reads, or that its weight does, those of the one group that is in its way, if it
    is one: with that group as in the seed and the others at the widths that were tried, the network gets past it."""
    if index < 0 or not blamed:
        return blamed
    reason = next(iter(blamed.values()))
    columns = graph.tape.operations[index].columns
    read = blamed
    if columns is not None and columns.size:
        weights = Labels(torch.from_numpy(np.asarray(columns, np.int64)), (columns.size,))
        read = blamed | _free_of(graph, [weights], reason)
    if graph.tape.operations[index].kind == "recurrent":  # its state may be in its way, which is no input
        read = blamed | _free_of(graph, graph.tape.operations[index].outputs, reason)
    unit_of, unit_group = graph.resolution.unit_of, graph.unit_group
    group_of = {one: int(unit_group[unit_of[one]]) for one in read}
    suspects = sorted(set(group_of.values()), key=lambda group: int((unit_group == group).sum()))
    if not 2 <= len(suspects) <= MOST_SUSPECTS:
        return blamed
    for group in suspects:
        try:
            rewrite_checked(graph, np.where(unit_group == group, 1, tried), meta=graph.on_meta)
        except Mismatch as mismatch:
            if mismatch.operation <= index:
                continue
        return {one: reason for one in read if group_of[one] == group}
    return blamed


def _alike(graph: ConvGraph, index: int) -> list[int]:
    """Operations that run the same code as that at `index`: in other modules of its type, the same among their kind."""
    if index < 0:
        return []
    operations = graph.tape.operations
    modules = modules_of(graph.model)
    module = modules.get(operations[index].module)
    if module is None or module is graph.model or type(module).__module__.startswith("torch.nn."):
        return []
    seen: dict[tuple[str, str], int] = {}
    places: dict[tuple[str, int], list[int]] = {}
    own = -1
    for position, operation in enumerate(operations):
        key = (operation.module, operation.kind)
        seen[key] = seen.get(key, 0) + 1
        if operation.kind == operations[index].kind and type(modules.get(operation.module)) is type(module):
            places.setdefault((operation.kind, seen[key]), []).append(position)
            own = seen[key] if position == index else own
    return [position for position in places.get((operations[index].kind, own), []) if position != index]


def _blame_layouts(graph: ConvGraph, module: str, reason: str) -> dict[int, str]:
    """Identifiers of all free units that lie along several dimensions in modules of this type, where its code cannot be
    traced: no reshape of theirs can follow."""
    modules = modules_of(graph.model)
    kind = type(modules.get(module))
    if kind is type(graph.model) or trace(modules[module]) is not None:
        return {}
    found: dict[int, str] = {}
    for operation in graph.tape.operations:
        tensors = (*operation.inputs, *operation.outputs)
        if type(modules.get(operation.module)) is kind and any(len(labels.varying()) > 1 for labels in tensors):
            found.update(_free_of(graph, tensors, reason))
    return found


def _blame_module(graph: ConvGraph, module: str, reason: str) -> dict[int, str]:
    """Identifiers of all free units that operations of a module's own code read."""
    found: dict[int, str] = {}
    for operation in graph.tape.operations:
        if operation.module == module:
            found.update(_free_of(graph, operation.inputs, reason))
    return found


def _free_of(graph: ConvGraph, tensors: Sequence[Labels], reason: str) -> dict[int, str]:
    unit_of, unit_group = graph.resolution.unit_of, graph.unit_group
    free = np.array([group.frozen is None for group in graph.groups.values()])
    ids = distinct_values(
        np.concatenate([np.zeros(1, np.int64), *(np.asarray(labels.ids).reshape(-1) for labels in tensors)])
    )
    units = unit_of[ids[ids > 0]]
    movable = (units >= 0) & free[unit_group[units]] if units.size else np.zeros(0, bool)
    return {int(one): reason for one in ids[ids > 0][movable]}


def _free_slots(graph: ConvGraph) -> list[np.ndarray]:
    free = set(graph.free)
    names = list(graph.groups)
    result = []
    for ids in graph.tape.slots.values():
        units = graph.resolution.unit_of[ids]
        for unit in units[units >= 0]:
            if names[graph.unit_group[unit]] in free:
                result.append(ids[units == unit][:1])
    return result


__all__ = ["freeze_what_fails", "rewrite_checked", "sized_modules", "trial"]
