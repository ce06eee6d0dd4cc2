"""Code with sizes written into it: trace the one module that holds it, and replace what went wrong.

Most forward code follows its tensors and needs nothing. Where it cannot (``chunk`` when one half loses more than the other,
a channel shuffle of uneven halves, ``view(b, 512)``), the smallest module that runs it is traced with ``torch.fx``, its
children left whole. The trace is then run inside a recording of the seed and inside one of the new network; a node that
moves channels and does not bring what it should is replaced by a selection of the right channels from its source.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from morphsearch.errors import GraphError
from morphsearch.graph.labels import LOOSE, Labels, along
from morphsearch.graph.record import run_tape
from morphsearch.graph.resolve import Resolution
from morphsearch.graph.rewrite import Plan, repeat_runs
from morphsearch.graph.rules.layers import axis_of
from morphsearch.graph.tape import Tape

# Nodes that only move elements; `getitem` also takes tuples apart.
MOVES = frozenset(
    "view reshape permute transpose chunk split getitem contiguous flatten unflatten narrow select unbind squeeze unsqueeze"
    " index_select pad flip roll swapaxes movedim tensor_split split_with_sizes clone t".split()
)


class _Proxy(fx.Proxy):
    def __len__(self) -> int:
        count = _parts(self.node)
        return super().__len__() if count is None else count


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """``list(x.chunk(2, 1))``: the number of parts stands in the code."""
        count = _parts(obj.node)
        return super().iter(obj) if count is None else (obj[i] for i in range(count))


def index_value(tensor: Tensor) -> Tensor | None:
    """The numbers of an integer tensor, where they are known."""
    if tensor.dtype not in (torch.int64, torch.int32):
        return None
    return getattr(tensor, "_morphsearch_value", None) if tensor.is_meta else tensor


def _parts(node: fx.Node) -> int | None:
    """Into how many parts a node takes its tensor apart, where the code says so."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("chunks", node.kwargs.get("split_size_or_sections"))
    if name == "chunk" and isinstance(given, int):
        return given
    if name in ("split", "split_with_sizes") and isinstance(given, (list, tuple)):
        return len(given)
    return None


@dataclass
class NodeFacts:
    """What a node of the seed's trace gave: labels of a tensor, whether it was several tensors, else the plain value."""

    labels: Labels | None
    several: bool
    value: Any


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
class PatchLog:
    """The edits of one module's trace."""

    edits: list[Selection | Resized] = field(default_factory=list)


def trace(module: nn.Module) -> fx.Graph | None:
    """The trace of a module with its children left whole; None where it cannot be traced or depends on the mode."""
    graphs = []
    mode = module.training
    try:
        for training in (False, True):
            module.training = training
            graphs.append(_Tracer().trace(module))
    except Exception:
        return None
    finally:
        module.training = mode
    return graphs[0] if str(graphs[0]) == str(graphs[1]) else None


class _InPlaceOf(fx.Interpreter):
    """Runs a module's trace on the parameters and children that the module itself holds at this moment."""

    def __init__(self, original: nn.Module, graph: fx.Graph) -> None:
        super().__init__(Patched(original, graph), garbage_collect_values=False)
        self.original = original

    def fetch_attr(self, target: str) -> Any:
        value: Any = self.original
        for name in target.split("."):
            value = getattr(value, name)
        return value


class _Watch(_InPlaceOf):
    """Runs the seed's trace and keeps the facts of every node."""

    def __init__(self, original: nn.Module, graph: fx.Graph, tapes: list[Tape]) -> None:
        super().__init__(original, graph)
        self.tapes = tapes
        self.facts: dict[str, NodeFacts] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        labels = self.tapes[-1].labels(result) if isinstance(result, Tensor) else None
        several = isinstance(result, (tuple, list)) and any(isinstance(part, Tensor) for part in result)
        # Of tensors only an index keeps its numbers: what was patched before may need it again.
        value = index_value(result) if isinstance(result, Tensor) else result
        self.facts[n.name] = NodeFacts(labels, several, None if several else value)
        return result


class _Lost:
    """The value of a node that cannot run at the new widths; only nodes that move channels may read it."""


class _Repair(_InPlaceOf):
    """Runs the new network's trace; replaces nodes that do not bring what the seed's bring."""

    def __init__(
        self,
        original: nn.Module,
        graph: fx.Graph,
        tapes: list[Tape],
        seed: _Watch,
        seed_tape: Tape,
        resolution: Resolution,
        plan: Plan,
        multiplicity: np.ndarray,
    ) -> None:
        super().__init__(original, graph)
        self.tapes, self.seed, self.seed_tape = tapes, seed, seed_tape
        self.resolution, self.plan, self.multiplicity = resolution, plan, multiplicity
        self.most = max(1, int(multiplicity.max(initial=1)))
        self.log = PatchLog()

    def run_node(self, n: fx.Node) -> Any:
        lost = any(isinstance(self.env.get(parent), _Lost) for parent in n.all_input_nodes)
        failure: Exception | None = None
        result: Any = _Lost()
        if not lost:
            try:
                result = super().run_node(n)
            except Exception as error:
                failure = error
        if not _moves(n):
            if failure is not None:
                raise failure
            return result
        wanted = self._wanted(n)
        if wanted is not None and isinstance(result, Tensor) and self._brings(result, *wanted):
            return result
        repaired = self._select(n, *wanted) if wanted is not None else None
        if repaired is None and not lost:
            repaired = self._resize(n, result)
        return repaired if repaired is not None else result

    def _wanted(self, n: fx.Node) -> tuple[int, np.ndarray] | None:
        """For a node whose units lie along one dimension: that dimension and the identifiers that it should bring."""
        facts = self.seed.facts.get(n.name)
        if facts is None or facts.labels is None or facts.labels.parameter is not None:
            return None
        moving = facts.labels.varying()
        if len(moving) != 1:
            return None
        ids = np.asarray(facts.labels.vector(moving[0]))
        return moving[0], ids

    def _new_ids(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Seed identifiers to (position in the seed, copy, identifier in the new network), in the new order."""
        known = np.maximum(ids, 0)
        units = np.where(ids > 0, self.resolution.unit_of[known], -1)
        classes = np.where(ids > 0, self.resolution.class_of[known], ids)
        times = np.where(units < 0, 1, self.multiplicity[units])
        index, copied = repeat_runs(classes, times)
        fresh = np.where(ids[index] > 0, classes[index] * self.most + copied + 1, ids[index])
        return index, copied, fresh

    def _brings(self, result: Tensor, dim: int, ids: np.ndarray) -> bool:
        labels = self.tapes[-1].labels(result)
        if labels is None or any(d != dim for d in labels.varying()) or labels.shape[dim] == 0:
            return False
        return np.array_equal(np.asarray(labels.vector(dim)), self._new_ids(ids)[2])

    def _select(self, n: fx.Node, dim: int, ids: np.ndarray) -> Tensor | None:
        """Select the node's channels from the nearest ancestor whose channels lie along the same dimension."""
        chain: list[fx.Node] = [n]
        while True:
            parents = [a for a in chain[-1].all_input_nodes if self._carries(a)]
            if len(parents) != 1:
                return None
            source = parents[0]
            value = self.env.get(source)
            facts = self.seed.facts[source.name]
            if isinstance(value, Tensor) and facts.labels is not None and facts.labels.varying() == [dim]:
                positions = self._positions(source, chain, dim)
                if positions is not None:
                    return self._choose(n, source, value, dim, np.asarray(facts.labels.vector(dim)), positions, ids)
            if not _moves(source):
                return None
            chain.append(source)

    def _carries(self, node: fx.Node) -> bool:
        """The node is a tensor with units, or a tuple of such."""
        facts = self.seed.facts.get(node.name)
        return facts is not None and (facts.labels is not None or facts.several)

    def _positions(self, source: fx.Node, chain: list[fx.Node], dim: int) -> np.ndarray | None:
        """Which channels of `source` come out of the chain of moves, where every other dimension stays as it was."""
        labels = self.seed.facts[source.name].labels
        assert labels is not None
        shape = labels.shape
        value: Any = (
            torch.arange(shape[dim]).reshape([shape[d] if d == dim else 1 for d in range(len(shape))]).expand(shape)
        )
        parent = source
        parent = source
        for node in reversed(chain):
            # The one parent that carries channels gets the positions, sizes get the numbers that the seed had.
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), partial(self._seed_argument, parent, value))
            try:
                value = _apply_move(node, args, kwargs)
            except (RuntimeError, IndexError, TypeError):
                return None
            parent = node
        if not isinstance(value, Tensor) or value.dim() != len(shape):
            return None
        if any(size != shape[d] for d, size in enumerate(value.shape) if d != dim):
            return None
        first = value[tuple(slice(None) if d == dim else 0 for d in range(value.dim()))]
        return np.asarray(first)

    def _seed_argument(self, parent: fx.Node, value: Any, node: fx.Node) -> Any:
        return value if node is parent else self._seed_value(node)

    def _seed_value(self, node: fx.Node) -> Any:
        facts = self.seed.facts.get(node.name)
        return facts.value if facts is not None else None

    def _choose(
        self,
        n: fx.Node,
        source: fx.Node,
        value: Tensor,
        dim: int,
        source_ids: np.ndarray,
        positions: np.ndarray,
        ids: np.ndarray,
    ) -> Tensor | None:
        index, copied, expected = self._new_ids(source_ids)
        labels = self.tapes[-1].labels(value)
        if labels is None or labels.shape[dim] != expected.size:
            return None
        arriving = np.asarray(labels.vector(dim))
        if not np.array_equal(np.sort(arriving), np.sort(expected)):
            return None
        # Where each (seed position, copy) is now: equal identifiers keep their order.
        place = np.empty(arriving.size, np.int64)
        place[np.argsort(expected, kind="stable")] = np.argsort(arriving, kind="stable")
        here = {(int(i), int(c)): int(p) for i, c, p in zip(index, copied, place, strict=True)}
        out_index, out_copy, _ = self._new_ids(ids)
        chosen = np.array(
            [here.get((int(positions[i]), int(c)), -1) for i, c in zip(out_index, out_copy, strict=True)], np.int64
        )
        if (positions[out_index] >= 0)[chosen < 0].any():
            return None
        edit = Selection(n.name, source.name, dim, chosen, _fill_value(n), value.dim() - 1 - dim)
        self.log.edits.append(edit)
        tape = self.tapes[-1]
        tape.muted += 1
        try:
            index_tensor = torch.from_numpy(np.where(chosen < 0, arriving.size, chosen)).to(value.device)
            padded = _with_filler(value, dim, edit.fill) if (chosen < 0).any() else value
            result = padded.index_select(dim, index_tensor)
        finally:
            tape.muted -= 1
        brought = np.where(chosen < 0, LOOSE, arriving[chosen])
        tape.put(result, along(torch.from_numpy(brought), dim, tuple(result.shape)))
        return result

    def _resize(self, n: fx.Node, result: Any) -> Tensor | None:
        """A view to sizes written down: the size along the channels becomes the new one."""
        facts = self.seed.facts.get(n.name)
        if n.op != "call_method" or n.target not in ("view", "reshape") or facts is None or facts.labels is None:
            return None
        found = self._new_size(facts.labels)
        if found is None or (isinstance(result, Tensor) and result.shape[found[0]] == found[1]):
            return None
        dim, size = found
        args, _ = self.fetch_args_kwargs_from_env(n)
        source, sizes = (
            args[0],
            list(args[1]) if len(args) == 2 and isinstance(args[1], (tuple, list)) else list(args[1:]),
        )
        if not isinstance(source, Tensor) or dim >= len(sizes):
            return None
        sizes[dim] = size
        try:
            resized: Tensor = source.reshape(sizes)
        except RuntimeError:
            return None
        self.log.edits.append(Resized(n.name, dim, size))
        return resized

    def _new_size(self, labels: Labels) -> tuple[int, int] | None:
        """The one dimension of a seed's tensor along which units leave or multiply, and its size in the new network."""
        tape = self.seed_tape
        changed = []
        for dim in range(len(labels.shape)) if labels.parameter else labels.varying():
            if labels.parameter is not None:
                found = axis_of(tape, labels, dim)
                slot = tape.slots.get(found[:2]) if found is not None else None
                if found is None or slot is None:
                    continue
                ids = slot[found[2]].reshape(1, -1)
            else:
                ids = np.asarray(labels.ids.movedim(dim, -1).reshape(-1, labels.ids.shape[dim]))
            units = np.where(ids > 0, self.resolution.unit_of[np.maximum(ids, 0)], -1)
            times = np.where(units < 0, 1, self.multiplicity[units])
            if (times == times[:1]).all() and (times != 1).any():
                changed.append((dim, int(times[0].sum())))
        return changed[0] if len(changed) == 1 else None


def _apply_move(node: fx.Node, args: Any, kwargs: Any) -> Any:
    """Run a move on channel positions; padding is position -1."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name == "pad":
        return F.pad(args[0], kwargs["pad"] if "pad" in kwargs else args[1], value=-1)
    if node.op == "call_method":
        return getattr(args[0], "reshape" if name == "view" else name)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _fill_value(node: fx.Node) -> float:
    """The value that a padding puts in."""
    given = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
    return float(given) if isinstance(given, (int, float)) else 0.0


def _with_filler(value: Tensor, dim: int, fill: float) -> Tensor:
    """One more channel, of the value `fill`."""
    return F.pad(value, [0, 0] * (value.dim() - 1 - dim) + [0, 1], value=fill)


def _moves(node: fx.Node) -> bool:
    if node.op not in ("call_method", "call_function"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name in MOVES


@contextmanager
def _running(module: nn.Module, interpreter: fx.Interpreter) -> Iterator[None]:
    """Calls of `module` go through the interpreter."""
    names = [n.target for n in interpreter.module.graph.nodes if n.op == "placeholder"]

    def forward(*args: Any, **kwargs: Any) -> Any:
        rest = [kwargs[str(name)] for name in names[len(args) :] if str(name) in kwargs]
        return interpreter.run(*args, *rest)

    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward


def patch_modules(
    seed: nn.Module,
    twin: nn.Module,
    paths: list[str],
    example_inputs: Any,
    tape: Tape,
    resolution: Resolution,
    plan: Plan,
    multiplicity: np.ndarray,
) -> nn.Module:
    """Replace, in `twin`, the modules at `paths` by traces that bring the right channels. Returns the network."""
    watches: dict[str, _Watch] = {}
    tapes: list[Tape] = []
    seed_modules, twin_modules = dict(seed.named_modules()), dict(twin.named_modules())

    def blank_seed() -> Tape:
        tapes.append(Tape(seed, tape.identifiers, tape.next_id, tape.decisions))
        return tapes[-1]

    def blank_twin() -> Tape:
        tapes.append(Tape(twin, plan.ids, plan.first_free, tape.decisions))
        return tapes[-1]

    graphs = {path: graph for path in paths if (graph := trace(seed_modules[path])) is not None}
    with _all_running(
        {seed_modules[path]: _Watch(seed_modules[path], graph, tapes) for path, graph in graphs.items()}
    ) as running:
        run_tape(seed, example_inputs, blank=blank_seed, modes=(tape.on_meta,))
        watches = {path: running[seed_modules[path]] for path in graphs}
    repairs: dict[nn.Module, _Repair] = {}
    for path in graphs:
        graph = trace(twin_modules[path])
        if graph is None or not watches[path].facts:
            continue
        repairs[twin_modules[path]] = _Repair(twin_modules[path], graph, tapes, watches[path], tape, resolution, plan, multiplicity)
    with _all_running(repairs):
        try:
            run_tape(twin, example_inputs, blank=blank_twin, modes=(tape.on_meta,))
        except GraphError:
            return twin  # the check that follows says what is still wrong
    for path in graphs:
        repair = repairs.get(twin_modules[path])
        if repair is None or not repair.log.edits:
            continue
        patched = _apply(twin_modules[path], repair)
        if path == "":
            return patched
        parent, _, name = path.rpartition(".")
        setattr(twin.get_submodule(parent), name, patched)
    return twin


@contextmanager
def _all_running(interpreters: dict[nn.Module, Any]) -> Iterator[dict[nn.Module, Any]]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for module, interpreter in interpreters.items():
            stack.enter_context(_running(module, interpreter))
        yield interpreters


def _apply(module: nn.Module, repair: _Repair) -> fx.GraphModule:
    """The trace with its edits, as a module with the same children, parameters and mode."""
    traced = repair.module
    assert isinstance(traced, fx.GraphModule)
    nodes = {node.name: node for node in traced.graph.nodes}
    for edit in repair.log.edits:
        node = nodes[edit.node]
        with traced.graph.inserting_before(node):
            new = (
                _selected(traced, nodes, edit) if isinstance(edit, Selection) else _resized(traced, node, edit)
            )
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
        twin: Patched = super().__deepcopy__(memo)
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
        source = graph.call_function(F.pad, (source, [0, 0] * edit.after + [1, 0]), {"value": edit.fill})
        index = index + 1
    traced.register_buffer(name, torch.from_numpy(index), persistent=False)
    return graph.call_function(torch.index_select, (source, dim, graph.get_attr(name)))


def _resized(traced: fx.GraphModule, node: fx.Node, edit: Resized) -> fx.Node:
    sizes = list(node.args[1]) if isinstance(node.args[1], (tuple, list)) else list(node.args[1:])
    sizes[edit.position] = edit.size
    return traced.graph.call_method("reshape", (node.args[0], *sizes))
