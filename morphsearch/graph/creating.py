"""Calls that make tensors, and with how many channels: ``torch.zeros(b, 64, h, w)`` at the start of a recurrence.

Whether the second dimension of such a tensor holds channels cannot be seen where it is made, and nearly always it does
not matter: what is made is added to, or thrown away. So they are filler first. Where a network then cannot follow at
other widths, it is recorded once more with their channels as units (:func:`~morphsearch.graph.grouping.with_created`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from morphsearch.graph.labels import Labels
from morphsearch.graph.rules.moving import CHANNELLED, CREATING

FUNCTIONS = frozenset(getattr(torch, name) for name in CREATING if not name.startswith("new_"))
METHODS = frozenset(getattr(Tensor, name) for name in CREATING if name.startswith("new_"))


def sizes_of(name: str, args: Any) -> list[Any]:
    """The sizes among the arguments of a call of `name`, given one by one or as one argument."""
    first = first_size(name)
    listed = len(args) > first and isinstance(args[first], (tuple, list))
    return list(args[first] if listed else args[first:])


def with_size(name: str, args: Any, dim: int, size: int) -> tuple[Any, ...]:
    """The arguments of a call of `name` with another size of dimension `dim`."""
    first = first_size(name)
    if isinstance(args[first], (tuple, list)):
        sizes = list(args[first])
        sizes[dim] = size
        return (*args[:first], tuple(sizes), *args[first + 1 :])
    return (*args[: first + dim], size, *args[first + dim + 1 :])


def channels_made(labels: Labels) -> int | None:
    """The dimension of a tensor that is made whose size is the number of its channels; None for filler, whose size
    follows from nothing."""
    if labels.blank or labels.parameter is not None:
        return None
    rank = len(labels.shape)
    return next(iter(labels.varying()), 1 if rank in CHANNELLED else rank - 1)


def first_size(name: str) -> int:
    """Where the sizes begin: methods have their tensor before them."""
    return 1 if name.startswith("new_") else 0


__all__ = ["FUNCTIONS", "METHODS", "channels_made", "first_size", "sizes_of", "with_size"]
