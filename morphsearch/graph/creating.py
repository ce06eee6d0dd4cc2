"""Calls that make tensors, and with how many channels: ``torch.zeros(b, 64, h, w)`` at the start of a recurrence.

Whether the second dimension of such a tensor holds channels cannot be seen where it is made, and nearly always it does
not matter: what is made is added to, or thrown away. So they are filler first. Where a network then cannot follow at
other widths, it is recorded once more with their channels as units (:func:`~morphsearch.graph.grouping.with_created`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from morphsearch.graph.rules.moving import CREATING

FUNCTIONS = frozenset(getattr(torch, name) for name in CREATING if not name.startswith("new_"))
METHODS = frozenset(getattr(Tensor, name) for name in CREATING if name.startswith("new_"))


def sizes_of(name: str, args: Any) -> list[Any]:
    """The sizes among the arguments of a call of `name`, given one by one or as one argument."""
    first = _first(name)
    listed = len(args) > first and isinstance(args[first], (tuple, list))
    return list(args[first] if listed else args[first:])


def with_channels(name: str, args: Any, channels: int) -> tuple[Any, ...]:
    """The arguments of a call of `name` with another size of the second dimension."""
    first = _first(name)
    if isinstance(args[first], (tuple, list)):
        batch, _, *rest = args[first]
        return (*args[:first], (batch, channels, *rest), *args[first + 1 :])
    return (*args[: first + 1], channels, *args[first + 2 :])


def _first(name: str) -> int:
    """Where the sizes begin: methods have their tensor before them."""
    return 1 if name.startswith("new_") else 0


__all__ = ["FUNCTIONS", "METHODS", "sizes_of", "with_channels"]
