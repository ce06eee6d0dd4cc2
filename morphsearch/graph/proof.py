"""The proof of every rewrite: the new network is recorded with identifiers that say which unit every slice is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from torch import nn

from morphsearch.errors import GraphError
from morphsearch.graph.plan import Plan
from morphsearch.graph.recording import run_tape
from morphsearch.graph.state import stale_in
from morphsearch.graph.steps import Mismatch, check_steps
from morphsearch.graph.tape import Slot, Tape


def check(
    model: nn.Module,
    example_inputs: Any,
    seed: Tape,
    plan: Plan,
    *,
    patched: bool = False,
    foreseen: Collection[str] = (),
) -> tuple[Tape, dict[Slot, np.ndarray]]:
    """Record the rewritten network with the plan's identifiers.

    Args:
        patched: code was patched, and every node of it looked at: it may move elements in another way.
        foreseen: modules whose code got other sizes that nobody has looked at: they must do what the seed's do.

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
        tape, _, _ = run_tape(model, example_inputs, blank=blank, modes=(seed.on_meta,), like=seed)
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
    check_steps(seed, tape, plan, foreseen)
    plan.stale = stale_in(seed.caches, tape.caches)
    seed.stale |= plan.stale
    found = numbers_of(tape)
    for key, (position, numbers) in numbers_of(seed).items():
        if key in found and found[key][1] != numbers:
            plan.dependent.append((position, numbers, found[key][1]))
    if not patched and _count(tape) != _count(seed):
        raise Mismatch(-1, "the network takes another path at these widths")
    return tape, order


# A reshape copies where sizes need it to: of sets of one channel, say, that were sets of two.
_LAID_OUT = frozenset("view _unsafe_view reshape clone".split())


def _count(tape: Tape) -> int:
    """The operations of a network, but for those that lay elements out anew."""
    return sum(operation.kind not in _LAID_OUT for operation in tape.operations)


def numbers_of(tape: Tape) -> dict[tuple[str, str, int], tuple[int, tuple[float, ...]]]:
    """Position and plain numbers of every operation that computes with some, by module, kind and how many came before.

    A patch adds and removes operations that move data; the others keep their place among their kind.
    """
    seen: dict[tuple[str, str], int] = {}
    result = {}
    for position, operation in enumerate(tape.operations):
        numbers = operation.attrs.get("numbers", operation.attrs.get("counts"))
        if numbers is not None:
            key = (operation.module, operation.kind)
            seen[key] = seen.get(key, 0) + 1
            result[*key, seen[key]] = (position, numbers)
    return result


def rearrange(plan: Plan, order: Mapping[Slot, np.ndarray]) -> None:
    """Put slots into the order in which channels arrive; within one identifier the order stays."""
    for slot, arriving in order.items():
        here = np.argsort(plan.ids[slot], kind="stable")
        place = np.empty_like(here)
        place[np.argsort(arriving, kind="stable")] = here
        for table in (plan.gather, plan.ids, plan.copies, plan.copy_number):
            table[slot] = table[slot][place]
