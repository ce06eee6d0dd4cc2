"""Operations that compute with a number taken from a width, as attention does with ``channels ** -0.5``.

Removing a channel changes that number for all others, so it is not exact; the groups whose width it is are marked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from morphsearch.errors import GraphError
from morphsearch.graph.proof import numbers_of
from morphsearch.graph.recording import run_tape
from morphsearch.graph.tape import Tape
from morphsearch.graph.zeroed import with_zeros

if TYPE_CHECKING:
    from morphsearch.graph.graph import ConvGraph

# Position of the operation, its numbers in the seed, and those in a rewritten network.
Dependent = tuple[int, tuple[float, ...], tuple[float, ...]]


def mark_dependent(
    graph: ConvGraph,
    operations: Sequence[Dependent],
    multiplicity: np.ndarray,
    dependent_at: Callable[[np.ndarray], list[Dependent] | None],
) -> None:
    """What operations read that compute with a number taken from a width mixes (all units, where they read none), and
    so do the groups whose width it is.

    Args:
        operations: those found at `multiplicity`.
        dependent_at: those of the network at other multiplicities, None where it cannot be.
    """
    tape = graph.tape
    read_by: dict[int, np.ndarray] = {}
    fitting = {index: _fitting(graph, before, after, multiplicity) for index, before, after in operations}
    alone: set[int] = set()  # they read nothing: the groups that their numbers follow from are found by trying
    for index, _, _ in operations:
        operation = tape.operations[index]
        inputs = [np.asarray(labels.ids).reshape(-1) for labels in operation.inputs]
        read = np.concatenate(inputs) if inputs else _slices(graph, operation.attrs.get("of", ""), fitting[index])
        read_by[index] = read
        if not (read > 0).any():
            alone.add(index)
        tape.mix(read_by[index], _dependence(graph, index))
    owners = graph.resolution.unit_of[np.concatenate(list(read_by.values()))]
    own = np.zeros(len(graph.groups), bool)
    own[graph.unit_group[owners[owners >= 0]]] = True
    # What an operation reads mostly has the width that its number follows from. Where that does not explain the change,
    # or another group's width would do as well, groups are tried apart from it.
    wanted = {index for index, fits in fitting.items() if not (fits & own).any() or (fits & ~own).any()} | alone
    if not wanted:
        return
    asked = np.ones_like(own) if alone else ~own
    others = [int(group) for group in np.flatnonzero(asked) if (multiplicity[graph.unit_group == group] != 1).any()]
    found, tries = _followed(graph, wanted, others, multiplicity, dependent_at, MOST_TRIES)
    if tries <= 0:
        for index in wanted:
            found.setdefault(index, set()).update(others)
    for index in alone - found.keys():
        found[index] = set(range(len(graph.groups)))
    for index, groups in found.items():
        for ids in tape.slots.values():
            of_slot = graph.resolution.unit_of[ids]
            among = np.isin(graph.unit_group[np.maximum(of_slot, 0)], list(groups))
            tape.mix(ids[(of_slot >= 0) & among], _dependence(graph, index))


def not_of_data(graph: ConvGraph, operations: list[Dependent], multiplicity: np.ndarray) -> list[Dependent]:
    """Those of `operations` whose numbers are others than in the seed with the dropped units at zero: that computes the
    same on the same widths as the seed, so where a number is the same it follows from data (how large a detector's
    boxes are)."""
    tape = graph.tape
    twin = with_zeros(graph, multiplicity == 0)
    try:
        again, _, _ = run_tape(
            twin,
            graph.example_inputs,
            blank=lambda: Tape(twin, tape.identifiers, tape.next_id, tape.decisions),
            modes=(False,),
            like=tape,
            afresh=True,
        )
    except GraphError:
        return operations
    keys = {index: key for key, (index, _) in numbers_of(tape).items()}
    there = {key: numbers for key, (_, numbers) in numbers_of(again).items()}
    return [one for one in operations if not _close(there.get(keys[one[0]], ()), one[2])]


def _close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return len(one) == len(other) and bool(np.allclose(one, other, rtol=1e-6, atol=0.0, equal_nan=True))


def _slices(graph: ConvGraph, name: str, fits: np.ndarray) -> np.ndarray:
    """The slices of a parameter that is computed with: those of groups whose width explains the number, if any does."""
    unit_of, unit_group = graph.resolution.unit_of, graph.unit_group
    own = [ids for (of, _), ids in graph.tape.slots.items() if of == name]
    explain = [ids[(unit_of[ids] >= 0) & fits[unit_group[np.maximum(unit_of[ids], 0)]]] for ids in own]
    found = explain if any(ids.size for ids in explain) else own
    return np.concatenate(found) if found else np.zeros(0, np.int64)


MOST_TRIES = 48  # rewrites that the search for a number's width may take


def _followed(
    graph: ConvGraph,
    wanted: set[int],
    groups: list[int],
    multiplicity: np.ndarray,
    dependent_at: Callable[[np.ndarray], list[Dependent] | None],
    tries: int,
) -> tuple[dict[int, set[int]], int]:
    """For each of the `wanted` operations those of `groups` whose widths its number follows from, by halves: with all
    others as in the seed, does it change? And how many of the `tries` are left."""
    if not groups or not wanted or tries <= 0:
        return {}, tries
    changed = dependent_at(np.where(np.isin(graph.unit_group, groups), multiplicity, 1))
    tries -= 1
    # A network that cannot be made says nothing: its halves are asked.
    seen = wanted if changed is None else wanted & {index for index, _, _ in changed}
    if not seen or (changed is None and len(groups) == 1):
        return {}, tries
    if len(groups) == 1:
        return {index: set(groups) for index in seen}, tries
    found: dict[int, set[int]] = {}
    for half in (groups[: len(groups) // 2], groups[len(groups) // 2 :]):
        of_half, tries = _followed(graph, seen, half, multiplicity, dependent_at, tries)
        for index, ones in of_half.items():
            found.setdefault(index, set()).update(ones)
    return found, tries


def _dependence(graph: ConvGraph, index: int) -> str:
    operation = graph.tape.operations[index]
    where = f"{operation.kind} in {operation.module}" if operation.module else operation.kind
    return f"{where}, by a number that follows from a width"


POWERS = (1.0, -1.0, 0.5, -0.5, 2.0, -2.0)  # how numbers follow from widths: scales of attention, means


def _fitting(
    graph: ConvGraph, before: tuple[float, ...], after: tuple[float, ...], multiplicity: np.ndarray
) -> np.ndarray:
    """`g` bool: groups from whose width, or a whole part of it, the change of a number would follow."""
    ratios = np.array([b / a for a, b in zip(before, after, strict=False) if a and a != b])
    kept = np.bincount(graph.unit_group, multiplicity, minlength=len(graph.groups))
    fits = np.zeros(len(graph.groups), bool)
    for position, group in enumerate(graph.groups.values()):
        heads = [h for h in range(1, min(64, group.width) + 1) if group.width % h == 0]
        whole = np.array([(kept[position] // h) / (group.width // h) for h in heads])
        shares = whole[(whole > 0) & (whole != 1)]
        if shares.size and ratios.size:
            powers = shares[:, None] ** np.array(POWERS)
            fits[position] = bool((np.abs(powers[:, :, None] - ratios) < 1e-6).any())
    return fits
