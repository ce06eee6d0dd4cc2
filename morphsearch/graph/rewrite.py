"""Building the network at other widths.

Every rewrite is one idea: each unit has a *multiplicity*, 0 to drop it, 1 to keep it, more to widen. A slot of a
parameter
keeps the slices of the units that stay, in their order, and repeats those of units that are widened. The new network is
then recorded again with identifiers that say which unit (and which copy) every slice is: where what arrives at a
layer is
not what its columns expect, the columns are put in the order of arrival; where an operation with sizes written into it
went wrong, that operation is patched; where neither helps, the rewrite fails, naming the operation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from morphsearch.errors import GraphError
from morphsearch.graph.cloning import clone
from morphsearch.graph.labels import LOOSE, Labels
from morphsearch.graph.recording import run_tape
from morphsearch.graph.resolve import Resolution
from morphsearch.graph.tape import RawOperation, Slot, Tape


@dataclass
class Plan:
    """Which slices of each slot the new network has.

    `gather`: for each slot, the indices of the seed's slices in their new order. `ids`: the identifiers that the new
    slices carry when the result is recorded again; the same unit and copy has the same identifier everywhere.
    `free`: for each of those identifiers, whether its unit may leave the seed. They are the seed's classes (`class_of`
    its identifiers, `stays`: whether each has any slice left), `most` for each.
    `dependent`: operations found to compute with other numbers than the seed's (``x / x.shape[1]``), and both.
    `decisions`: what a recording of the new network must be given, where it is not what the seed's must.
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
    most: int = 1
    dependent: list[tuple[int, tuple[float, ...], tuple[float, ...]]] = field(default_factory=list)
    decisions: dict[str, str] = field(default_factory=dict)


def make_plan(tape: Tape, resolution: Resolution, multiplicity: np.ndarray) -> Plan:
    """`multiplicity`: one count a unit. Runs of neighbouring slices of one unit are repeated as a block."""
    most = max(1, int(multiplicity.max(initial=1)))
    gather, ids, copies, number = {}, {}, {}, {}
    for slot, raw in tape.identifiers.items():
        units, classes = resolution.unit_of[raw], resolution.class_of[raw]
        times = np.where(units < 0, 1, multiplicity[units]) if multiplicity.size else np.ones_like(units)
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
    # In a sum of products one factor is shared out, the other repeated: the vector, where the weight's are rows.
    shared = {name: dim for (name, dim), (weight, own) in tape.vectors.items() if column_dims.get(weight) != own}
    column_dims = shared | column_dims
    first_free = (int(resolution.class_of.max(initial=0)) + 1) * most + 1
    free = _may_leave(resolution, most, first_free)
    units = resolution.unit_of
    gone = (units >= 0) & (multiplicity[units] == 0) if multiplicity.size else np.zeros(units.size, bool)
    stays = np.ones(int(resolution.class_of.max(initial=0)) + 1, bool)
    stays[resolution.class_of[gone]] = False
    return Plan(gather, ids, copies, number, first_free, column_dims, free, resolution.class_of, stays, most)


def _may_leave(resolution: Resolution, most: int, count: int) -> np.ndarray:
    """`count` bool: for each identifier of a rewritten network, whether its unit may leave."""
    group_free = np.array([group.frozen is None for group in resolution.groups.values()] or [False])
    free_class = np.zeros(int(resolution.class_of.max(initial=0)) + 1, bool)
    units = resolution.unit_of
    if resolution.unit_group.size:
        free_class[resolution.class_of] = (units >= 0) & group_free[resolution.unit_group[units]]
    free = np.zeros(count, bool)
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


def rebuild(model: nn.Module, tape: Tape, plan: Plan, *, meta: bool = False) -> nn.Module:
    """A copy of `model` with its parameters and buffers gathered and the sizes that its modules know brought up to
    date.

    Args:
        meta: shapes alone, for a trial.
    """
    slots_of: dict[str, list[int]] = {}
    for name, dim in plan.gather:
        slots_of.setdefault(name, []).append(dim)
    memo: dict[int, Any] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name not in slots_of and not (meta and tensor.is_floating_point()):
            if type(tensor) is torch.Tensor and not tensor.requires_grad:  # a counter, say: quicker than deepcopy
                memo[id(tensor)] = tensor.clone()
            continue  # an index keeps its numbers, also in a trial
        new = tensor.detach().to("meta") if meta else tensor.detach()
        new = gathered(new, [(dim, plan.gather[name, dim]) for dim in slots_of.get(name, ())])
        if isinstance(tensor, nn.Parameter):
            new = nn.Parameter(new, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = new
    twin = clone(model, memo)
    update_modules(twin, tape, plan)
    return twin


def gathered(tensor: Tensor, dims: list[tuple[int, np.ndarray]]) -> Tensor:
    """`tensor` with the slices of each ``(dim, indices)``, always a copy of its own."""
    result = tensor
    # The dimension that loses most goes first: the others then copy less.
    for dim, index in sorted(dims, key=lambda d: d[1].size / max(1, tensor.shape[d[0]])):
        if index.size != tensor.shape[dim] or not np.array_equal(index, np.arange(index.size)):
            result = result.index_select(dim, torch.from_numpy(index).to(tensor.device))
    return result.clone() if result is tensor else result.contiguous()


def update_modules(model: nn.Module, tape: Tape, plan: Plan) -> None:
    """Bring the sizes that modules hold as attributes up to date: channels, groups, features, normalised shapes."""
    modules = dict(model.named_modules())

    def size(parameters: dict[str, str], role: str, dim: int) -> int | None:
        slot = (parameters.get(role, ""), dim)
        return int(plan.gather[slot].size) if slot in plan.gather else None

    for operation in tape.operations:
        module = modules.get(operation.module)
        if module is None or not (operation.parameters or operation.kind == "group_norm"):
            continue
        names = operation.parameters
        if operation.kind in ("conv", "conv_transpose"):
            transposed = operation.kind == "conv_transpose"
            rows, columns = size(names, "weight", int(transposed)), size(names, "weight", int(not transposed))
            if rows is None or columns is None or operation.rows is None or operation.columns is None:
                continue
            groups = new_groups(operation, rows, columns, transposed)
            set_size(module, "groups", groups)
            set_size(module, "out_channels", rows * groups if transposed else rows)
            set_size(module, "in_channels", columns if transposed else columns * groups)
        elif operation.kind == "linear":
            set_size(module, "out_features", size(names, "weight", 0))
            set_size(module, "in_features", size(names, "weight", 1))
        elif operation.kind == "recurrent":
            rows = size(names, "weight", 0)
            set_size(module, "input_size", size(names, "weight", 1))
            set_size(module, "hidden_size", None if rows is None else rows // int(operation.attrs["gates"]))
        elif operation.kind in ("batch_norm", "instance_norm"):
            count = next((size(names, role, 0) for role in ("weight", "running_mean") if role in names), None)
            set_size(module, "num_features", count)
        elif operation.kind == "layer_norm":
            shape = getattr(module, "normalized_shape", None)
            if isinstance(shape, tuple) and "weight" in names:
                sizes = [size(names, "weight", dim) for dim in range(len(shape))]
                new = tuple(old if own is None else own for old, own in zip(shape, sizes, strict=True))
                setattr(module, "normalized_shape", new)  # noqa: B010 - only some modules have it
        elif operation.kind == "group_norm":
            counted = (str(operation.attrs.get("counted", "")), 0)
            if counted in plan.gather:
                count = int(plan.gather[counted].size)
                groups_before = int(operation.attrs["norm_groups"])
                before = tape.fillers[counted[0]].size
                if groups_before > 1:
                    set_size(module, "num_groups", count * groups_before // before)
                set_size(module, "num_channels", count)


def new_groups(operation: Any, rows: int, columns: int, transposed: bool) -> int:
    """Groups of a convolution whose weight now has `rows` and `columns` (see ``convolutions._grouped``)."""
    groups = int(operation.attrs["groups"])
    if not operation.attrs["whole"]:
        return groups
    scaled = groups * columns // operation.columns.size if transposed else groups * rows // operation.rows.size
    return int(scaled)


def set_size(module: nn.Module, attribute: str, value: int | None) -> None:
    """Set a size where the module has it as a plain number."""
    if value is not None and type(getattr(module, attribute, None)) is int:
        setattr(module, attribute, value)


CANNOT_FOLLOW = "has sizes written into it or cannot follow"  # what is said of an operation that freezes units


@dataclass
class Mismatch(Exception):
    """An operation of the rewritten network that does not see what it should (`operation`: its index, in both
    tapes)."""

    operation: int
    reason: str


def check(
    model: nn.Module, example_inputs: Any, seed: Tape, plan: Plan, *, patched: bool = False
) -> tuple[Tape, dict[Slot, np.ndarray]]:
    """Record the rewritten network with the plan's identifiers.

    Returns:
        The new tape, and for slots of columns that must be rearranged the order of arrival as identifiers.

    Raises:
        Mismatch: an operation fails or units meet that should not.
    """
    tapes: list[Tape] = []

    def blank() -> Tape:
        tapes.append(Tape(model, plan.ids, plan.first_free, seed.decisions))
        return tapes[-1]

    try:
        tape, _, _ = run_tape(model, example_inputs, blank=blank, modes=(seed.on_meta,))
    except GraphError as error:
        # Both tapes went the same way up to here, so the operation that failed is the seed's next one.
        raise Mismatch(min(len(tapes[-1].operations), len(seed.operations) - 1), error.arrived) from error
    order: dict[Slot, np.ndarray] = {}
    for a, b, operation, slot in tape.unions:
        if a.size != b.size:
            raise Mismatch(operation, f"{a.size} channels meet {b.size}")
        wrong = a != b
        if not wrong.any() or not (wrong & (a > 0) & (b > 0)).any():
            continue
        if slot is not None and a.size == plan.ids.get(slot, a[:0]).size and np.array_equal(np.sort(a), np.sort(b)):
            if slot in order and not np.array_equal(order[slot], a):
                raise Mismatch(operation, "a shared layer is reached in two orders")
            order[slot] = a
            continue
        raise Mismatch(operation, "other channels arrive than should")
    for pinned, why, operation in tape.pins:
        known = pinned[(pinned > 0) & (pinned < plan.free.size)]
        if plan.free[known].any():
            raise Mismatch(operation, f"what could leave before no longer can ({why})")
    _check_steps(seed, tape, plan)
    found = numbers_of(tape)
    for key, (position, numbers) in numbers_of(seed).items():
        if key in found and found[key][1] != numbers:
            plan.dependent.append((position, numbers, found[key][1]))
    if not patched and len(tape.operations) != len(seed.operations):
        raise Mismatch(-1, "the network takes another path at these widths")
    return tape, order


# Operations that only move elements or make constants: a patch may do with others. All others see each what they saw.
MOVING = frozenset(
    "view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten unflatten permute transpose t split chunk"
    " split_with_sizes slice select narrow unbind stack expand flip roll index_select index repeat repeat_interleave"
    " pixel_shuffle pixel_unshuffle channel_shuffle rot90 as_strided movedim swapaxes unfold diagonal split_copy"
    " unbind_copy select_copy slice_copy native_channel_shuffle cat concat constant_pad_nd copy index_put"
    " _index_put_impl_ clone contiguous detach alias _to_copy to lift_fresh _conj positive dropout empty zeros ones"
    " full scalar_tensor empty_strided new_empty new_zeros new_ones new_full empty_like zeros_like ones_like full_like"
    " rand_like randn_like rand randn new_empty_strided zero fill im2col view_as_complex view_as_real"
    " arange linspace logspace eye randperm tril_indices"
    " triu_indices".split()
)


# Those that move channels to other places, or pixels within them, which matters too.
PLACING = frozenset("copy index_put _index_put_impl_ roll flip rot90".split())


def _is_step(operation: RawOperation) -> bool:
    """Whether it matters which channels an operation sees, and a patch leaves it as it is."""
    if operation.kind == "constant_pad_nd" and operation.inputs:  # of the image, not of channels
        rank, sizes = len(operation.inputs[0].shape), operation.attrs.get("pad", ())
        return rank > 3 and len(sizes) <= 2 * (rank - 2)
    return operation.kind not in MOVING or operation.kind in PLACING


def _check_steps(seed: Tape, tape: Tape, plan: Plan) -> None:
    """Operation by operation the new network does what the seed does, to the channels that are left of the same.

    Couplings alone do not say so: what takes the first four channels, whichever they are, doubles or turns them, and
    puts them back couples nothing. In code that was patched, operations that only move elements are others; there the
    patch has looked at each of them.

    Raises:
        Mismatch: another operation, or other channels.
    """
    # What would see nothing is left out: some operations go another way, or none, on tensors without elements.
    steps = [i for i, one in enumerate(tape.operations) if _is_step(one) and not any(0 in x.shape for x in one.inputs)]
    wanted = [i for i, one in enumerate(seed.operations) if _is_step(one) and not _sees_nothing(one, plan)]
    for own, index in zip(steps, wanted, strict=False):
        new, old = tape.operations[own], seed.operations[index]
        if (new.kind, new.module) != (old.kind, old.module):
            raise Mismatch(index, "the network takes another path at these widths")
    if len(steps) != len(wanted):
        raise Mismatch(-1, "the network takes another path at these widths")
    pairs = dict(zip(wanted, steps, strict=True))
    ran, found = _by_module(seed), _by_module(tape)
    for module, places in ran.items():
        there = found.get(module, [])
        if [seed.operations[i].kind for i in places] == [tape.operations[i].kind for i in there]:
            pairs.update(zip(places, there, strict=True))
    for index in sorted(pairs):
        new, old = tape.operations[pairs[index]], seed.operations[index]
        if old.kind in JOINING:
            continue
        for labels, former in zip(new.inputs, old.inputs, strict=False):
            if not _same_channels(labels, former, plan):
                raise Mismatch(index, "other channels arrive than should")


JOINING = frozenset(("cat", "stack", "concat"))  # what parts there are does not matter, where nothing was done to them


def _by_module(tape: Tape) -> dict[str, list[int]]:
    """The operations of every module's own code."""
    found: dict[str, list[int]] = {}
    for index, operation in enumerate(tape.operations):
        found.setdefault(operation.module, []).append(index)
    return found


def _sees_nothing(operation: RawOperation, plan: Plan) -> bool:
    """None of the units that an operation of the seed reads through one of its inputs is left."""
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
    if np.array_equal(arriving, expected):
        return True
    if (ids == LOOSE).any():  # filler: units that a tensor made in code has in the seed alone
        return bool(np.isin(arriving, expected).all())
    return np.array_equal(np.unique(arriving), np.unique(expected))


def numbers_of(tape: Tape) -> dict[tuple[str, str, int], tuple[int, tuple[float, ...]]]:
    """Position and plain numbers of every operation that computes with some, by module, kind and how many came before.

    A patch adds and removes operations that move data; the others keep their place among their kind.
    """
    seen: dict[tuple[str, str], int] = {}
    result = {}
    for position, operation in enumerate(tape.operations):
        if "numbers" in operation.attrs:
            key = (operation.module, operation.kind)
            seen[key] = seen.get(key, 0) + 1
            result[*key, seen[key]] = (position, operation.attrs["numbers"])
    return result


def rearrange(plan: Plan, order: Mapping[Slot, np.ndarray]) -> None:
    """Put slots into the order in which channels arrive; within one identifier the order stays."""
    for slot, arriving in order.items():
        here = np.argsort(plan.ids[slot], kind="stable")
        place = np.empty_like(here)
        place[np.argsort(arriving, kind="stable")] = here
        for table in (plan.gather, plan.ids, plan.copies, plan.copy_number):
            table[slot] = table[slot][place]
