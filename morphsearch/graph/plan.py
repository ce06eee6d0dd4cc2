"""Which slices of every parameter a network at other widths has, and what they are called when it is recorded again."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from morphsearch.graph.folded import Folded, of_sizes
from morphsearch.graph.resolve import Resolution
from morphsearch.graph.state import Stale
from morphsearch.graph.tape import Slot, Tape


@dataclass
class Plan:
    """Which slices of each slot the new network has.

    `gather`: for each slot, the indices of the seed's slices in their new order. `ids`: the identifiers that the new
    slices carry when the result is recorded again; the same unit and copy has the same identifier everywhere.
    `free`: for each of those identifiers, whether its unit may leave the seed. They are the seed's classes (`class_of`
    its identifiers, `times`: how often each occurs, `stays`: whether it does), `most` for each.
    `folded` and `unfolded`: parameters that hold several dimensions as one, in the seed and in the new network.
    `dependent`: operations found to compute with other numbers than the seed's (``x / x.shape[1]``), and both.
    `decisions`: what a recording of the new network must be given, where it is not what the seed's must.
    `stale`: what forward code keeps, and the new network cannot go on with (see :mod:`~morphsearch.graph.state`).
    """

    gather: dict[Slot, np.ndarray]
    ids: dict[Slot, np.ndarray]
    copies: dict[Slot, np.ndarray]
    copy_number: dict[Slot, np.ndarray]
    first_free: int
    column_dims: dict[str, int] = field(default_factory=dict)
    free: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    class_of: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    stays: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    times: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    most: int = 1
    folded: dict[str, Folded] = field(default_factory=dict)
    unfolded: dict[str, Folded] = field(default_factory=dict)
    dependent: list[tuple[int, tuple[float, ...], tuple[float, ...]]] = field(default_factory=list)
    decisions: dict[str, str] = field(default_factory=dict)
    stale: Stale = field(default_factory=dict)


def make_plan(tape: Tape, resolution: Resolution, multiplicity: np.ndarray) -> Plan:
    """`multiplicity`: one count a unit. Runs of neighbouring slices of one unit are repeated as a block."""
    most = max(1, int(multiplicity.max(initial=1)))
    units = resolution.unit_of_class
    count = np.where(units < 0, 1, multiplicity[units]) if multiplicity.size else np.ones_like(units)
    gather, ids, copies, number = {}, {}, {}, {}
    for slot, raw in tape.identifiers.items():
        classes = resolution.class_of[raw].astype(np.int64, copy=False)
        times = count[classes]
        index, copied = repeat_runs(classes, times)
        gather[slot] = index
        copies[slot], number[slot] = times[index], copied
        ids[slot] = classes[index] * most + copied + 1
    column_dims = {
        name: dim for (name, dim), roles in tape.roles.items() if any(role == "columns" for role, _ in roles)
    }
    for one, other in tape.sums:  # of a sum every part is shared out
        column_dims = {
            name: column_dims[of] for name, of in ((other, one), (one, other)) if of in column_dims
        } | column_dims
    column_dims = tape.beside | column_dims
    # In a sum of products one factor is shared out, the other repeated: the vector, where the weight's are rows.
    shared = {name: dim for (name, dim), (weight, own) in tape.vectors.items() if column_dims.get(weight) != own}
    column_dims = shared | column_dims
    first_free = resolution.unit_of_class.size * most + 1
    free = _may_leave(resolution, most, first_free)
    class_of = resolution.class_of
    plan = Plan(gather, ids, copies, number, first_free, column_dims, free, class_of, count > 0, count, most)
    if tape.layouts:
        plan.folded = dict(tape.layouts)
        plan.unfolded = of_sizes(plan.folded, {slot: index.size for slot, index in gather.items()})
    return plan


def _may_leave(resolution: Resolution, most: int, count: int) -> np.ndarray:
    """`count` bool: for each identifier of a rewritten network, whether its unit may leave."""
    group_free = np.array([group.frozen is None for group in resolution.groups.values()] or [False])
    units = resolution.unit_of_class
    free = np.zeros(count, bool)
    if resolution.unit_group.size:
        free_class = (units >= 0) & group_free[resolution.unit_group[units]]
        free[1:] = np.repeat(free_class, most)[: count - 1]
    return free


def repeat_runs(classes: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices that repeat every run of equal `classes` its number of `times`, and which copy each is.

    >>> repeat_runs(np.array([5, 5, 7]), np.array([2, 2, 0]))[0].tolist()
    [0, 1, 0, 1]
    """
    if times.size == 0 or times.max(initial=0) <= 1:
        index = np.nonzero(times)[0]
        return index, np.zeros(index.size, np.int64)
    starts = np.nonzero(np.diff(classes, prepend=classes[0] - 1))[0]
    lengths = np.diff(np.append(starts, classes.size))
    run_times = times[starts]
    blocks = np.repeat(np.arange(starts.size), run_times)
    block_copy = np.concatenate([np.arange(t) for t in run_times]) if blocks.size else np.zeros(0, np.int64)
    block_lengths = lengths[blocks]
    ends = np.cumsum(block_lengths)
    offset = np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - block_lengths, block_lengths)
    return np.repeat(starts[blocks], block_lengths) + offset, np.repeat(block_copy, block_lengths)
