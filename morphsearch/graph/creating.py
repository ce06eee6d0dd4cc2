"""States that code makes at a size written down: ``torch.zeros(b, 64, h, w)`` at the start of a recurrence.

Whether the second dimension of such a tensor holds channels cannot be seen where it is made, and nearly always it does
not matter: what is made is added to, or thrown away. So they are filler first. Where a network then cannot follow at
other widths, it is recorded once more with their channels as units, and that is kept where more is free for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from morphsearch.graph.grouping import free_units
from morphsearch.graph.rules.moving import CREATED

if TYPE_CHECKING:
    from morphsearch.graph.graph import ConvGraph

FUNCTIONS = frozenset((torch.zeros, torch.ones, torch.empty, torch.full, torch.rand, torch.randn))
METHODS = frozenset((Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty, Tensor.new_full))
NAMES = frozenset(function.__name__ for function in FUNCTIONS | METHODS)


def with_created(graph: ConvGraph, record_with: Callable[[Mapping[str, str]], ConvGraph]) -> ConvGraph:
    """`graph`, or where code holds it back that makes tensors, the one in which their channels are units, if more units
    are free there.

    Args:
        record_with: records and checks the same network with a decision made.
    """
    held_back = any("cannot follow" in (group.frozen or "") for group in graph.groups.values())
    if not held_back or not graph.tape.created:
        return graph
    other = record_with({CREATED: "units"})
    return other if free_units(other) > free_units(graph) else graph


def sizes_of(name: str, args: Any) -> tuple[list[Any], bool, int]:
    """The sizes among the arguments of a call, whether they are one argument, and where they begin."""
    first = 1 if name.startswith("new_") else 0
    if len(args) > first and isinstance(args[first], (tuple, list)):
        return list(args[first]), True, first
    return list(args[first:]), False, first


def with_sizes(name: str, args: Any, sizes: list[Any]) -> tuple[Any, ...]:
    """The arguments of a call with other sizes."""
    _, listed, first = sizes_of(name, args)
    return (*args[:first], tuple(sizes), *args[first + 1 :]) if listed else (*args[:first], *sizes)


__all__ = ["FUNCTIONS", "METHODS", "NAMES", "sizes_of", "with_created", "with_sizes"]
