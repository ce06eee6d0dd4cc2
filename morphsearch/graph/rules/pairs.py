"""Outer products of channels: tensors whose every element belongs to two units.

A product of two activations that both carry units along what is left (the map of attention between channels, the state
of
linear attention) has units of one along its rows and of the other along its columns. Operations that treat every
element
alike, move elements or run along one dimension are applied to either side in turn; products contract a side; whatever
else reads such a tensor fixes both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from morphsearch.graph.labels import Labels
from morphsearch.graph.rules.common import Rule
from morphsearch.graph.tape import Tape
from morphsearch.graph.tensors import tensors_in


def on_both_sides(rule: Rule) -> Rule:
    """`rule`, applied to the two sides of outer products one after the other."""

    def run(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        if not tape.pairs or tape.side is not None or all(tape.pair(t) is None for t in tensors_in((args, kwargs))):
            rule(tape, func, args, kwargs, out)
            return
        outputs = tensors_in(out)
        sides: list[list[Labels | None]] = []
        try:
            for side in (1, 0):
                tape.side = side
                count = len(tape.operations)
                rule(tape, func, args, kwargs, out)
                if side:
                    del tape.operations[count:]  # one operation, written down once
                sides.append([tape.labels(tensor) for tensor in outputs])
        finally:
            tape.side = None
        made = []
        for tensor, second, first in zip(outputs, *sides, strict=True):
            if first is not None and second is not None:
                made.append((first, joined(tape, first, second)))
                tape.put(tensor, made[-1][1])
        _write_both_sides(tape, count, (args, kwargs), made)

    return run


def _write_both_sides(tape: Tape, count: int, given: Any, made: list[tuple[Labels, Labels]]) -> None:
    """The operations from number `count` on read and gave outer products: their records hold both sides, too."""
    read = [pair for tensor in tensors_in(given) if (pair := tape.pair(tensor)) is not None]
    for operation in tape.operations[count:]:
        operation.inputs = tuple(
            next((pair for pair in read if labels.ids is pair.ids or labels.ids is pair.second), labels)
            for labels in operation.inputs
        )
        operation.outputs = tuple(
            next((both for side, both in made if side is labels), labels) for labels in operation.outputs
        )


def on_one_side(rule: Callable[..., Any], channel_dim: Callable[..., int]) -> Callable[..., Any]:
    """The rule of a layer, applied to the side of an outer product that lies along its channels.

    The other side goes by, one element after another; where the layer has a kernel there, both are fixed.
    """

    def run(tape: Tape, func: Any, args: Any, kwargs: Any) -> Any:
        x = args[0] if args else kwargs.get("input")
        labels = tape.pair(x) if tape.pairs and isinstance(x, Tensor) else None
        if labels is None or labels.second is None:
            return rule(tape, func, args, kwargs)
        dim = channel_dim(x, args, kwargs) % x.dim()
        sides = (labels.ids, labels.second)
        found = [place for place, ids in enumerate(sides) if ids.shape[dim] > 1]
        chosen = tape.decide("side of a layer", str(found[0]) if len(found) == 1 else None)
        if chosen is None:
            return rule(tape, func, args, kwargs)
        tape.side = int(chosen)
        count = len(tape.operations)
        try:
            out = rule(tape, func, args, kwargs)
        finally:
            tape.side = None
        other = sides[1 - int(chosen)]
        beside = [d for d, size in enumerate(other.shape) if size > 1]
        if any(out.shape[d] != x.shape[d] or _window(tape, count, d - dim - 1) for d in beside) or dim in beside:
            tape.pin(
                other, f"{tape.where(getattr(func, '__name__', 'a layer'))}: it reads an outer product of channels"
            )
            return out
        own = tape.labels(out)
        if own is not None:
            both = joined(tape, own, Labels(other, tuple(out.shape)))
            tape.put(out, both)
            _write_both_sides(tape, count, x, [(own, both)])
        return out

    return run


def _window(tape: Tape, operation: int, place: int) -> bool:
    """The operation has a kernel of more than one element along its spatial dimension `place`."""
    kernel = tape.operations[operation].attrs.get("kernel", ()) if operation < len(tape.operations) else ()
    return 0 <= place < len(kernel) and kernel[place] > 1


def joined(tape: Tape, first: Labels, second: Labels) -> Labels:
    """An outer product of two sides; where one has no units, the other alone."""
    if second.blank:
        return first
    if first.blank:
        return Labels(second.ids, second.shape, first.producer)
    tape.pairs = True
    return Labels(first.ids, first.shape, first.producer, None, second.ids)


__all__ = ["joined", "on_both_sides", "on_one_side"]
