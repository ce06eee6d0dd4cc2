"""Why layers change together, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphsearch.arguments import require
from morphsearch.errors import UnknownName

if TYPE_CHECKING:
    from morphsearch.graph.graph import ConvGraph

_JOINS = {"add", "mul", "sub", "div", "cat", "copy", "where", "stack"}


def explain(graph: ConvGraph, name: str) -> str:
    """Describe the groups that a layer makes and reads, or one group; see :meth:`ConvGraph.explain`.

    Raises:
        UnknownName: neither a layer nor a group of that name. UsageError: no name at all.
    """
    require(isinstance(name, str), "name", name, "the name of a layer or group, as text", "take one from graph.groups")
    chosen = [name] if name in graph.groups else _groups_of(graph, name)
    if not chosen:
        known = [*graph.groups, *(layer for group in graph.groups.values() for layer in group.layers)]
        raise UnknownName.of("layer or group", name, dict.fromkeys(known))
    return "\n\n".join(_describe(graph, group) for group in chosen)


def _groups_of(graph: ConvGraph, layer: str) -> list[str]:
    names = list(graph.groups)
    found: dict[str, None] = {}
    for binding in graph.bindings:
        module = binding.tensor.rpartition(".")[0]
        if module == layer and binding.role in ("rows", "norm", "bias", "gate"):
            for unit in np.unique(binding.units[binding.units >= 0]):
                found[names[graph.unit_group[unit]]] = None
    return list(found)


def _describe(graph: ConvGraph, name: str) -> str:
    group = graph.groups[name]
    position = list(graph.groups).index(name)
    per_unit = f", each {group.channels} channels of {name}" if group.channels > 1 else ""
    lines = [f"{name}: {group.width} units{per_unit}, at least {group.floor} of them stay."]
    if group.frozen:
        lines.append(f"  frozen: {group.frozen}")
    makers: list[str] = []
    readers: list[str] = []
    others: list[str] = []
    for binding in graph.bindings:
        units = binding.units[binding.units >= 0]
        if not (graph.unit_group[units] == position).any():
            continue
        module = binding.tensor.rpartition(".")[0] or binding.tensor
        (makers if binding.role == "rows" else readers if binding.role == "columns" else others).append(module)
    lines += _listed("made by", makers)
    lines += _listed("carried by", others)
    lines += _listed("read by", readers)
    lines += [f"  joined by {where}" for where in _joins(graph, position)]
    lines += [f"  not exact: {mix} computes with all channels at once" for mix in group.mixes]
    return "\n".join(lines)


def _listed(what: str, modules: list[str]) -> list[str]:
    unique = list(dict.fromkeys(modules))
    return [f"  {what} {', '.join(unique)}"] if unique else []


def _joins(graph: ConvGraph, position: int) -> list[str]:
    """Operations in which units of the group meet those of another layer, such as a residual addition."""
    found: dict[str, None] = {}
    unit_of = graph.resolution.unit_of
    for operation in graph.tape.operations:
        if operation.kind not in _JOINS or len(operation.inputs) < 2:
            continue
        ids = np.concatenate([np.asarray(labels.ids).reshape(-1) for labels in operation.inputs])
        units = unit_of[ids[ids > 0]]
        if (graph.unit_group[units[units >= 0]] == position).any():
            found[f"{operation.kind} in {operation.module or 'the network itself'}"] = None
    return list(found)
