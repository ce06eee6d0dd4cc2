"""A rewritten network in the place of the one it was made from, so that whoever holds that goes on with this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from morphsearch.graph.state import Stale, change_places

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

STORES = ("_parameters", "_buffers", "_non_persistent_buffers_set")


def swap(model: nn.Module, other: nn.Module, stale: Stale | None = None) -> None:
    """Exchange what `model` and `other`, a rewrite of it, hold: parameters, buffers, sizes, and attributes that are
    `stale` at other widths.

    Every module object keeps its place, its hooks and its mode, so that references to the network and to its parts
    stay right, in the user's code, in wrappers and in averages. Only where a module is of another kind in `other` (its
    forward code was replaced) do the module objects themselves change places; the root keeps its identity even then.
    """
    if type(model) is not type(other) or model._modules.keys() != other._modules.keys():
        for name in ("__dict__", "__class__"):  # past the __setattr__ of modules, which files what it is given
            one, two = getattr(model, name), getattr(other, name)
            object.__setattr__(model, name, two)
            object.__setattr__(other, name, one)
        return
    _swap(model, other, set(), stale or {}, "")


def exchange(ours: ConvGraph, theirs: ConvGraph) -> None:
    """:func:`swap` the networks of two graphs, which go on with what they were recorded from.

    What modules held when a graph was recorded goes with it too: sizes change places, and would else seem to have
    moved since.
    """
    graphs = ours, theirs
    moved = [{} if graph.tape.state is None else graph.tape.state.moved() for graph in graphs]
    swap(ours.model, theirs.model, ours.tape.stale | theirs.tape.stale)
    ours.model, theirs.model = theirs.model, ours.model
    for graph, was in zip(graphs, moved, strict=True):
        if graph.tape.state is not None:
            graph.tape.state = graph.tape.state.of(graph.model.named_modules(), was)


def _swap(ours: nn.Module, theirs: nn.Module, done: set[int], stale: Stale, path: str) -> None:
    if id(ours) in done:
        return
    done.add(id(ours))
    kept = stale.get(path, frozenset())
    for key in [key for key in ours.__dict__ if key in theirs.__dict__ and key != "training" and key not in kept]:
        one, two = ours.__dict__[key], theirs.__dict__[key]
        if key in STORES or (_plain(one) and _plain(two)):
            ours.__dict__[key], theirs.__dict__[key] = two, one
    for key in kept:
        change_places(ours.__dict__, theirs.__dict__, key)
    for name, child in list(ours._modules.items()):
        twin = theirs._modules[name]
        if child is None or twin is None:
            continue
        if type(child) is type(twin) and child._modules.keys() == twin._modules.keys():
            _swap(child, twin, done, stale, f"{path}.{name}" if path else name)
        else:
            ours._modules[name], theirs._modules[name] = twin, child


def _plain(value: Any) -> bool:
    """Numbers, text, tensors and sequences of them: what a rewrite may have changed, and what refers to no module."""
    if isinstance(value, (list, tuple)):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, (int, float, str, Tensor))
