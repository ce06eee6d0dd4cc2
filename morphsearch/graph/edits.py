"""Edits of a trace, and the module that comes of them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn


@dataclass
class Selection:
    """Replace `node` by channels `index` of dimension `dim` of `source` (-1: a channel of the value `fill`);
    `after` dimensions follow."""

    node: str
    source: str
    dim: int
    index: np.ndarray
    fill: float
    after: int


@dataclass
class Resized:
    """Give argument `position` of the node's size list the value `size`."""

    node: str
    position: int
    size: int


@dataclass
class Regrouped:
    """Give the convolution `node` so many groups."""

    node: str
    groups: int


@dataclass
class Removed:
    """Take out `node`, an assertion about sizes that were replaced."""

    node: str


@dataclass
class PatchLog:
    """The edits of one module's trace."""

    edits: list[Selection | Resized | Regrouped | Removed] = field(default_factory=list)


def apply_edits(module: nn.Module, traced: fx.GraphModule, log: PatchLog) -> fx.GraphModule:
    """The trace with its edits, as a module with the same children, parameters and mode."""
    nodes = {node.name: node for node in traced.graph.nodes}
    for edit in log.edits:
        node = nodes[edit.node]
        if isinstance(edit, Removed):
            traced.graph.erase_node(node)
            continue
        if isinstance(edit, Regrouped):
            regroup(node, edit.groups)
            continue
        with traced.graph.inserting_before(node):
            new = _selected(traced, nodes, edit) if isinstance(edit, Selection) else _resized(traced, node, edit)
        node.replace_all_uses_with(new)
        nodes[edit.node] = new
    traced.graph.eliminate_dead_code()
    traced.recompile()
    for name, child in module.named_children():
        if name not in traced._modules:
            traced.add_module(name, child)
    for name, parameter in module.named_parameters(recurse=False):
        if name not in traced._parameters:
            traced.register_parameter(name, parameter)
    read = {str(node.target) for node in traced.graph.nodes if node.op == "get_attr"}
    for name in [name for name in vars(module)["_buffers"] if name.startswith("_channels_") and name not in read]:
        traced._buffers.pop(name, None)  # the selection of an earlier rewrite
    _complete(traced, module, {})
    for name, value in vars(module).items():
        if name not in vars(traced) and name != "forward":
            setattr(traced, name, value)
    traced.train(module.training)
    return traced


def _complete(traced: fx.GraphModule, module: nn.Module, memo: dict[int, Any]) -> None:
    """Give a trace everything that its module holds, in the same order, though its code may not read it."""
    for store in ("_modules", "_parameters", "_buffers"):
        own, theirs = getattr(traced, store), getattr(module, store)
        stale = {name for name in theirs if name.startswith("_channels_") and name not in own}
        names = [name for name in [*theirs, *own] if name not in stale]
        complete = {name: own[name] if name in own else copy.deepcopy(theirs[name], memo) for name in names}
        own.clear()
        own.update(complete)
    traced._non_persistent_buffers_set = {
        name for name in traced._buffers if name in module._non_persistent_buffers_set or name.startswith("_channels_")
    }


class Patched(fx.GraphModule):
    """A traced module; unlike PyTorch's own, its copies keep all children and which buffers are not saved."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Patched:
        twin = super().__deepcopy__(memo)
        assert isinstance(twin, Patched)
        _complete(twin, self, memo)
        return twin


def _selected(traced: fx.GraphModule, nodes: dict[str, fx.Node], edit: Selection) -> fx.Node:
    """The nodes of a selection: a slice where the channels are neighbours, padding where only the ends are filled."""
    source, dim, graph = nodes[edit.source], edit.dim, traced.graph
    kept = np.nonzero(edit.index >= 0)[0]
    inner = edit.index[kept]
    neighbours = inner.size > 0 and bool((np.diff(inner) == 1).all()) and bool((np.diff(kept) == 1).all())
    if neighbours:
        new = graph.call_function(torch.narrow, (source, dim, int(inner[0]), int(inner.size)))
        if kept.size < edit.index.size:
            ends = [int(kept[0]), int(edit.index.size - 1 - kept[-1])]
            new = graph.call_function(F.pad, (new, [0, 0] * edit.after + ends), {"value": edit.fill})
        return new
    index = edit.index
    name = next(name for i in count() if not hasattr(traced, name := f"_channels_{i}"))
    if kept.size < index.size:
        # One channel for each that is filled, so that they stay different units.
        filled = index.size - kept.size
        source = graph.call_function(F.pad, (source, [0, 0] * edit.after + [filled, 0]), {"value": edit.fill})
        index = index + filled
        index[edit.index < 0] = np.arange(filled)
    traced.register_buffer(name, torch.from_numpy(index), persistent=False)
    return graph.call_function(torch.index_select, (source, dim, graph.get_attr(name)))


def groups_place(node: fx.Node) -> int | None:
    """Where a call of a functional convolution has its groups among its positional arguments; None for other nodes."""
    name = getattr(node.target, "__name__", "")
    if node.op != "call_function" or not name.startswith("conv") or not name.endswith("d"):
        return None
    return 6  # of conv1d to conv3d, and of their transposes


def regroup(node: fx.Node, groups: int) -> None:
    """Set the groups of a call of a functional convolution."""
    place = groups_place(node)
    if place is not None and len(node.args) > place:
        node.args = (*node.args[:place], groups, *node.args[place + 1 :])
    else:
        node.kwargs = {**node.kwargs, "groups": groups}


def _resized(traced: fx.GraphModule, node: fx.Node, edit: Resized) -> fx.Node:
    sizes = list(node.args[1]) if isinstance(node.args[1], (tuple, list)) else list(node.args[1:])
    sizes[edit.position] = edit.size
    return traced.graph.call_method("reshape", (node.args[0], *sizes))
