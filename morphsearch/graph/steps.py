"""Operation by operation: what a rewritten network does, beside what the seed does."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from morphsearch.graph.labels import LOOSE, Labels
from morphsearch.graph.plan import Plan
from morphsearch.graph.rules.aten import MOVING
from morphsearch.graph.tape import MANY, RawOperation, Tape
from morphsearch.graph.unionfind import distinct_values, values_in

FEW = 512  # numbers that are compared more quickly as a set
CANNOT_FOLLOW = "cannot follow other widths"  # what is said of an operation that a trial failed at


@dataclass
class Mismatch(Exception):
    """An operation of the rewritten network that does not see what it should (`operation`: its index, in both
    tapes)."""

    operation: int
    reason: str


def forget_frames(error: BaseException) -> None:
    """Of what a trial failed at the message is wanted, not the networks and activations in the frames that it came
    through."""
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is not None and one.__traceback__ is not None:
            pending += [one.__cause__, one.__context__]
            one.__traceback__ = None


# Of the operations that only move elements, a patch may do with others; but it matters too which channels are put into
# other places, or whose pixels are moved.
PLACING = frozenset("copy index_put _index_put_impl_ roll flip rot90".split())


def _is_step(operation: RawOperation) -> bool:
    """Whether it matters which channels an operation sees, and a patch leaves it as it is."""
    if operation.kind == "constant_pad_nd" and operation.inputs:  # of the image, not of channels
        rank, sizes = len(operation.inputs[0].shape), operation.attrs.get("pad", ())
        return rank > 3 and len(sizes) <= 2 * (rank - 2)
    return operation.kind not in MOVING or operation.kind in PLACING


def _paired(seed: Tape, tape: Tape, plan: Plan) -> dict[int, int]:
    """The operations of the new network that stand for those of the seed; moves of elements are left out.

    Raises:
        Mismatch: it goes another way.
    """
    # What would see nothing is left out too: some operations go another way, or none, on tensors without elements.
    steps = [i for i, one in enumerate(tape.operations) if _is_step(one) and not _is_empty(one)]
    wanted = [i for i, one in enumerate(seed.operations) if _is_step(one) and not _sees_nothing(one, plan)]
    for own, index in zip(steps, wanted, strict=False):
        new, old = tape.operations[own], seed.operations[index]
        if (new.kind, new.module) != (old.kind, old.module):
            raise Mismatch(index, "the network takes another path at these widths")
    if len(steps) != len(wanted):
        raise Mismatch(-1, "the network takes another path at these widths")
    return dict(zip(wanted, steps, strict=True))


def check_steps(seed: Tape, tape: Tape, plan: Plan, exactly: Collection[str] = ()) -> None:
    """Operation by operation the new network does what the seed does, to the channels that are left of the same.

    Couplings alone do not say so: what takes the first four channels, whichever they are, doubles or turns them, and
    puts them back couples nothing. In code that was patched, operations that only move elements are others; there the
    patch has looked at each of them. The modules `exactly` must have the seed's operations one to one.

    Raises:
        Mismatch: another operation, or other channels.
    """
    try:
        pairs = _paired(seed, tape, plan)
    except Mismatch:
        if seed.on_meta or not any(one.kind in CHOOSING for one in seed.operations):
            raise
        pairs = {}  # on real numbers a path may follow from the data: how many boxes a detector finds
    ran, found = _by_module(seed), _by_module(tape)
    for module, places in ran.items():
        there = found.get(module, [])
        alike = _alike(seed, places, tape, there)
        if not alike and module in exactly:
            raise Mismatch(places[0], "its code does something else at these widths")
        if not alike:  # a slice up to a width that is written down is none below that
            places, there = _unsliced(seed, places), _unsliced(tape, there)
            alike = _alike(seed, places, tape, there)
        if alike:
            pairs.update(zip(places, there, strict=True))
    _check_outputs(seed, tape)
    for index in sorted(pairs):
        new, old = tape.operations[pairs[index]], seed.operations[index]
        if old.kind in JOINING:
            continue
        for labels, former in zip(new.inputs, old.inputs, strict=False):
            if not _same_channels(labels, former, plan):
                raise Mismatch(index, "other channels arrive than should")
            if _is_step(old) and not _same_layout(labels, former, plan):
                raise Mismatch(index, "channels arrive along another dimension than should")
        if old.kind == "group_norm":
            _check_sets(index, new, old)


def _check_sets(index: int, new: RawOperation, old: RawOperation) -> None:
    """A group norm has as many channels in a set as before: a written number of sets may divide other widths as well.

    Raises:
        Mismatch: it has more or fewer.
    """
    before, after = old.inputs[0].shape[1], new.inputs[0].shape[1]
    sets = int(old.attrs["norm_groups"])
    wanted = 1 if sets == 1 else after * sets // before
    if int(new.attrs["norm_groups"]) != wanted:
        raise Mismatch(index, f"a group norm of {after} channels has {new.attrs['norm_groups']} sets, not {wanted}")


def _check_outputs(seed: Tape, tape: Tape) -> None:
    """What the network gives keeps its sizes.

    Raises:
        Mismatch: it does not.
    """
    if not seed.on_meta and any(one.kind in CHOOSING or one.kind == "index" for one in seed.operations):
        return  # they follow from the data
    wanted = [i for i, one in enumerate(seed.operations) if one.kind == "output"]
    given = [one for one in tape.operations if one.kind == "output"]
    for index, new in zip(wanted, given, strict=False):
        before, after = seed.operations[index].inputs[0].shape, new.inputs[0].shape
        if before != after:
            raise Mismatch(index, f"the network gives {after} where the seed gives {before}")


CHOOSING = frozenset("nonzero topk masked_select unique _unique2 unique_dim".split())  # what there is depends on data
SLICING = frozenset(("slice", "alias", "narrow", "index_select"))
JOINING = frozenset(("cat", "stack", "concat"))  # what parts there are does not matter, where nothing was done to them


def _by_module(tape: Tape) -> dict[str, list[int]]:
    """The operations of every module's own code."""
    found: dict[str, list[int]] = {}
    for index, operation in enumerate(tape.operations):
        found.setdefault(operation.module, []).append(index)
    return found


def _alike(seed: Tape, places: list[int], tape: Tape, there: list[int]) -> bool:
    return [seed.operations[i].kind for i in places] == [tape.operations[i].kind for i in there]


def _unsliced(tape: Tape, places: list[int]) -> list[int]:
    return [i for i in places if tape.operations[i].kind not in SLICING]


def _is_empty(operation: RawOperation) -> bool:
    return any(0 in labels.shape for labels in operation.inputs)


def _sees_nothing(operation: RawOperation, plan: Plan) -> bool:
    """An operation of the seed reads no element, or no unit is left of those that it reads through one input."""
    if _is_empty(operation):
        return True
    for labels in operation.inputs:
        if labels.parameter is None:
            ids = np.asarray(labels.ids).reshape(-1)
            if (ids > 0).all() and not plan.stays[plan.class_of[ids]].any():
                return True
    return False


def _same_channels(labels: Labels, former: Labels, plan: Plan) -> bool:
    """`labels` are of the same units as `former`, of the seed, without those that left."""
    ids, old = (np.asarray(one.ids).reshape(-1) for one in (labels, former))
    if ids.max(initial=0) >= plan.first_free or former.parameter is not None:
        return True
    expected = plan.class_of[old[old > 0]]
    expected = expected[plan.stays[expected]]
    arriving = (ids[ids > 0] - 1) // plan.most
    if arriving.size == expected.size and bool((arriving == expected).all()):
        return True
    if (ids == LOOSE).any():  # filler: units that a tensor made in code has in the seed alone
        return bool(np.isin(arriving, expected).all())
    if arriving.size + expected.size < FEW:
        return set(arriving.tolist()) == set(expected.tolist())
    if arriving.size + expected.size < MANY:
        return np.array_equal(distinct_values(arriving), distinct_values(expected))
    count = plan.times.size
    return np.array_equal(values_in(arriving, count), values_in(expected, count))


def _same_layout(labels: Labels, former: Labels, plan: Plan) -> bool:
    """The units of `labels` lie along the dimensions in which those of `former`, of the seed, do.

    Half of the channels of every head are as many as all channels of half of the heads: code that finds the number of
    heads by itself (``reshape(b, -1, 12, h * w)``) takes one for the other.
    """
    if len(labels.shape) != len(former.shape) or former.parameter is not None or former.second is not None:
        return True
    sides = [d for d, size in enumerate(former.shape) if size != labels.shape[d] and former.ids.shape[d] > 1]
    if not sides or bool((former.ids <= 0).any()):
        return True
    classes = plan.class_of[np.asarray(former.ids)]
    if (classes == classes.flat[0]).all():
        return True  # of one unit: there is no telling
    return not any((classes == classes.take([0], d)).all() for d in sides)
