"""Tensors made like others (``zeros_like(x)``): filler that is as large as what it is like, at any width.

What such a tensor becomes cannot be seen where it is made: nearly always it is written over, or meets the units that it
is like. Where it meets others, its size ties them to those that it was made like (a sum that starts at
``torch.zeros_like(x)``, as the outputs of WaveNet's layers do, arXiv 1609.03499).
"""

from __future__ import annotations

from typing import overload

from torch import Tensor

from morphsearch.graph.labels import LOOSE, Labels
from morphsearch.graph.tape import Tape


@overload
def as_large_as(tape: Tape, tensor: Tensor, labels: Labels) -> Labels: ...
@overload
def as_large_as(tape: Tape, tensor: Tensor, labels: Labels | None) -> Labels | None: ...
def as_large_as(tape: Tape, tensor: Tensor, labels: Labels | None) -> Labels | None:
    """The labels of an operand: those of what it was made like, where that has units and nothing was written yet."""
    like: Labels | None = getattr(tensor, "_morphsearch_like", None)
    if like is None or labels is None or labels.parameter is not None or not _is_filler(labels):
        return labels
    # Where a single unit is left, the seed knows that there were more.
    if tape.decide("made like", "units" if like.varying() else None, strict=True) is None or like.second is not None:
        return labels
    return Labels(like.ids, labels.shape, labels.producer)


def _is_filler(labels: Labels) -> bool:
    return labels.second is None and bool((labels.ids == LOOSE).all())


__all__ = ["as_large_as"]
