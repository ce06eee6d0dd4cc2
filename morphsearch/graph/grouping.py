"""Choices that only the finished graph can judge: the network is recorded both ways, and more free units win.

Whole groups or channels in lockstep, which of the two a grouped convolution had better lose:
The rule of convolutions decides by the layer alone. What surrounds it may couple units further: in attention that
pools over several scales (EfficientViT, arXiv 2205.14756) all heads share their channels, so that whole groups leave no
choice at all, and the same channel of every group leaves one a channel. That shows only in the finished graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from morphsearch.graph.rules.mixtures import MIXED
from morphsearch.graph.rules.moving import CREATED
from morphsearch.graph.steps import CANNOT_FOLLOW
from morphsearch.graph.unionfind import distinct_values

if TYPE_CHECKING:
    from morphsearch.graph.graph import ConvGraph

OTHER = {"whole": "lockstep", "lockstep": "whole"}


def regrouped(graph: ConvGraph, record_with: Callable[[Mapping[str, str]], ConvGraph]) -> ConvGraph:
    """The graph with the other choice for those grouped convolutions that are left with fewer units than it would give,
    where that makes more units free; else `graph`.

    Args:
        record_with: records the same network with some choices made, by the name of the weight.
    """
    choices = _doubtful(graph)
    if not choices:
        return graph
    return _freer(graph, record_with(choices))


def with_mixtures(record_with: Callable[[Mapping[str, str]], ConvGraph]) -> ConvGraph:
    """The graph in which weights that data mixes follow their parameters, where convolutions read such and that makes
    more units free (see :mod:`~morphsearch.graph.rules.mixtures`); else the graph without such choices.

    Where a bank counts as a layer's weight every element of its kernels is a unit, so the first recording is not kept
    beside the second, which nearly always wins.

    Args:
        record_with: records the same network with some choices made, by the name of the parameter.
    """
    graph = record_with({})
    choices = {name + MIXED: "by data" for name in sorted(graph.tape.wishes)}
    if not choices:
        return graph
    free = _free_units(graph)
    del graph
    other = record_with(choices)
    return other if _free_units(other) > free else record_with({})


def with_created(graph: ConvGraph, record_with: Callable[[Mapping[str, str]], ConvGraph]) -> ConvGraph:
    """The graph in which channels of tensors that code makes are units (see :mod:`~morphsearch.graph.creating`), where
    sizes in code hold something back and that makes more units free; else `graph`.

    Args:
        record_with: records and checks the same network with a decision made.
    """
    held_back = any(CANNOT_FOLLOW in (group.frozen or "") for group in graph.groups.values())
    if not held_back or not (graph.tape.created or graph.tape.states):
        return graph
    return _freer(graph, record_with({CREATED: "units", **graph.tape.states}))


def with_parts(graph: ConvGraph, record_with: Callable[[Mapping[str, str]], ConvGraph]) -> ConvGraph:
    """The graph in which parts of channels lose the same ones (``x.view(b, parts, c // parts, h, w)``), where sizes in
    code hold such channels back and that makes more units free; else `graph`.

    Args:
        record_with: records and checks the same network with some choices made, by the name of the reshape.
    """
    held = np.array([CANNOT_FOLLOW in (group.frozen or "") for group in graph.groups.values()] + [False])
    choices = {}
    for name, ids, dim in graph.tape.parted:
        some = np.asarray(ids).reshape(-1)
        units = graph.resolution.unit_of[some[some > 0]]
        if held[graph.unit_group[units[units >= 0]]].any():
            choices[name] = str(dim)
    return _freer(graph, record_with(choices)) if choices else graph


def _doubtful(graph: ConvGraph) -> dict[str, str]:
    """For weights whose group has fewer units than the other choice could give: that choice."""
    found: dict[str, str] = {}
    groups = list(graph.groups.values())
    for operation in graph.tape.operations:
        weight = operation.parameters.get("weight", "")
        chosen = graph.tape.decisions.get(weight)
        if operation.kind != "conv" or chosen not in OTHER or operation.rows is None or operation.columns is None:
            continue
        count = int(operation.attrs["groups"])
        per_group = min(operation.columns.size, operation.rows.size // count)
        if count < 2 or per_group < 2:
            continue
        units = graph.resolution.unit_of[operation.rows]
        owners = distinct_values(graph.unit_group[units[units >= 0]])
        width = sum(groups[owner].width for owner in owners)
        if width < (per_group if chosen == "whole" else count):
            found[weight] = OTHER[chosen]
    return found


def _freer(graph: ConvGraph, other: ConvGraph) -> ConvGraph:
    """`other` where more of its units may leave, else `graph`."""
    return other if _free_units(other) > _free_units(graph) else graph


def _free_units(graph: ConvGraph) -> int:
    return sum(group.width for group in graph.groups.values() if group.frozen is None)
