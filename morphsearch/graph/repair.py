"""Running the trace of a module in the new network, and choosing the right channels where its code does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from morphsearch.graph.creating import channels_made, sizes_of, with_size
from morphsearch.graph.edits import (
    ASKED,
    EXPANDS,
    PatchLog,
    Rebounded,
    Recounted,
    Recreated,
    Removed,
    Selection,
    count_place,
    with_count,
)
from morphsearch.graph.following import by_class, line_of, new_shape, positions, varying
from morphsearch.graph.labels import LOOSE, Labels, along
from morphsearch.graph.plan import Plan, repeat_runs
from morphsearch.graph.resizing import RESIZES, resized
from morphsearch.graph.resolve import Resolution
from morphsearch.graph.rules.moving import CREATING
from morphsearch.graph.running import InPlaceOf, NodeFacts
from morphsearch.graph.slices import sliced, with_bounds
from morphsearch.graph.tape import Tape, unseen
from morphsearch.graph.tracing import moves, name_of
from morphsearch.graph.unionfind import distinct_values


@dataclass
class _Origin:
    """Where a node has its channels from: a node of the trace, those from there to it (the last first), its value in
    the new network, its identifiers in the seed, and which of its channels the seed's node takes."""

    source: fx.Node
    chain: list[fx.Node]
    value: Tensor
    line: np.ndarray
    positions: np.ndarray


class _Lost:
    """The value of a node that cannot run at the new widths; only nodes that move channels may read it."""


class Repair(InPlaceOf):
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
                failure = error.with_traceback(None)  # which would keep the frames that it came through
        if not moves(n):
            place = count_place(n)
            if place is not None and not lost and (found := self._recount(n, place, failure)) is not None:
                return found
            if name_of(n) in EXPANDS and not lost and (found := self._resize(n, result)) is not None:
                return found
            if isinstance(failure, AssertionError) and not n.users:
                self.log.edits.append(Removed(n.name))
                return None
            if failure is not None:
                raise failure
            return self._recreate(n, result) if name_of(n) in CREATING else result
        with unseen():
            wanted = self._wanted(n)
            wrong = [one for one in wanted if not isinstance(result, Tensor) or not self._brings(n, result, *one)]
            if wanted and not wrong:
                return result
            whole = bool(wrong) and not lost and all(self._keeps_all(n, *one) for one in wrong)
        if whole and (found := self._resized_whole(n, result, wanted)) is not None:
            return found
        with unseen():
            repaired = next((found for one in wrong if (found := self._select(n, *one)) is not None), None)
        if repaired is None and not lost:
            repaired = self._resize(n, result)
        if repaired is None and not lost and wrong:
            repaired = self._rebound(n, *wrong[0])
        return repaired if repaired is not None else result

    def _recount(self, n: fx.Node, place: tuple[int, str], failure: Exception | None) -> Any:
        """A convolution whose number of groups is written down, a norm whose sets or shape is, attention in one call
        whose width is: units left, so it is another number now."""
        if place[1] == "groups" and failure is None:
            return None
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        x = args[0] if args else kwargs["query" if place[1] == ASKED else "input"]
        before = args[place[0]] if len(args) > place[0] else kwargs.get(place[1], 1)
        if place[1] == ASKED:
            value = x.shape[-1]
        elif place[1] == "groups":
            value = self._groups(n, x, before, args, kwargs)
        else:
            value = self._normalized(n, x, before)
        if value is None or value == (before if isinstance(before, int) else tuple(before)):
            return None
        args, kwargs = with_count(args, kwargs, place, value)
        result = n.target(*args, **kwargs)  # type: ignore[operator]
        self.log.edits.append(Recounted(n.name, value))
        return result

    def _groups(self, n: fx.Node, x: Tensor, before: int, args: Any, kwargs: Any) -> int:
        """Of a convolution."""
        weight: Tensor = args[1] if len(args) > 1 else kwargs["weight"]
        channels = x.shape[1 - weight.dim()]
        if "transpose" not in n.target.__name__:  # type: ignore[union-attr]
            return int(channels // weight.shape[1])
        labels = self._input_labels(n)
        return int(channels // (labels.shape[1 - weight.dim()] // before if labels is not None else channels))

    def _normalized(self, n: fx.Node, x: Tensor, before: Any) -> Any:
        """The shape that a layer norm is over, or the sets of a group norm."""
        if not isinstance(before, int):
            return tuple(x.shape[x.dim() - len(before) :])
        labels = self._input_labels(n)
        return x.shape[1] * before // labels.shape[1] if labels is not None and before > 1 else None

    def _input_labels(self, n: fx.Node) -> Labels | None:
        """Those that the first argument has in the seed."""
        source = n.args[0] if n.args else n.kwargs["input"]
        return self.seed[source.name].labels if isinstance(source, fx.Node) else None

    def _wanted(self, n: fx.Node) -> list[tuple[int, np.ndarray]]:
        """For a node whose units lie along one dimension: that dimension and the identifiers that it should bring; for
        an outer product those of either side."""
        labels = self._seed_labels(n)
        if labels is None:
            return []
        if labels.second is not None:
            dims = [dim for side in (labels.ids, labels.second) for dim in varying(side)]
            lines = [(dim, line_of(labels, dim)) for dim in dims]
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
        return by_class(labels, self.resolution, shape)

    def _new_ids(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Seed identifiers to (position in the seed, copy, identifier in the new network), in the new order."""
        known = np.maximum(ids, 0)
        units = np.where(ids > 0, self.resolution.unit_of[known], -1)
        classes = np.where(ids > 0, self.resolution.class_of[known].astype(np.int64), ids)
        times = np.where(units < 0, 1, self.multiplicity[units])
        index, copied = repeat_runs(classes, times)
        fresh = np.where(ids[index] > 0, classes[index] * self.most + copied + 1, ids[index])
        return index, copied, fresh

    def _brings(self, n: fx.Node, result: Tensor, dim: int, ids: np.ndarray) -> bool:
        labels = self._labels(result)
        line = line_of(labels, dim) if labels is not None and labels.shape[dim] > 0 else None
        return line is not None and np.array_equal(line, self._new_ids(ids)[2]) and not self._takes_another(n, dim, ids)

    def _takes_another(self, n: fx.Node, dim: int, ids: np.ndarray) -> bool:
        """Of channels that several slices of the source stand for (the gates of a recurrent cell leave together), the
        node takes other slices than in the seed: as many as it should, by chance."""
        found = self._origin(n, dim, repeated=True)
        if found is None:
            return False
        chosen = self._places(found, dim, ids)
        taken = positions(found.chain, found.source, found.value.shape, dim, self._own_argument)
        return chosen is not None and taken is not None and not np.array_equal(chosen, taken)

    def _own_argument(self, parent: fx.Node, value: Any, node: fx.Node) -> Any:
        return value if node is parent else self.env.get(node)

    def _labels(self, value: Tensor) -> Labels | None:
        tape = self.tapes[-1]
        return tape.pair(value) or tape.labels(value)

    def _origin(self, n: fx.Node, dim: int, *, repeated: bool = False) -> _Origin | None:
        """The nearest ancestor whose channels lie along the same dimension; None where there is none, or with
        `repeated` where all its channels are of different units."""
        chain: list[fx.Node] = [n]
        while True:
            parents = [a for a in chain[-1].all_input_nodes if self._carries(a)]
            if len(parents) != 1:
                return None
            source = parents[0]
            value = self.env.get(source)
            labels = self._seed_labels(source)
            line = line_of(labels, dim) if labels is not None and len(labels.shape) > dim else None
            if labels is not None and isinstance(value, Tensor) and line is not None and (line != line[:1]).any():
                if repeated and distinct_values(line_classes := self._new_ids(line)[2]).size == line_classes.size:
                    return None
                before = positions(chain, source, labels.shape, dim, self._seed_argument)
                if before is not None:
                    return _Origin(source, chain, value, line, before)
            if not moves(source):
                return None
            chain.append(source)

    def _select(self, n: fx.Node, dim: int, ids: np.ndarray) -> Tensor | None:
        """Select the node's channels from the nearest ancestor whose channels lie along the same dimension."""
        found = self._origin(n, dim)
        chosen = self._places(found, dim, ids) if found is not None else None
        return self._choose(n, found, dim, chosen) if found is not None and chosen is not None else None

    def _keeps_all(self, n: fx.Node, dim: int, ids: np.ndarray) -> bool:
        """A view that has all channels of its source, in their order: it says how the images lie beside them."""
        if name_of(n) not in ("view", "reshape") or not n.args:
            return False
        found = self._origin(n, dim)
        chosen = self._places(found, dim, ids) if found is not None and found.source is n.args[0] else None
        return found is not None and chosen is not None and np.array_equal(chosen, np.arange(found.value.shape[dim]))

    def _resized_whole(self, n: fx.Node, result: Any, wanted: list[tuple[int, np.ndarray]]) -> Tensor | None:
        """Such a view with other sizes, where that brings what it should: images of other batches lie so, too."""
        count = len(self.log.edits)
        found = self._resize(n, result)
        with unseen():
            if found is not None and all(self._brings(n, found, *one) for one in wanted):
                return found
        del self.log.edits[count:]
        return None

    def _rebound(self, n: fx.Node, dim: int, ids: np.ndarray) -> Tensor | None:
        """An index that takes part of the image beside some of the channels: their slice gets other bounds."""
        source = n.args[0] if n.args else None
        value = self.env.get(source) if isinstance(source, fx.Node) else None
        if name_of(n) != "getitem" or not isinstance(source, fx.Node) or not isinstance(value, Tensor):
            return None
        index: Any = fx.node.map_arg(n.args[1], self._seed_value)
        labels = self._seed_labels(source)
        line = line_of(labels, dim) if labels is not None and len(labels.shape) > dim else None
        if line is None or not sliced(index, dim):
            return None
        taken = np.arange(line.size)[index[dim]]
        chosen = self._places(_Origin(source, [n], value, line, taken), dim, ids)
        if chosen is None or not chosen.size or (chosen < 0).any() or (np.diff(chosen) != 1).any():
            return None
        start, end = int(chosen[0]), int(chosen[-1]) + 1
        self.log.edits.append(Rebounded(n.name, dim, start, end))
        result: Tensor = value[with_bounds(self.fetch_args_kwargs_from_env(n)[0][1], dim, start, end)]
        return result

    def _carries(self, node: fx.Node) -> bool:
        """The node is a tensor with units, or a tuple of such."""
        facts = self.seed.get(node.name)
        return facts is not None and (facts.several or (facts.labels is not None and facts.labels.parameter is None))

    def _seed_argument(self, parent: fx.Node, value: Any, node: fx.Node) -> Any:
        return value if node is parent else self._seed_value(node)

    def _seed_value(self, node: fx.Node) -> Any:
        facts = self.seed.get(node.name)
        return facts.value if facts is not None else None

    def _places(self, origin: _Origin, dim: int, ids: np.ndarray) -> np.ndarray | None:
        """Where in the new network's value of the ancestor the channels are that the node should bring (-1: filler);
        None where that cannot be said."""
        before = origin.positions
        index, copied, expected = self._new_ids(origin.line)
        labels = self._labels(origin.value)
        arriving = line_of(labels, dim) if labels is not None else None
        if arriving is None or arriving.size != expected.size:
            return None
        if not np.array_equal(np.sort(arriving), np.sort(expected)):
            return None
        # Where each (seed position, copy) is now: equal identifiers keep their order.
        place = np.empty(arriving.size, np.int64)
        place[np.argsort(expected, kind="stable")] = np.argsort(arriving, kind="stable")
        here = {(int(i), int(c)): int(p) for i, c, p in zip(index, copied, place, strict=True)}
        out_index, out_copy, _ = self._new_ids(ids)
        chosen = np.array(
            [here.get((int(before[i]), int(c)), -1) for i, c in zip(out_index, out_copy, strict=True)], np.int64
        )
        return None if (before[out_index] >= 0)[chosen < 0].any() else chosen

    def _choose(self, n: fx.Node, origin: _Origin, dim: int, chosen: np.ndarray) -> Tensor:
        source, value = origin.source, origin.value
        labels = self._labels(value)
        assert labels is not None
        arriving = line_of(labels, dim)
        assert arriving is not None
        edit = Selection(n.name, source.name, dim, chosen, _fill_value(n), value.dim() - 1 - dim)
        self.log.edits.append(edit)
        index_tensor = torch.from_numpy(np.where(chosen < 0, arriving.size, chosen)).to(value.device)
        padded = _with_filler(value, dim, edit.fill) if (chosen < 0).any() else value
        result = padded.index_select(dim, index_tensor)
        brought = np.where(chosen < 0, LOOSE, arriving[chosen])
        shape = tuple(result.shape)
        made = along(brought, dim, shape)
        if labels.second is not None:
            other = labels.ids if dim in varying(labels.second) else labels.second
            made = Labels(made.ids, shape, -1, None, other)
        self.tapes[-1].put(result, made)
        return result

    def _recreate(self, n: fx.Node, result: Any) -> Any:
        """A tensor that is made at a size written down."""
        facts = self.seed.get(n.name)
        if facts is None or facts.labels is None or not isinstance(result, Tensor):
            return result
        wanted = new_shape(facts.labels, self.seed_tape, self.resolution, self.multiplicity)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        sizes = sizes_of(name_of(n), args)
        dim = channels_made(facts.labels)
        if dim is None or wanted is None or len(sizes) != len(wanted) or sizes[dim] == wanted[dim]:
            return result
        function = getattr(Tensor, n.target) if isinstance(n.target, str) else n.target
        made = function(*with_size(name_of(n), args, dim, wanted[dim]), **kwargs)
        self.log.edits.append(Recreated(n.name, dim, wanted[dim], len(wanted)))
        return made

    def _resize(self, n: fx.Node, result: Any) -> Tensor | None:
        """A view, or an expansion, to sizes that are written down, or taken from another tensor: those that went wrong
        become numbers."""
        facts = self.seed.get(n.name)
        if name_of(n) not in RESIZES or facts is None or facts.labels is None:
            return None
        wanted = new_shape(facts.labels, self.seed_tape, self.resolution, self.multiplicity)
        if wanted is None or (isinstance(result, Tensor) and tuple(result.shape) == wanted):
            return None
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        found = resized(n, args, kwargs, result, wanted)
        if found is None:
            return None
        self.log.edits += found[1]
        return found[0]


def _fill_value(node: fx.Node) -> float:
    """The value that a padding puts in."""
    if name_of(node) != "pad":
        return 0.0
    given = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
    return float(given) if isinstance(given, (int, float)) else 0.0


def _with_filler(value: Tensor, dim: int, fill: float) -> Tensor:
    """One more channel, of the value `fill`."""
    return F.pad(value, [0, 0] * (value.dim() - 1 - dim) + [0, 1], value=fill)
