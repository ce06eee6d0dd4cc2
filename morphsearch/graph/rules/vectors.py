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
from morphsearch.graph.tape import Slot, Tape


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
    first, second = _line(tape, one, dim), _line(tape, other, 0)
    if first is None or second is None:
        return False
    (slot, places), (met, there) = first, second
    if slot is None or met is None or (slot == met and np.array_equal(places, there)):
        return True  # along kernels, which keep their sizes; or the same slices
    tape.union(tape.slot(*slot, "other")[places], tape.slot(*met, "norm")[there])
    for vector, summed in ((slot, met), (met, slot)):
        if len(tape.shapes[vector[0]]) == 1:
            tape.vectors.setdefault(vector, summed)
    return True


def _line(tape: Tape, labels: Labels, dim: int) -> tuple[Slot | None, np.ndarray] | None:
    """What `dim` of a rearrangement of a parameter runs through: its rows or its columns (maybe with its kernel beside
    them), and which of them; no slot where only kernels lie there, and None where it is more than that."""
    if not labels.parameter:
        return None
    shape = tape.shapes[labels.parameter]
    first = tuple(slice(None) if d == dim else 0 for d in range(len(labels.shape)))
    flat = np.asarray(labels.full()[first]) - 1
    if (flat < 0).any():
        return None
    coordinates = np.unravel_index(flat, shape)
    channels = [d for d, places in enumerate(coordinates[:2]) if (places != places[0]).any()]  # beyond lies a kernel
    natural = ",".join(map(str, channels)) or ("0" if len(shape) == 1 else "kernel")
    # Where a single slice is left, the seed knows which dimension it was.
    chosen = tape.decide(f"vector along {labels.parameter}", natural)
    if chosen == "kernel":
        return None, flat
    return ((labels.parameter, int(chosen)), coordinates[int(chosen)]) if chosen in ("0", "1") else None


__all__ = ["vector_product"]
