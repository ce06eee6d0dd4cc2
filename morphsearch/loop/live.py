"""Units that leave while training goes on.

A unit leaves in three steps.

1. *Dying.* A look finds it dead (its score is at or below the threshold) and the cost still above the target of the
   morph. What it goes on to emit, the constant that a norm's shift or a bias lets through, is faded out over the next
   looks: at each of them its scales, shifts and biases are multiplied down, to zero at the last. A unit that is alive
   at any of these looks starts over.
2. *Silent.* Dead at :data:`PATIENCE` looks in a row, it is masked: every parameter slice that belongs to it (rows,
   scale, shift, bias, and the columns that read it) is zero, and is set to zero again after every step. Nothing brings
   it back within this morph.
3. *Gone.* Once silent units make up :data:`LEAST_SHARE` of the FLOPs, the network is rebuilt without them. By the
   graph's guarantee that changes no output and no gradient of what stays, so training goes on as masked training would
   have, to rounding. Only random draws whose shape changes (dropout inside of the network) fall out differently.

Where a group loses its last unit and its branch can be left out, all parameters of the layers that go with it are
masked and gone too, the shift of the branch's last norm included, which is faded out like what a dying unit emits.

Units of groups in which something *mixes* (a norm over channels) do not leave before the morph: their removal is not
exact. Neither does a unit whose removal would take the cost below the target: the expansion would only bring it back.

Strategies that do not press (``presses = False``: magnitude, taylor) kill nothing by themselves. Their units leave by
rank, lowest score per price first, as many as a cost that falls by a cubic schedule from the start to the target asks
for (Zhu and Gupta, arXiv 1710.01878, equation 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from morphsearch.loop.selection import (
    Facts,
    Widths,
    closed,
    death_order,
    fewest_deaths,
    free_units,
    from_positions,
    protect,
    widths_of,
)

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

PATIENCE = 3  # looks in a row at which a unit must be dead
RANKED_BY = 0.6  # share of the schedule by which those that leave by rank have left
LEAST_SHARE = 0.1  # of the FLOPs that a rebuild must save
LEAST_STEPS = 10  # whole steps that it must save in what is left of the schedule

Fits = Callable[[Widths], bool]


@dataclass
class Leaving:
    """The units of one morph that are dying, silent or gone.

    Attributes:
        graph: of the network as it is now, with `u` units.
        looks: `u` int64, looks in a row at which a unit was dead. silent: `u` bool.
        origin: `u` int64, the position that each unit had in its group when the morph began.
        cuts: for each rebuild so far the positions that stayed, of the groups that lost units.
        gone: units that are gone.
    """

    graph: ConvGraph
    looks: np.ndarray
    silent: np.ndarray
    origin: np.ndarray
    cuts: list[dict[str, list[int]]] = field(default_factory=list)
    gone: int = 0
    _held: list[tuple[list[Tensor], list[Tensor]]] = field(default_factory=list)

    @classmethod
    def none(cls, graph: ConvGraph) -> Leaving:
        """At the start of a morph: nobody."""
        origin = np.zeros(graph.num_units, np.int64)
        for name in graph.groups:
            origin[graph.units_of(name)] = np.arange(graph.groups[name].width)
        return cls(graph, np.zeros(graph.num_units, np.int64), np.zeros(graph.num_units, bool), origin)

    @property
    def present(self) -> np.ndarray:
        """`u` bool: not silent."""
        present: np.ndarray = ~self.silent
        return present

    @property
    def left(self) -> int:
        """How many units left in this morph, silent ones included."""
        return self.gone + int(self.silent.sum())

    # -- dying -------------------------------------------------------------------------------------------------------

    def dying(self, facts: Facts, fits: Fits, round_to: int) -> np.ndarray:
        """Unit indices that are dead and not needed to fill the target, those dead for longest first."""
        alive = protect(self.graph, facts.alive, facts.score, round_to)[0]
        dead = np.nonzero(~alive & facts.judged & self.present & exact_units(self.graph))[0]
        order = dead[np.lexsort((dead, facts.score[dead], -self.looks[dead]))]
        return self._enough(order, fits)

    def ranked(self, facts: Facts, fits: Fits, threshold: float, round_to: int) -> np.ndarray:
        """Unit indices that leave by rank."""
        order, _ = death_order(self.graph, facts, threshold, round_to)
        order = order[(self.present & exact_units(self.graph))[order]]
        return self._enough(order, fits)

    def unasked(self, facts: Facts, fits: Fits, round_to: int) -> np.ndarray:
        """Unit indices that are dead though the cost would fit with them too, best first; none that are silent."""
        alive = protect(self.graph, facts.alive, facts.score, round_to)[0]
        dead = np.nonzero(~alive & facts.judged & self.present & free_units(self.graph))[0]
        worst_first = dead[np.argsort(facts.score[dead], kind="stable")]
        count, _ = fewest_deaths(self.graph, worst_first, fits, self.present)
        return worst_first[count:][::-1].copy()

    def _enough(self, order: np.ndarray, fits: Fits) -> np.ndarray:
        """As much of `order` as it takes to fit, all of it where that is not enough."""
        count, _ = fewest_deaths(self.graph, order, fits, self.present)
        first: np.ndarray = order[:count]
        return first

    def look(self, model: nn.Module, dying: np.ndarray, patience: int) -> None:
        """Note who is dead now; fade those, and silence those that have been for long enough."""
        count = np.zeros_like(self.looks)
        count[dying] = self.looks[dying] + 1
        self.looks = count
        fading = dying[count[dying] < patience]
        if fading.size:
            factor = np.ones(self.graph.num_units)
            factor[fading] = (patience - count[fading]) / (patience - count[fading] + 1)
            fade(model, self.graph, factor)
            staying = self.present
            staying[dying] = False
            fade_all(model, self._with_branches(staying) - self._with_branches(self.present), float(factor.min()))
        ripe = dying[count[dying] >= patience]
        if ripe.size:
            self.silent[ripe] = True
            self.silent |= ~closed(self.graph, self.present)
            self.looks[ripe] = 0
            self.hold_these(model)

    # -- silent ------------------------------------------------------------------------------------------------------

    def hold_these(self, model: nn.Module) -> None:
        """Prepare :meth:`hold` for the units that are silent now."""
        self._held = []
        if not self.silent.any():
            return
        masks: dict[str, Tensor] = {}
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for binding in self.graph.bindings:
            units = np.asarray(binding.units)
            off = (units >= 0) & self.silent[units]
            parameter = parameters.get(binding.tensor)
            if parameter is None or not off.any():
                continue
            mask = masks.setdefault(binding.tensor, torch.ones_like(parameter, requires_grad=False))
            mask.index_fill_(binding.dim, torch.from_numpy(np.nonzero(off)[0]).to(mask.device), 0)
        for name in self._with_branches(self.present):
            if name in parameters:
                masks[name] = torch.zeros_like(parameters[name], requires_grad=False)
        kinds: dict[tuple[Any, Any], tuple[list[Tensor], list[Tensor]]] = {}
        for name, mask in masks.items():
            parameter = parameters[name]
            pair = kinds.setdefault((parameter.device, parameter.dtype), ([], []))
            pair[0].append(parameter)
            pair[1].append(mask)
        self._held = list(kinds.values())
        self.hold()

    def _with_branches(self, staying: np.ndarray) -> frozenset[str]:
        """Parameters that go with the branches of groups of which no unit is `staying`."""
        counts = np.bincount(self.graph.unit_group[staying], minlength=len(self.graph.groups))
        pairs = zip(self.graph.groups.items(), counts, strict=True)
        emptied = [name for (name, group), count in pairs if group.width > count == 0]
        removal = self.graph.gone_with(emptied) if emptied else None
        return removal.parameters if removal is not None else frozenset()

    @torch.no_grad()
    def hold(self) -> None:
        """Set every slice of a silent unit to zero again; a fused operation or two a step."""
        for parameters, masks in self._held:
            torch._foreach_mul_(parameters, masks)

    def hush(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Zero the optimizers' state of silent units, which would decay into denormal numbers."""
        by_parameter = {p.data_ptr(): m for held in self._held for p, m in zip(*held, strict=True) if p.numel()}
        with torch.no_grad():
            for parameter, values in (item for one in optimizers for item in one.state.items()):
                mask = by_parameter.get(parameter.data_ptr())
                for value in values.values():
                    if mask is not None and isinstance(value, Tensor) and value.shape == mask.shape:
                        value.mul_(mask)

    # -- gone --------------------------------------------------------------------------------------------------------

    def cut(self) -> np.ndarray:
        """`u` int64, the multiplicities of a rebuild: 0 for silent units, but for those that a width must keep."""
        stays = self.present
        for name, group in self.graph.groups.items():
            units = self.graph.units_of(name)
            count = int(stays[units].sum())
            lacking = max(group.floor - count, -count % group.multiple)
            if lacking:
                stays[units[~stays[units]][:lacking]] = True
        return stays.astype(np.int64)

    def worth(self, multiplicity: np.ndarray, costs: Callable[[Widths], Mapping[str, float]], left: int | None) -> bool:
        """Whether a rebuild saves enough; `left`: steps that are left of the schedule."""
        before = float(costs(self.graph.widths)["flops"])
        after = float(costs(widths_of(self.graph, multiplicity > 0))["flops"])
        share = 1 - after / before if before else 0.0
        return share >= LEAST_SHARE and (left is None or share * left >= LEAST_STEPS)

    def positions(self, multiplicity: np.ndarray) -> dict[str, list[int]]:
        """The positions that stay, of groups that lose units."""
        kept = {}
        for name in self.graph.groups:
            stays = multiplicity[self.graph.units_of(name)] > 0
            if not stays.all():
                kept[name] = np.nonzero(stays)[0].tolist()
        return kept

    def after(self, graph: ConvGraph, positions: Mapping[str, list[int]]) -> Leaving:
        """The same after a rebuild; `graph` is that of the new network."""
        kept = np.nonzero(from_positions(self.graph, dict(positions)))[0]
        gone = self.gone + self.graph.num_units - kept.size
        cuts = [*self.cuts, dict(positions)]
        return Leaving(graph, self.looks[kept], self.silent[kept], self.origin[kept], cuts, gone)

    # -- files -------------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """`looks` and `silent`, for a checkpoint."""
        return {"looks": torch.from_numpy(self.looks.copy()), "silent": torch.from_numpy(self.silent.copy())}


def exact_units(graph: ConvGraph) -> np.ndarray:
    """`u` bool: units whose removal is exact: not frozen, and nothing mixes them."""
    exact = np.array([group.frozen is None and not group.mixes for group in graph.groups.values()], bool)
    return exact[graph.unit_group] if graph.num_units else np.zeros(0, bool)


@torch.no_grad()
def fade(model: nn.Module, graph: ConvGraph, factor: np.ndarray) -> None:
    """Multiply scales, shifts and biases (parameters of one dimension) of every unit `u` by ``factor[u]``."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    done = set()
    for binding in graph.bindings:
        parameter = parameters.get(binding.tensor)
        if parameter is None or parameter.dim() != 1 or binding.tensor in done:
            continue
        done.add(binding.tensor)
        units = np.asarray(binding.units)
        factors = np.where(units >= 0, factor[units], 1.0)
        if (factors != 1).any():
            parameter.mul_(torch.from_numpy(factors).to(parameter))


@torch.no_grad()
def fade_all(model: nn.Module, names: frozenset[str], factor: float) -> None:
    """Multiply those of these parameters that have one dimension: what a dying branch would still add is faded too."""
    for name, parameter in model.named_parameters():
        if name in names and parameter.dim() == 1:
            parameter.mul_(factor)


def cubic(step: int, begin: int, end: float, start: float, target: float) -> float:
    """The cost that a gradual removal allows at `step`: from `start` to `target`, fast first."""
    if end <= begin or step >= end:
        return target
    rest = 1 - max(0, step - begin) / (end - begin)
    return target + (start - target) * rest**3
