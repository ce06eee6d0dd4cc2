"""Operations that compute with a number taken from a width, as attention does with ``channels ** -0.5``.

Removing a channel changes that number for all others, so it is not exact; the groups whose width it is are marked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

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
    for index, _, _ in operations:
        operation = tape.operations[index]
        inputs = [np.asarray(labels.ids).reshape(-1) for labels in operation.inputs]
        read = np.concatenate(inputs) if inputs else np.zeros(0, np.int64)
        read_by[index] = read if (read > 0).any() else np.concatenate(list(tape.slots.values()))
        tape.mix(read_by[index], _dependence(graph, index))
    owners = graph.resolution.unit_of[np.concatenate(list(read_by.values()))]
    own = np.zeros(len(graph.groups), bool)
    own[graph.unit_group[owners[owners >= 0]]] = True
    # What an operation reads mostly has the width that its number follows from. Where that of another group would do
    # as well, that group is tried alone.
    suspects = [_fitting(graph, before, after, multiplicity) & ~own for _, before, after in operations]
    if not any(found.any() for found in suspects):
        return
    alone = np.where(own[graph.unit_group], 1, multiplicity)
    dependent = dependent_at(alone)
    for index, before, after in operations if dependent is None else dependent:
        found = _fitting(graph, before, after, alone) & ~own
        if not found.any():
            found = ~own
        for ids in tape.slots.values():
            of_slot = graph.resolution.unit_of[ids]
            tape.mix(ids[(of_slot >= 0) & found[graph.unit_group[np.maximum(of_slot, 0)]]], _dependence(graph, index))


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
