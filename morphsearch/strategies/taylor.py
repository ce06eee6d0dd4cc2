"""``taylor``: units whose removal changes the loss least, to first order, leave (Molchanov et al., "Importance
Estimation for Neural Network Pruning", CVPR 2019, arXiv 1906.10771, equations 7 and 8; before for activations, arXiv
1611.06440).

A gate ``m = 1`` on what unit `u` emits would have the gradient

    dL/dm_u = sum over the unit's parameters s of  g_s w_s,

with `g` the gradient of the batch's loss: to first order the loss changes by minus that when the unit leaves. The sum
runs over the *places* where the unit speaks, scales and shifts of its norms, and rows and biases where no norm follows,
of all its coupled members: the members' contributions are added, signs and all, before anything is squared, since all
leave at once. (Rows before a norm add nothing: a norm does not see their size.) Over the batches the score is

    I_u = sqrt(average of (dL/dm_u)^2),       or with ``power="abs"``      I_u = average of |dL/dm_u|,

an exponential average with a memory of `memory` steps, corrected for its beginning. The root keeps the order of the
paper's squares and has the unit of a loss, as a score that is set against a price should.

Products are taken when a parameter's gradient is complete, before the optimizer changes anything; gradients that were
accumulated over several backward passes count as one batch; where several processes train together, so do their parts
of it. Nothing presses the units; the loop takes them away by
rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from morphsearch.finite import all_finite
from morphsearch.strategies.base import Strategy
from morphsearch.strategies.judging import nothing_to_judge, number_in, one_of, unjudged_groups
from morphsearch.strategies.places import PerUnit, Place, places, rows_of, speaking
from morphsearch.strategies.ranks import mean_over_ranks

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

LARGE = 1 << 20  # elements from which on a product that is never written down pays


class Taylor(Strategy):
    """First-order change of the loss, accumulated over steps.

    Args:
        memory: over how many steps scores are averaged.
        power: ``"square"`` or ``"abs"``.

    Raises:
        UsageError: an argument out of range.
    """

    name = "taylor"
    presses = False

    def __init__(self, *, memory: float = 50.0, power: str = "square") -> None:
        usual = "50 averages over about 50 steps"
        self.memory = number_in("memory", memory, 1, float("inf"), usual)
        self.power = one_of("power", power, ("square", "abs"), self.name)
        self._places: list[Place] = []
        self._hooks: list[RemovableHandle] = []
        self._scored = torch.zeros(0, dtype=torch.bool)
        self._average = torch.zeros(0)
        self._seen = 0
        self._fresh = False

    def attach(self, model: nn.Module, graph: ConvGraph) -> None:
        """Find the places; their gradients are heard from the first :meth:`penalty` on.

        Raises:
            UsageError: no unit that may leave has a parameter that is trained.
        """
        self._bind(model, graph)
        self._average = torch.zeros(graph.num_units)
        self._seen = 0

    def _bind(self, model: nn.Module, graph: ConvGraph) -> None:
        self.detach()
        found = [place for place in speaking(places(model, graph)) if place.tensor.requires_grad]
        if not found:
            raise nothing_to_judge(self.name, graph, "parameters that are trained", trained=True)
        self._places = found
        units = np.concatenate([place.units for place in found])
        self._units = PerUnit(units, graph.num_units)
        self._scored = self._units.present()
        self.notes = unjudged_groups(self.name, graph, self._scored, "no parameter of theirs is trained")
        self._parts = torch.zeros(0)
        self._fresh = False

    def _listen(self) -> None:
        by_tensor: dict[int, list[tuple[Place, int]]] = {}
        start = 0
        for place in self._places:
            by_tensor.setdefault(id(place.tensor), []).append((place, start))
            start += place.units.size
        self._size = start
        for held in by_tensor.values():
            hook = self._hook(held)
            self._hooks.append(held[0][0].tensor.register_post_accumulate_grad_hook(hook))

    def _hook(self, held: list[tuple[Place, int]]) -> Callable[[Tensor], None]:
        def take(parameter: Tensor) -> None:
            if parameter.grad is None:
                return
            parts = self._buffer(parameter)
            weight, grad = parameter.detach(), parameter.grad.detach()
            for place, start in held:
                part = parts.narrow(0, start, place.units.size)
                if parameter.dim() == 1:
                    torch.mul(grad, weight, out=part) if part.dtype == grad.dtype else part.copy_(grad * weight)
                else:
                    part.copy_(_dots(rows_of(grad, place.dim), rows_of(weight, place.dim)))
            self._fresh = True

        return take

    def _buffer(self, parameter: Tensor) -> Tensor:
        """`k` float32: one number a slice, where the parameters are."""
        if self._parts.numel() != self._size or self._parts.device != parameter.device:
            self._parts = torch.zeros(self._size, device=parameter.device)
        return self._parts

    def penalty(self, prices: Tensor, strength: float) -> Tensor:
        """None: zero."""
        if not self._hooks:
            self._listen()
        return super().penalty(prices, strength)

    @torch.no_grad()
    def after_step(self, prices: Tensor, strength: float, lr: float) -> None:
        """Take this step's products into the average."""
        if not self._hooks:
            self._listen()
        change = self._units.sum(self._parts) if self._fresh else None
        if self.together:  # as if one process had seen all of the batch
            change = mean_over_ranks(change, self._average.to(self._places[0].tensor.device))
        if change is None:
            return
        if self._average.device != change.device:
            self._average = self._average.to(change.device)
        # A loss that is scaled for half precision overflows now and then: such a step says nothing.
        told = change.square() if self.power == "square" else change.abs()
        told = torch.where(told.isfinite().all(), told, self._average)
        self._average.lerp_(told, self._rate(self._seen))
        self._seen += 1
        self._fresh = False
        self._parts.zero_()  # a branch that the next step does not reach adds nothing

    def _rate(self, seen: int) -> float:
        """The weight of a step after `seen` others: a plain mean at first, which needs no correction later."""
        return max(1.0 / self.memory, 1.0 / (seen + 1))

    def scores(self) -> Tensor:
        """`u` float32, in units of the loss; ones before the first step, which says nothing yet. NaN in a network whose
        parameters are no longer finite."""
        if not all_finite(place.tensor for place in self._places):
            return torch.full_like(self._average, float("nan"))
        if self._seen == 0:
            return torch.ones(self._average.numel())
        return self._average.sqrt() if self.power == "square" else self._average.clone()

    def alive(self, threshold: float) -> Tensor:
        """`u` bool, see :class:`Strategy`. Before the first step all units are."""
        return super().alive(threshold) if self._seen else torch.ones(self._average.numel(), dtype=torch.bool)

    def scored(self) -> Tensor:
        """`u` bool: units that may leave and speak through a parameter that is trained."""
        return self._scored

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Without hooks."""
        listening = bool(self._hooks)
        self.detach()
        try:
            yield
        finally:
            if listening:
                self._listen()

    def detach(self) -> None:
        """Take the hooks off the parameters."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The averages, and over how many steps they were taken."""
        return {"average": self._average.detach().cpu().clone()}, {"seen": self._seen}

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            ValueError: it is of another network.
        """
        if tensors["average"].numel() != self._average.numel():
            raise ValueError(f"scores of {tensors['average'].numel()} units, not {self._average.numel()}")
        self._average, self._seen = tensors["average"].clone(), int(state["seen"])


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """`n`: the products of the rows of two `n x d`."""
    if torch.is_autocast_enabled(a.device.type):  # which would round them, where backward() is called inside
        with torch.autocast(a.device.type, enabled=False):
            return _dots(a, b)
    large = a.numel() >= LARGE and a.dtype == b.dtype
    products: Tensor = torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).flatten() if large else torch.linalg.vecdot(a, b)
    return products
