"""Products with vectors that are made of parameters: the power iteration of spectral normalisation.

Spectral normalisation (Miyato et al., arXiv 1802.05957, algorithm 1) divides a weight by ``u^T W v``, where `u` and `v`
are buffers that follow the weight's rows and columns. With slices of the weight at zero, what they meet in `u` and `v`
adds nothing to that number, so a network without them computes the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from morphsearch.graph.labels import Labels, reduce_ids, unknown
from morphsearch.graph.rules.binding import unknown_part
from morphsearch.graph.rules.common import Rule
from morphsearch.graph.tape import Tape

Ids = np.ndarray


def vector_product(otherwise: Rule) -> Rule:
    """``mv`` and ``dot`` of parameters; `otherwise` is the rule for activations."""

    def rule(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        one, other = (tape.labels(t) if isinstance(t, Tensor) else None for t in args[:2])
        if one is None or other is None or one.parameter is None or other.parameter is None:
            otherwise(tape, func, args, kwargs, out)
            return
        shape = tuple(out.shape)
        summed = len(one.shape) - 1
        if not _meet(tape, one, summed, other):
            tape.put(out, unknown_part(tape, [one, other], shape, str(func._schema.name)))
        elif shape:
            ids = reduce_ids(one, [summed])
            tape.put(out, Labels(ids.reshape(ids.shape[:summed]), shape, -1, one.parameter))
        else:
            tape.put(out, unknown(shape))

    return rule


def _meet(tape: Tape, one: Labels, dim: int, other: Labels) -> bool:
    """Elements of two parameters that are multiplied along a dimension belong together; False where that is not
    followed."""
    if not one.parameter or not other.parameter:
        return False
    lines = [_line(tape, one, dim), _line(tape, other, 0)]
    if lines[0] is None or lines[1] is None:
        return False
    (first, at), (second, there) = ((line.slot, line.places) for line in lines if line is not None)
    if first is None or second is None or (first == second and np.array_equal(at, there)):
        return True  # along kernels, which keep their sizes; or the same slices
    tape.union(tape.slot(*first, "other")[at], tape.slot(*second, "norm")[there])
    for vector, summed in ((first, second), (second, first)):
        if len(tape.shapes[vector[0]]) == 1:
            tape.vectors.setdefault(vector, summed)
    return True


class _Line:
    """Slices of a parameter along a dimension of its rearrangement; no slot where only kernels lie there."""

    def __init__(self, slot: tuple[str, int] | None, places: Ids) -> None:
        self.slot, self.places = slot, places


def _line(tape: Tape, labels: Labels, dim: int) -> _Line | None:
    """What `dim` of a rearrangement runs through: rows or columns of a weight, maybe with its kernel beside them."""
    name = labels.parameter or ""
    shape = tape.shapes[name]
    first = tuple(slice(None) if d == dim else 0 for d in range(len(labels.shape)))
    flat = np.asarray(labels.full()[first]) - 1
    if (flat < 0).any():
        return None
    coordinates = np.unravel_index(flat, shape)
    moving = [d for d, places in enumerate(coordinates) if places.size > 1 and (places != places[0]).any()]
    channels = [d for d in moving if d < 2]  # dimensions beyond are a kernel's
    natural = ",".join(map(str, channels)) or ("0" if len(shape) == 1 else "kernel")
    # Where a single slice is left, the seed knows which dimension it was.
    chosen = tape.decide(f"vector along {name}", natural)
    if chosen == "kernel":
        return _Line(None, flat)
    return _Line((name, int(chosen)), coordinates[int(chosen)]) if chosen in ("0", "1") else None


__all__ = ["vector_product"]
