"""Edits of a trace, and the module that comes of them."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from morphsearch.graph.creating import first_size, with_size
from morphsearch.graph.paths import PATCHED, class_written
from morphsearch.graph.slices import with_bounds
from morphsearch.graph.tracing import moves, name_of

EXPANDS = frozenset(("expand", "broadcast_to"))


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
    """Give argument `position` of the node's size list, which is `rank` long, the value `size`."""

    node: str
    position: int
    size: int
    rank: int


@dataclass
class Recounted:
    """Give the convolution `node` so many groups, a norm so many sets or another shape."""

    node: str
    value: Any


@dataclass
class Recreated:
    """Give dimension `dim` of the tensor that `node` makes, which has `rank` of them, the size `size`."""

    node: str
    dim: int
    size: int
    rank: int


@dataclass
class Rebounded:
    """Give the slice at `dim` of the index `node` the bounds `start` and `end`."""

    node: str
    dim: int
    start: int
    end: int


@dataclass
class Removed:
    """Take out `node`, an assertion about sizes that were replaced."""

    node: str


@dataclass
class PatchLog:
    """The edits of one module's trace."""

    edits: list[Selection | Resized | Recounted | Recreated | Rebounded | Removed] = field(default_factory=list)


_NUMBERS = frozenset(
    "getattr getitem add sub mul floordiv truediv mod neg pow eq ne lt le gt ge size dim numel".split()
)


def _may_matter(node: fx.Node) -> bool:
    """A node whose result nobody reads may still write into a tensor; what only moves elements or counts does not."""
    if node.op in ("call_function", "call_method"):
        return not moves(node) and name_of(node) not in _NUMBERS | EXPANDS
    return node.op != "get_attr"


class Trace(fx.GraphModule):
    """A trace that is to be edited: its code is written once, when it is asked for."""

    def recompile(self) -> Any:
        return super().recompile() if vars(self).get("edited") else None

    def code_of_it(self) -> Callable[..., Any]:
        """Its forward method, as it is now."""
        vars(self)["edited"] = True
        self.recompile()
        return type(self).forward


Patched = dict[Any, type]  # the classes of modules that were patched alike


def apply_edits(module: nn.Module, graph: fx.Graph, log: PatchLog, known: Patched) -> None:
    """Give `module` the code of its trace with the edits; it stays an instance of its class, with all that it holds.

    Modules that share a trace and have the same edits share the class of the first, among those `known`.
    """
    key = (id(graph), class_written(module), *map(repr, log.edits))
    # One that holds which channels it selects, or has code of its own, is not like others.
    alone = any(isinstance(edit, Selection) for edit in log.edits) or "forward" in vars(module) or _selections(module)
    if key in known and not alone:
        module.__class__ = known[key]
        return
    traced = Trace(module, copy.deepcopy(graph))
    _edit(module, traced, log)
    give_code(module, traced)
    if not alone:
        known[key] = type(module)


def _edit(module: nn.Module, traced: fx.GraphModule, log: PatchLog) -> None:
    nodes = {node.name: node for node in traced.graph.nodes}
    # What the code computes and does not read (the last state of a loop) is computed on: it is found in the record.
    unread = {node for node in traced.graph.nodes if not node.users and name_of(node) in _NUMBERS - {"getitem"}}
    for edit in log.edits:
        node = nodes[edit.node]
        if isinstance(edit, Removed):
            traced.graph.erase_node(node)
            continue
        if isinstance(edit, Recounted):
            place = count_place(node)
            assert place is not None
            node.args, node.kwargs = with_count(node.args, node.kwargs, place, edit.value)
            continue
        if isinstance(edit, Rebounded):
            index = node.args[1]
            assert isinstance(index, tuple)
            node.args = (node.args[0], with_bounds(index, edit.dim, edit.start, edit.end))
            continue
        if isinstance(edit, Recreated):
            node.args = _remade(node, edit)
            continue
        with traced.graph.inserting_before(node):
            new = _selected(module, traced, nodes, edit) if isinstance(edit, Selection) else _resized(node, edit)
        node.replace_all_uses_with(new)
        nodes[edit.node] = new
    traced.graph.eliminate_dead_code(lambda node: node in unread or _may_matter(node))


def give_code(module: nn.Module, traced: Trace) -> None:
    """Give `module` the code of `traced`, a trace of it."""
    _take_arguments(traced.graph, inspect.signature(module.forward))
    code = traced.code_of_it()
    read = {str(node.target) for node in traced.graph.nodes if node.op == "get_attr"}
    for name in _selections(module):
        if name not in read:
            delattr(module, name)  # the selection of an earlier rewrite
    vars(module).pop("forward", None)  # one of several, chosen when the module was made
    base = class_written(module)
    members = {"forward": code, PATCHED: base, "__module__": base.__module__, "__doc__": base.__doc__}
    module.__class__ = type(base.__name__, (base,), members)


def _selections(module: nn.Module) -> list[str]:
    """The buffers of a module that hold which channels its code selects."""
    return [name for name in module._buffers if name.startswith(SELECTED)]


def _take_arguments(graph: fx.Graph, signature: inspect.Signature) -> None:
    """Give the trace the arguments of the code that it stands for: fx renames those whose values it was told."""
    places = [node for node in graph.nodes if node.op == "placeholder"]
    optional = False
    for node, parameter in zip(places, signature.parameters.values(), strict=True):
        node.target = parameter.name
        optional |= parameter.default is not parameter.empty
        if optional:
            node.args = (None if parameter.default is parameter.empty else parameter.default,)


SELECTED = "_channels_"  # buffers that hold which channels a patched module selects


def _selected(module: nn.Module, traced: fx.GraphModule, nodes: dict[str, fx.Node], edit: Selection) -> fx.Node:
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
    name = next(name for i in count() if not hasattr(module, name := f"{SELECTED}{i}"))
    if kept.size < index.size:
        # One channel for each that is filled, so that they stay different units.
        filled = index.size - kept.size
        source = graph.call_function(F.pad, (source, [0, 0] * edit.after + [filled, 0]), {"value": edit.fill})
        index = index + filled
        index[edit.index < 0] = np.arange(filled)
    for holder in (module, traced):
        holder.register_buffer(name, torch.from_numpy(index), persistent=False)
    return graph.call_function(torch.index_select, (source, dim, graph.get_attr(name)))


MULTIHEAD, ASKED = "multi_head_attention_forward", "embed_dim_to_check"


def count_place(node: fx.Node) -> tuple[int, str] | None:
    """Where a call of a functional convolution or norm has its groups, sets or shape among its positional arguments,
    and what they are called; None for other nodes."""
    name = getattr(node.target, "__name__", "")
    if node.op != "call_function":
        return None
    if name.startswith("conv") and name.endswith("d"):
        return 6, "groups"  # of conv1d to conv3d, and of their transposes
    return {"group_norm": (1, "num_groups"), "layer_norm": (1, "normalized_shape"), MULTIHEAD: (3, ASKED)}.get(name)


def with_count(args: tuple[Any, ...], kwargs: dict[str, Any], place: tuple[int, str], value: Any) -> tuple[Any, Any]:
    """Arguments of a call with another value at a place of :func:`count_place`."""
    position, name = place
    if len(args) > position:
        return (*args[:position], value, *args[position + 1 :]), kwargs
    return args, {**kwargs, name: value}


def _remade(node: fx.Node, edit: Recreated) -> tuple[Any, ...]:
    """The arguments of a call that makes a tensor, with another size."""
    first = first_size(name_of(node))
    whole = node.args[first]
    if isinstance(whole, fx.Node) and len(node.args) == first + 1 < first + edit.rank:  # ``torch.zeros(x.shape)``
        with node.graph.inserting_before(node):
            sizes = [node.graph.call_function(operator.getitem, (whole, place)) for place in range(edit.rank)]
        return with_size(name_of(node), (*node.args[:first], tuple(sizes)), edit.dim, edit.size)
    return with_size(name_of(node), node.args, edit.dim, edit.size)


def _resized(node: fx.Node, edit: Resized) -> fx.Node:
    if name_of(node) == "unflatten":
        source, dim, given = node.args
        sizes = [edit.size if place == edit.position else size for place, size in enumerate(given)]  # type: ignore[arg-type]
        return node.graph.call_method("unflatten", (source, dim, tuple(sizes)))
    sizes = list(node.args[1]) if isinstance(node.args[1], (tuple, list)) else list(node.args[1:])
    if len(sizes) == 1 < edit.rank:  # of another tensor: ``y.view(x.shape)``
        sizes = [node.graph.call_function(operator.getitem, (sizes[0], place)) for place in range(edit.rank)]
    sizes[edit.position] = edit.size
    method = "expand" if name_of(node) in EXPANDS else "reshape"
    return node.graph.call_method(method, (node.args[0], *sizes))
