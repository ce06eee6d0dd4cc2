"""Sizes in code that a rewritten network will need, said before it runs.

The seed's traces tell the units of every tensor, so they tell the shape that each has at other widths. Where a view in
the new network's trace would give another one, its sizes become numbers, as a repair would make them. That takes no run
of the network; but nobody has looked whether each node brings the right channels, so the check must then find the
seed's operations one to one. Whatever is not plainly foreseen is left to the repair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from morphsearch.graph.edits import EXPANDS, Patched, PatchLog, Removed, apply_edits
from morphsearch.graph.following import new_shape
from morphsearch.graph.labels import Labels
from morphsearch.graph.patch import seen_in
from morphsearch.graph.paths import modules_of
from morphsearch.graph.resizing import RESIZES, resized
from morphsearch.graph.resolve import Resolution
from morphsearch.graph.running import InPlaceOf, NodeFacts
from morphsearch.graph.tape import Tape
from morphsearch.graph.tracing import moves, name_of, trace

_ASKING = frozenset("getattr size dim ndimension numel".split())
# Moves that leave out or repeat elements, and where their dimension stands among their arguments.
_TAKING = {"chunk": 2, "split": 2, "split_with_sizes": 2, "tensor_split": 2, "narrow": 1, "select": 1, "unbind": 1}
_PLACING = frozenset("pad roll flip index_select".split())


class _Unforeseen(Exception):
    """A node gives something that only a run could tell."""


class _Unknown:
    """The value of a node that nothing is known of."""


def edit_foreseen(
    seed: nn.Module,
    twin: nn.Module,
    paths: Sequence[str],
    example_inputs: Any,
    tape: Tape,
    resolution: Resolution,
    multiplicity: np.ndarray,
) -> list[str] | None:
    """Give the modules of `twin` at `paths` the sizes that their code will need; which were edited. None, and nothing
    is edited, where that cannot be said of all."""
    seen = seen_in(seed, list(paths), example_inputs, tape)
    if len(seen) < len(paths):
        return None
    modules = modules_of(twin)
    shapes = _Shapes(tape, resolution, multiplicity)
    found: dict[str, tuple[fx.Graph, PatchLog]] = {}
    for path in paths:
        graph = trace(modules[path], dict(seen[path].fixed), seen[path].lengths, tape.graphs)
        if graph is None:
            return None
        try:
            log = _Foresight(modules[path], graph, seen[path].facts, shapes).look()
        except Exception:  # whatever stands in its code: a run says more
            return None
        if log.edits:
            found[path] = graph, log
    known: Patched = {}
    for path, (graph, log) in found.items():
        apply_edits(modules[path], graph, log, known)
    return list(found)


class _Shapes:
    """The shapes that tensors of the seed have in a new network; None where their units do not fill one."""

    def __init__(self, tape: Tape, resolution: Resolution, multiplicity: np.ndarray) -> None:
        self.tape, self.resolution, self.multiplicity = tape, resolution, multiplicity
        self.known: dict[int, tuple[Labels, tuple[int, ...] | None]] = {}

    def of(self, labels: Labels) -> tuple[int, ...] | None:
        """Of a tensor with these labels."""
        if id(labels) not in self.known:  # with the labels, so that no others come to have their identity
            shape = new_shape(labels, self.tape, self.resolution, self.multiplicity)
            self.known[id(labels)] = labels, shape
        return self.known[id(labels)][1]


class _Foresight(InPlaceOf):
    """Goes through the new network's trace with tensors of the shapes that the seed's units tell."""

    def __init__(self, original: nn.Module, graph: fx.Graph, seed: dict[str, NodeFacts], shapes: _Shapes) -> None:
        super().__init__(original, graph)
        self.seed, self.shapes = seed, shapes
        self.log = PatchLog()

    def look(self) -> PatchLog:
        """The sizes that go wrong, and others for them.

        Raises:
            _Unforeseen: something else goes wrong, or cannot be told.
        """
        with torch.no_grad():
            for node in self.graph.nodes:
                if node.op != "output":
                    self.env[node] = self.run_node(node)
        self.env = {}
        return self.log

    def run_node(self, n: fx.Node) -> Any:
        facts = self.seed[n.name]
        if n.op == "get_attr":
            value = self.fetch_attr(str(n.target))
            return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value
        if n.op not in ("call_function", "call_method"):
            return self._told(facts)
        given = [self.env[one] for one in n.all_input_nodes]
        if any(isinstance(one, _Unknown) for one in given):
            return self._told(facts)
        name = name_of(n)
        if moves(n) or name in EXPANDS:
            source = self.env.get(n.args[0]) if n.args and isinstance(n.args[0], fx.Node) else None
            return self._moved(n, facts) if isinstance(source, Tensor) else super().run_node(n)
        if facts.labels is None and (name in _ASKING or not any(map(_holds_tensors, given))):
            try:
                return super().run_node(n)
            except AssertionError:
                if n.users:
                    raise
                self.log.edits.append(Removed(n.name))
                return None
        return self._told(facts)

    def _told(self, facts: NodeFacts) -> Any:
        """What the seed's node says of that of the new network."""
        if facts.labels is not None:
            shape = self.shapes.of(facts.labels)
            return _Unknown() if shape is None else torch.empty(shape, device="meta")
        return _Unknown() if facts.several or facts.value is None or isinstance(facts.value, Tensor) else facts.value

    def _moved(self, n: fx.Node, facts: NodeFacts) -> Any:
        """What a move of elements gives, with other sizes where it needs them."""
        name = name_of(n)
        if not self._takes_alike(n):
            raise _Unforeseen(n.name)
        try:
            result = super().run_node(n)
        except RuntimeError:
            result = None
        if facts.labels is None:
            if result is None:
                raise _Unforeseen(n.name)
            return result
        wanted = self.shapes.of(facts.labels)
        if isinstance(result, Tensor) and tuple(result.shape) == wanted:
            return result
        found = None
        if name in RESIZES and wanted is not None:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            found = resized(n, args, kwargs, result, wanted)
        if found is not None:
            self.log.edits += found[1]
            return found[0]
        if name in EXPANDS and result is not None:
            return result
        raise _Unforeseen(n.name)

    def _takes_alike(self, n: fx.Node) -> bool:
        """A move that leaves out elements, or puts them into other places, does that along dimensions whose sizes are
        the seed's."""
        name = name_of(n)
        assert isinstance(n.args[0], fx.Node)
        before, after = self.seed[n.args[0].name].labels, self.env[n.args[0]].shape
        if name in _PLACING:
            return before is None or tuple(before.shape) == tuple(after)
        if name in _TAKING:
            place = _TAKING[name]
            dim = n.args[place] if len(n.args) > place else n.kwargs.get("dim", n.kwargs.get("axis", 0))
            dims = [dim] if isinstance(dim, int) else list(range(len(after)))
        elif name == "getitem":
            dims = _indexed(n.args[1], len(after))
        else:
            return True
        return before is None or all(before.shape[dim] == after[dim] for dim in dims)


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_holds_tensors, value))
    return isinstance(value, Tensor)


def _indexed(index: Any, rank: int) -> list[int]:
    """The dimensions of a tensor with so many from which ``tensor[index]`` may leave something out; all, where an index
    is a tensor or the like."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if not all(one is None or one is Ellipsis or isinstance(one, (int, slice)) for one in parts):
        return list(range(rank))
    taken = [one for one in parts if one is not None]
    if Ellipsis in taken:
        place = taken.index(Ellipsis)
        taken[place : place + 1] = [slice(None)] * (rank - len(taken) + 1)
    return [dim for dim, one in enumerate(taken) if one != slice(None)]


__all__ = ["edit_foreseen"]
