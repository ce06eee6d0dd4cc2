"""The recorded network: groups, operations, and the rewrites that groups make possible."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from morphsearch.arguments import named_arguments
from morphsearch.errors import GraphError
from morphsearch.graph import asked, branches
from morphsearch.graph.checked import FROZEN, rewrite_checked
from morphsearch.graph.extent import Extent
from morphsearch.graph.flow import Flow, Removal
from morphsearch.graph.fresh import break_symmetry, initialise, share_columns
from morphsearch.graph.operations import Operation, TensorShape, extent_of
from morphsearch.graph.plan import Plan
from morphsearch.graph.recording import uncollected
from morphsearch.graph.resolve import PRODUCING, Binding, Group, resolve
from morphsearch.graph.steps import Mismatch
from morphsearch.graph.tape import Tape

if TYPE_CHECKING:
    import networkx as nx


class ConvGraph:
    """A network as operations, units and groups. Made by :func:`record`."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        tape: Tape,
        evaluated: int,
        frozen: Mapping[int, str],
        on_meta: bool,
    ) -> None:
        self.model, self.example_inputs = model, example_inputs
        self.tape, self.evaluated, self.on_meta = tape, evaluated, on_meta
        self.frozen_ids = dict(frozen)
        self._found = resolve(tape, frozen)
        self.decide()
        self._gone_with: dict[frozenset[str], Removal | None] = {}

    def decide(self) -> None:
        """Give the groups the names and floors that the tape's decisions ask for."""
        self.resolution = branches.decided(self._found, self.tape.decisions)

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def groups(self) -> Mapping[str, Group]:
        """All groups in network order, frozen ones included."""
        return self.resolution.groups

    @property
    def widths(self) -> dict[str, int]:
        """The width of every group."""
        return {name: group.width for name, group in self.groups.items()}

    @property
    def free(self) -> list[str]:
        """Names of the groups whose width may change."""
        return [name for name, group in self.groups.items() if group.frozen is None]

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """Which unit each slice of each parameter and buffer belongs to."""
        return self.resolution.bindings

    @property
    def unit_group(self) -> np.ndarray:
        """`u` int64: position of every unit's group in :attr:`groups`."""
        return self.resolution.unit_group

    @property
    def num_units(self) -> int:
        """Units of all groups, in one flat numbering."""
        return int(self.resolution.unit_group.size)

    def units_of(self, name: str) -> np.ndarray:
        """Flat indices of a group's units, in channel order."""
        position = list(self.groups).index(self._group(name).name)
        start, end = np.searchsorted(self.unit_group, [position, position + 1])  # groups follow each other
        return np.arange(start, end)

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """The operations of evaluation mode in the order of execution."""
        seen: dict[str, int] = {}
        result = []
        for raw in self.tape.operations[: self.evaluated]:
            base = f"{raw.module}:{raw.kind}" if raw.module else raw.kind
            seen[base] = seen.get(base, 0) + 1
            name = base if seen[base] == 1 else f"{base}#{seen[base]}"
            inputs = tuple(TensorShape(labels, self.resolution) for labels in raw.inputs)
            outputs = tuple(TensorShape(labels, self.resolution) for labels in raw.outputs)
            result.append(
                Operation(name, raw.kind, raw.module, raw.parameters, raw.attrs, inputs, outputs, raw, self.resolution)
            )
        return tuple(result)

    @cached_property
    def parameter_shapes(self) -> dict[str, tuple[Extent, ...]]:
        """For every parameter (tied ones once) the size of each dimension as a function of the widths; of one that
        holds several dimensions as one (kernels that lie flat in a bank) that of each of those."""
        shapes = {}
        for name, parameter in self.model.named_parameters():
            slots, layout = self.tape.slots, self.tape.layouts.get(name)
            sizes = tuple(
                extent_of(self.resolution.unit_of[slots[name, dim]], self.resolution)
                if (name, dim) in slots
                else Extent(size)
                for dim, size in enumerate(parameter.shape if layout is None else layout.shape)
            )
            if sum(bool(size.coefficients) for size in sizes) > 2:  # kernels of a bank, whose number is fixed
                sizes = tuple(self._settled(size) for size in sizes)
            shapes[name] = sizes
        return shapes

    def _settled(self, size: Extent) -> Extent:
        """The size, a plain number where no group may change it."""
        groups = list(self.groups.values())
        if any(groups[group].frozen is None for group in size.coefficients):
            return size
        return Extent(float(size.at([group.width for group in groups])))

    def to_networkx(self) -> nx.DiGraph:
        """Operations as nodes (module, kind, shapes, parameters), tensors as edges."""
        import networkx as nx

        graph = nx.DiGraph()
        names = [operation.name for operation in self.operations]
        for operation in self.operations:
            graph.add_node(
                operation.name,
                kind=operation.kind,
                module=operation.module,
                parameters=dict(operation.parameters),
                inputs=[shape.shape for shape in operation.inputs],
                outputs=[shape.shape for shape in operation.outputs],
            )
            for labels in operation.raw.inputs:
                if 0 <= labels.producer < len(names):
                    graph.add_edge(names[labels.producer], operation.name, shape=labels.shape)
        return graph

    @named_arguments
    def explain(self, name: str) -> str:
        """Why layers change together, as text; `name` is a group or any layer.

        Raises:
            UnknownName: it is neither.
        """
        from morphsearch.graph.explain import explain

        return explain(self, name)

    @property
    def decisions(self) -> dict[str, str]:
        """What this network at other widths must be taken for too, as text.

        How grouped convolutions were understood, by weight (whole groups leave, or the same channel of every group),
        and what a trial froze, ``frozen:GROUP`` to the reason: at other widths the same trial could pass by accident.
        """
        tried = self.frozen_ids.values()
        frozen = {
            FROZEN + name: g.frozen for name, g in self.groups.items() if g.frozen is not None and g.frozen in tried
        }
        return {**self.tape.decisions, **frozen}

    @cached_property
    def flow(self) -> Flow:
        """Who reads what, and what would have nothing to do without a group."""
        return Flow.of(self.tape, self.resolution)

    def gone_with(self, names: Iterable[str]) -> Removal | None:
        """What goes when these groups lose all their units, beside themselves; None where they cannot."""
        asked = frozenset(names)
        if asked not in self._gone_with:
            order = {name: position for position, name in enumerate(self.groups)}
            self._gone_with[asked] = self.flow.removal(order[name] for name in asked)
        return self._gone_with[asked]

    def keep_branches(self) -> None:
        """From now on no group may lose all its units."""
        decisions = self.tape.decisions
        self.tape.decisions = {key: why for key, why in decisions.items() if not key.startswith(branches.MAY_GO)}
        groups = {name: replace(one, floor=max(one.floor, min(1, one.width))) for name, one in self.groups.items()}
        self.resolution = replace(self.resolution, groups=groups)

    # -- rewriting -----------------------------------------------------------------------------------------------

    @named_arguments
    def shrink(self, keep: Mapping[str, Sequence[int]]) -> nn.Module:
        """The network without the units that `keep` leaves out, weights inherited; groups not named stay whole.

        Equal to the seed with the dropped units' parameters at zero, wherever nothing mixes. Where a group whose floor
        is 0 keeps no unit, its branch is left out with all its layers: equal to the seed with all parameters of these
        layers at zero, the shift of the branch's last norm included.

        Args:
            keep: for each group the positions (0 to width - 1) of the units that stay.

        Raises:
            GraphError: an unknown or frozen group, a position out of range, or fewer units than the group's floor; or
                `keep` says nothing by group.
        """
        asked.by_group(keep, "keep", "positions of the units that stay", '{"conv1": [0, 2, 5]}')
        multiplicity = np.ones(self.num_units, np.int64)
        for name, kept in keep.items():
            group = self._group(name)
            chosen = asked.positions(name, kept)
            if chosen.size and (chosen[0] < 0 or chosen[-1] >= group.width):
                raise GraphError(
                    f"keep[{name!r}] holds {int(chosen[0] if chosen[0] < 0 else chosen[-1])}",
                    f"positions in this group run from 0 to {group.width - 1}",
                    "give positions of units within the group",
                )
            if chosen.size < group.width and (chosen.size or group.floor):
                self.check_width(name, int(chosen.size))
            mask = np.zeros(group.width, np.int64)
            mask[chosen] = 1
            multiplicity[self.units_of(name)] = mask
        return self.rewrite(multiplicity)

    @named_arguments
    def resize(self, widths: Mapping[str, int], weights: str = "fresh") -> nn.Module:
        """The network at other widths; groups not named stay as they are.

        Args:
            widths: units per group, at or above its floor; more than the seed has is fine.
            weights: "fresh" (each module's own initialisation) or "widen": the first units inherit, units that are
            added
                are copies of others whose readers share them out, so that a wider network computes the same (Net2Net,
                arXiv 1511.05641, section 2).

        Raises:
            GraphError: an unknown or frozen group, a width that the group cannot have, or "widen" where a weight is
                computed from a parameter in a way that copies of its inputs cannot share.
        """
        if weights not in ("fresh", "widen"):
            raise GraphError(f"weights={weights!r}", 'it is "fresh" or "widen"', 'use "fresh" to train from scratch')
        complete = self.check_widths(widths)
        multiplicity = np.ones(self.num_units, np.int64)
        for name, width in complete.items():
            group = self.groups[name]
            if not group.width:
                continue
            times, extra = divmod(width, group.width)
            counts = np.full(group.width, times)
            counts[:extra] += 1
            multiplicity[self.units_of(name)] = counts
        return self.rewrite(multiplicity, weights=weights)

    def rewrite(
        self, multiplicity: np.ndarray, weights: str = "inherit", *, noise: float = 0.0, seed: int = 0
    ) -> nn.Module:
        """The network in which unit `u` occurs ``multiplicity[u]`` times, checked by recording it again.

        Args:
            multiplicity: `u` int64.
            weights: "inherit" (slices as they are), "widen" (columns of copies shared out) or "fresh".
            noise: with "widen", noise on copies so that they can learn apart, in standard deviations of the weight.
            seed: of that noise.

        Raises:
            GraphError: an operation cannot follow; the message names it.
        """
        network, plan = self.planned(multiplicity)
        if weights == "fresh":
            initialise(network, plan)
        elif weights == "widen":
            self._check_shares(plan)
            share_columns(network, plan)
            if noise:
                break_symmetry(network, plan, noise, torch.Generator().manual_seed(seed))
        return network

    def _check_shares(self, plan: Plan) -> None:
        for (name, dim), copies in plan.copies.items():
            if dim == plan.column_dims.get(name) and name in self.tape.bent and (copies > 1).any():
                raise GraphError(
                    f"units that the weight made of {name} reads are to be widened",
                    f"copies of a unit share its weight out, and {self.tape.bent[name]} computes with that weight",
                    'use weights="fresh", or leave the units that this layer reads at their width',
                )
            used = {role for role, _ in self.tape.roles.get((name, dim), ())}
            if "columns" in used and used & {*PRODUCING, "gate", "norm", "bias"} and (copies > 1).any():
                raise GraphError(
                    f"units that {name} both makes, or scales, and reads (a tied weight) are to be widened",
                    "what makes or scales a unit is repeated in its copies, and what reads it is shared out among them",
                    'use weights="fresh", or leave these units at their width',
                )

    @uncollected()
    def planned(self, multiplicity: np.ndarray) -> tuple[nn.Module, Plan]:
        """The rewritten network with inherited slices, and the plan that says which slice of the seed each is."""
        held = np.bincount(self.unit_group, multiplicity > 0, len(self.groups))
        emptied = [name for (name, one), count in zip(self.groups.items(), held, strict=True) if one.width > count == 0]
        try:
            if not emptied:
                return rewrite_checked(self, multiplicity)
            rest = branches.without(self, emptied)
        except Mismatch as mismatch:
            raise self._cannot(mismatch) from mismatch
        network, plan = rest.graph.planned(multiplicity[rest.units])
        plan.decisions = plan.decisions or rest.graph.decisions
        return network, plan

    def _cannot(self, mismatch: Mismatch) -> GraphError:
        operation = self.tape.operations[mismatch.operation] if mismatch.operation >= 0 else None
        where = f"{operation.kind} in {operation.module or 'the network'}" if operation else "the network"
        return GraphError(
            f"{where} cannot follow these widths: {mismatch.reason}",
            "every rewrite is recorded again, and must bring the same channels to every layer as the seed does",
            "leave the groups that this operation reads at their width (graph.explain names them)",
        )

    def check_width(self, name: str, width: int) -> None:
        """Raise GraphError unless the group may have `width` units."""
        group = self._group(name)
        if width != group.width and group.frozen is not None:
            raise GraphError(
                f"group {name!r} is asked to have {width} of its {group.width} units",
                f"it is frozen: {group.frozen}",
                "leave it out, or teach the operation through the hook morphsearch_operations",
            )
        if width < group.floor or width % group.multiple:
            raise GraphError(
                f"group {name!r} is asked to have {width} units",
                f"it takes {group.floor} or more"
                + (f", in multiples of {group.multiple}" if group.multiple > 1 else ""),
                f"use at least {group.floor}",
            )

    def check_widths(self, widths: Mapping[str, int]) -> dict[str, int]:
        """`widths` completed with the groups that it does not name, each legal.

        Raises:
            GraphError: an unknown group or a width that it cannot have; or `widths` says nothing by group.
        """
        asked.by_group(widths, "widths", "numbers of units", '{"conv1": 12}')
        complete = self.widths
        for name, width in widths.items():
            if isinstance(width, bool) or not isinstance(width, (int, np.integer)):
                raise GraphError(f"widths[{name!r}] is {width!r}", "a width is a whole number of units", "round it")
            complete[self._group(name).name] = int(width)
        complete = self.closed(complete)
        along = self._along(complete)
        for name in widths:
            if name not in along:
                self.check_width(name, complete[name])
        return complete

    def closed(self, widths: Mapping[str, int]) -> dict[str, int]:
        """`widths` in which whatever goes with groups of width 0 has width 0 too."""
        return {**widths, **dict.fromkeys(self._along(widths), 0)}

    def left_at(self, widths: Mapping[str, int]) -> ConvGraph:
        """This graph, with the operations and parameters that it still has at `widths`: what goes with groups of width
        0 has no cost."""
        along = self._along(widths)
        removal = self.gone_with(along) if along else None
        if removal is None:
            return self
        view = copy.copy(self)
        sums = {one for one in removal.joins if self.tape.operations[one].kind != "cat"}
        gone = removal.operations | sums
        view.operations = tuple(one for index, one in enumerate(self.operations) if index not in gone)
        shapes = self.parameter_shapes
        view.parameter_shapes = {name: shapes[name] for name in shapes if name not in removal.parameters}
        return view

    def _along(self, widths: Mapping[str, int]) -> list[str]:
        """Groups that go with those whose width is 0 and that may go, themselves included."""
        emptied = [n for n, group in self.groups.items() if group.width and not group.floor and not widths[n]]
        removal = self.gone_with(emptied) if emptied else None
        names = list(self.groups)
        return [names[one] for one in removal.groups] if removal is not None else []

    def _group(self, name: str) -> Group:
        if name not in self.groups:
            raise asked.unknown_group(name, list(self.groups))
        return self.groups[name]


__all__ = ["ConvGraph"]
