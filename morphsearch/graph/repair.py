"""Running the trace of a module in the new network, and choosing the right channels where its code does not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list

from morphsearch.graph.edits import PatchLog, Regrouped, Removed, Resized, Selection, groups_place
from morphsearch.graph.labels import LOOSE, Labels, along, compact
from morphsearch.graph.resolve import Resolution
from morphsearch.graph.rewrite import Plan, repeat_runs
from morphsearch.graph.rules.binding import axis_of
from morphsearch.graph.tape import Tape, unseen
from morphsearch.graph.tracing import index_value, moves


@dataclass
class NodeFacts:
    """What a node of the seed's trace gave: labels of a tensor, whether it was several tensors, else the plain
    value."""

    labels: Labels | None
    several: bool
    value: Any


class _InPlaceOf(fx.Interpreter):
    """Runs a module's trace on the parameters and children that the module itself holds at this moment."""

    def __init__(self, original: nn.Module, graph: fx.Graph) -> None:
        super().__init__(fx.GraphModule(original, graph), garbage_collect_values=False)
        self.original = original
        self.module: fx.GraphModule

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return tuple(_own(one) for one in args), {name: _own(one) for name, one in kwargs.items()}

    def fetch_attr(self, target: str) -> Any:
        value: Any = self.original
        for name in target.split("."):
            value = getattr(value, name)
        return value


def _own(value: Any) -> Any:
    """Lists and dicts that stand in a node's arguments, as its code makes them, since the callee may write into them.
    Those that another node gave stay the same object."""
    if isinstance(value, immutable_list):
        return [_own(one) for one in value]
    if isinstance(value, immutable_dict):
        return {key: _own(one) for key, one in value.items()}
    return tuple(_own(one) for one in value) if type(value) is tuple else value


class Watch(_InPlaceOf):
    """Runs the seed's trace and keeps the facts of every node."""

    def __init__(self, original: nn.Module, graph: fx.Graph, tapes: list[Tape]) -> None:
        super().__init__(original, graph)
        self.tapes = tapes
        self.facts: dict[str, NodeFacts] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        tape = self.tapes[-1]
        with unseen():
            labels = tape.pair(result) or tape.labels(result) if isinstance(result, Tensor) else None
        if labels is not None and labels.parameter is not None and _name(n) not in ("view", "reshape"):
            labels = None  # as large as the parameter, and only new sizes of it are asked for
        several = isinstance(result, (tuple, list)) and any(isinstance(part, Tensor) for part in result)
        # Of tensors only an index keeps its numbers: what was patched before may need it again.
        value = index_value(result) if isinstance(result, Tensor) else result
        self.facts[n.name] = NodeFacts(labels, several, None if several else value)
        return result


class _Lost:
    """The value of a node that cannot run at the new widths; only nodes that move channels may read it."""


class Repair(_InPlaceOf):
    """Runs the new network's trace; replaces nodes that do not bring what the seed's bring."""

    def __init__(
        self,
        original: nn.Module,
        graph: fx.Graph,
        tapes: list[Tape],
        seed: dict[str, NodeFacts],
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
        self.labels: dict[str, Labels | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        lost = any(isinstance(self.env.get(parent), _Lost) for parent in n.all_input_nodes)
        failure: Exception | None = None
        result: Any = _Lost()
        if not lost:
            try:
                result = super().run_node(n)
            except Exception as error:
                failure = error
        if not moves(n):
            if failure is not None and (place := groups_place(n)) is not None:
                return self._regroup(n, place)
            if isinstance(failure, AssertionError) and not n.users:
                self.log.edits.append(Removed(n.name))
                return None
            if failure is not None:
                raise failure
            return result
        with unseen():
            wanted = self._wanted(n)
            wrong = [one for one in wanted if not isinstance(result, Tensor) or not self._brings(result, *one)]
            if wanted and not wrong:
                return result
            repaired = next((found for one in wrong if (found := self._select(n, *one)) is not None), None)
        if repaired is None and not lost:
            repaired = self._resize(n, result)
        return repaired if repaired is not None else result

    def _regroup(self, n: fx.Node, place: int) -> Any:
        """A convolution whose number of groups is written down: whole groups left, so it is another number now."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        given = dict(zip(("input", "weight"), args, strict=False)) | kwargs
        weight, channels = given["weight"], given["input"].shape[1 - given["weight"].dim()]
        if "transpose" in n.target.__name__:  # type: ignore[union-attr]
            before = args[place] if len(args) > place else kwargs.get("groups", 1)
            source = n.args[0] if n.args else n.kwargs["input"]
            labels = self.seed[source.name].labels if isinstance(source, fx.Node) else None
            per_group = labels.shape[1 - weight.dim()] // before if labels is not None else channels
        else:
            per_group = weight.shape[1]
        groups = channels // per_group
        if len(args) > place:
            args = (*args[:place], groups, *args[place + 1 :])
        else:
            kwargs = {**kwargs, "groups": groups}
        result = n.target(*args, **kwargs)  # type: ignore[operator]
        self.log.edits.append(Regrouped(n.name, groups))
        return result

    def _wanted(self, n: fx.Node) -> list[tuple[int, np.ndarray]]:
        """For a node whose units lie along one dimension: that dimension and the identifiers that it should bring; for
        an outer product those of either side."""
        labels = self._seed_labels(n)
        if labels is None:
            return []
        if labels.second is not None:
            dims = [dim for side in (labels.ids, labels.second) for dim in _varying(side)]
            lines = [(dim, _line(labels, dim)) for dim in dims]
            return [(dim, line) for dim, line in lines if line is not None and len(dims) == 2]
        moving = labels.varying()
        if not moving and int(labels.ids.reshape(-1)[0]) > 0:
            # A single unit is left: it lies along the dimension along which its neighbours lie in the source.
            parents = [a for a in n.all_input_nodes if self._carries(a)]
            while len(parents) == 1 and self.seed[parents[0].name].several:  # the parts of a split
                parents = [a for a in parents[0].all_input_nodes if self._carries(a)]
            sources = [self._seed_labels(a) for a in parents]
            along_sources = {tuple(one.varying()) for one in sources if one is not None}
            ranks = {len(one.shape) for one in sources if one is not None}
            if len(along_sources) == 1 and ranks == {len(labels.shape)}:
                moving = [d for d in next(iter(along_sources)) if labels.shape[d] == 1]
        if len(moving) != 1:
            return []
        return [(moving[0], np.asarray(labels.vector(moving[0])))]

    def _seed_labels(self, n: fx.Node) -> Labels | None:
        """What a node of the seed brings, with one identifier for each unit (heads in lockstep share theirs); None for
        parameters."""
        if n.name not in self.labels:
            facts = self.seed.get(n.name)
            found = facts.labels if facts is not None else None
            if found is not None and found.parameter is not None:
                found = None
            if found is not None:
                second = self._once(found.second, found.shape) if found.second is not None else None
                found = Labels(self._once(found.ids, found.shape), found.shape, -1, None, second)
            self.labels[n.name] = found
        return self.labels[n.name]

    def _once(self, labels: Tensor, shape: tuple[int, ...]) -> Tensor:
        return _by_class(labels, self.resolution, shape)

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
        labels = self._labels(result)
        line = _line(labels, dim) if labels is not None and labels.shape[dim] > 0 else None
        return line is not None and np.array_equal(line, self._new_ids(ids)[2])

    def _labels(self, value: Tensor) -> Labels | None:
        tape = self.tapes[-1]
        return tape.pair(value) or tape.labels(value)

    def _select(self, n: fx.Node, dim: int, ids: np.ndarray) -> Tensor | None:
        """Select the node's channels from the nearest ancestor whose channels lie along the same dimension."""
        chain: list[fx.Node] = [n]
        while True:
            parents = [a for a in chain[-1].all_input_nodes if self._carries(a)]
            if len(parents) != 1:
                return None
            source = parents[0]
            value = self.env.get(source)
            labels = self._seed_labels(source)
            line = _line(labels, dim) if labels is not None and len(labels.shape) > dim else None
            if isinstance(value, Tensor) and line is not None and (line != line[:1]).any():
                positions = self._positions(source, chain, dim)
                if positions is not None:
                    return self._choose(n, source, value, dim, line, positions, ids)
            if not moves(source):
                return None
            chain.append(source)

    def _carries(self, node: fx.Node) -> bool:
        """The node is a tensor with units, or a tuple of such."""
        facts = self.seed.get(node.name)
        return facts is not None and (facts.several or (facts.labels is not None and facts.labels.parameter is None))

    def _positions(self, source: fx.Node, chain: list[fx.Node], dim: int) -> np.ndarray | None:
        """Which channels of `source` come out of the chain of moves, where every other dimension stays as it was."""
        labels = self.seed[source.name].labels
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
        facts = self.seed.get(node.name)
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
        labels = self._labels(value)
        arriving = _line(labels, dim) if labels is not None else None
        if labels is None or arriving is None or arriving.size != expected.size:
            return None
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
        index_tensor = torch.from_numpy(np.where(chosen < 0, arriving.size, chosen)).to(value.device)
        padded = _with_filler(value, dim, edit.fill) if (chosen < 0).any() else value
        result = padded.index_select(dim, index_tensor)
        brought = np.where(chosen < 0, LOOSE, arriving[chosen])
        shape = tuple(result.shape)
        made = along(brought, dim, shape)
        if labels.second is not None:
            other = labels.ids if dim in _varying(labels.second) else labels.second
            made = Labels(made.ids, shape, -1, None, other)
        self.tapes[-1].put(result, made)
        return result

    def _resize(self, n: fx.Node, result: Any) -> Tensor | None:
        """A view to sizes that are written down, or taken from another tensor: those that went wrong become numbers."""
        facts = self.seed.get(n.name)
        if _name(n) not in ("view", "reshape") or facts is None or facts.labels is None:
            return None
        wanted = new_shape(facts.labels, self.seed_tape, self.resolution, self.multiplicity)
        if wanted is None or (isinstance(result, Tensor) and tuple(result.shape) == wanted):
            return None
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if kwargs or not args or not isinstance(args[0], Tensor):
            return None
        sizes = list(args[1]) if len(args) == 2 and isinstance(args[1], (tuple, list)) else list(args[1:])
        if len(sizes) != len(wanted) or not all(isinstance(size, int) for size in sizes):
            return None
        # What follows the batch and the image stays as it was written: on the example inputs it agrees already.
        wrong = [dim for dim, size in enumerate(sizes) if size not in (-1, wanted[dim])]
        for dim in wrong:
            sizes[dim] = wanted[dim]
        try:
            resized: Tensor = args[0].reshape(sizes)
        except RuntimeError:
            return None
        if tuple(resized.shape) != wanted:
            return None
        self.log.edits += [Resized(n.name, dim, wanted[dim]) for dim in wrong]
        return resized


def new_shape(labels: Labels, tape: Tape, resolution: Resolution, multiplicity: np.ndarray) -> tuple[int, ...] | None:
    """The shape that a tensor of the seed (recorded on `tape`) has in the new network; None where its units do not fill
    a shape."""
    shape = list(labels.shape)
    sides = [_by_class(side, resolution, labels.shape) for side in (labels.ids, labels.second) if side is not None]
    for dim in range(len(shape)):
        if labels.parameter is not None:
            found = axis_of(tape, labels, dim)
            slot = tape.slots.get(found[:2]) if found is not None else None
            if found is None or slot is None:
                continue
            ids = slot[found[2]].reshape(1, -1)
        else:
            side = next((side for side in sides if side.shape[dim] > 1), None)
            if side is None:
                continue
            ids = np.asarray(side.movedim(dim, -1).reshape(-1, side.shape[dim]))
        units = np.where(ids > 0, resolution.unit_of[np.maximum(ids, 0)], -1)
        times = np.where(units < 0, 1, multiplicity[units])
        if (times == times[:1]).all():
            shape[dim] = int(times[0].sum())
        elif (times.sum(1) == times[0].sum()).all() and labels.parameter is None and sum(s > 1 for s in ids.shape) > 1:
            return None
    return tuple(shape)


def _by_class(ids: Tensor, resolution: Resolution, shape: tuple[int, ...]) -> Tensor:
    """Labels with one identifier for each unit: heads in lockstep share theirs, and so do the places of an image that
    was a row of numbers before."""
    if len(_varying(ids)) < 2:
        return ids
    found = np.asarray(ids)
    one_of_class = np.zeros(int(resolution.class_of.max(initial=0)) + 1, np.int64)
    one_of_class[resolution.class_of] = np.arange(resolution.class_of.size)
    units = one_of_class[resolution.class_of[np.maximum(found, 0)]]
    return compact(torch.from_numpy(np.where(found > 0, units, found)), shape).ids


def _varying(ids: Tensor) -> list[int]:
    return [d for d, size in enumerate(ids.shape) if size > 1]


def _line(labels: Labels, dim: int) -> np.ndarray | None:
    """The units along `dim`, of an outer product those of the side that lies there; None where they lie elsewhere."""
    sides = (labels.ids,) if labels.second is None else (labels.ids, labels.second)
    found = [side for side in sides if not set(_varying(side)) - {dim}]
    if not found:
        return None
    side = max(found, key=lambda one: one.shape[dim])
    return np.asarray(side.movedim(dim, 0).reshape(-1).expand(labels.shape[dim]))


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _apply_move(node: fx.Node, args: Any, kwargs: Any) -> Any:
    """Run a move on channel positions; padding is position -1."""
    name = _name(node)
    if name == "pad":
        return F.pad(args[0], kwargs["pad"] if "pad" in kwargs else args[1], value=-1)
    if node.op == "call_method":
        return getattr(args[0], "reshape" if name == "view" else name)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _fill_value(node: fx.Node) -> float:
    """The value that a padding puts in."""
    if _name(node) != "pad":
        return 0.0
    given = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
    return float(given) if isinstance(given, (int, float)) else 0.0


def _with_filler(value: Tensor, dim: int, fill: float) -> Tensor:
    """One more channel, of the value `fill`."""
    return F.pad(value, [0, 0] * (value.dim() - 1 - dim) + [0, 1], value=fill)
