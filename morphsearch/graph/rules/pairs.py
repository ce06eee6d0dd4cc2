"""Outer products of channels: tensors whose every element belongs to two units.

A product of two activations that both carry units along what is left (the map of attention between channels, the state
of
linear attention) has units of one along its rows and of the other along its columns. Operations that treat every
element
alike, move elements or run along one dimension are applied to either side in turn; products contract a side; whatever
else reads such a tensor fixes both.
"""

from __future__ import annotations

from typing import Any

from morphsearch.graph.labels import Labels
from morphsearch.graph.rules.common import Rule
from morphsearch.graph.tape import Tape, tensors_in


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
        for tensor, second, first in zip(outputs, *sides, strict=True):
            if first is not None and second is not None:
                tape.put(tensor, joined(tape, first, second))

    return run


def joined(tape: Tape, first: Labels, second: Labels) -> Labels:
    """An outer product of two sides; where one has no units, the other alone."""
    if second.blank:
        return first
    if first.blank:
        return Labels(second.ids, second.shape, first.producer)
    tape.pairs = True
    return Labels(first.ids, first.shape, first.producer, None, second.ids)


__all__ = ["joined", "on_both_sides"]
