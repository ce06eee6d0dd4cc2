"""``logistic-sigmoid``: every unit has a gate that is open with a probability, which is learned (FiGS, "Fine-Grained
Stochastic Architecture Search", arXiv 2006.09581, section 3; relaxation: Maddison et al. 2017, arXiv 1611.00712, and
Jang et al. 2017, arXiv 1611.01144).

Every unit has a logit; ``p_u = P(on) = sigmoid(logit_u)``. In a training step its gate is

    m_u = sigmoid((logit_u + g) / tau),  g ~ Logistic(0, 1),      or, with ``straight_through`` (the default),
    m_u = 1[logit_u + tau g > 0],

whose gradient is taken as that of `p_u` (Bengio et al. 2013, arXiv 1308.3432). In the first, FiGS's, `tau` is how soft
gates are, in the second how random: at 1 they are on with probability `p_u`, lower they hesitate less, and the noise is
left to the units that are about to leave. `tau` falls geometrically from `temperature` to `final_temperature` over the
schedule. In evaluation the gate is ``1[p_u > threshold]``. One draw serves a batch. The objective is

    lambda * sum_u price_u * p_u  +  lambda * rate / r * E_m[loss(m)],

`r` the root mean square of ``G_u = dL/dp_u`` over units and the last steps, so that the size of the loss and of the
network falls out, and `rate` says how much a typical gradient counts against a price of 1. A step, with
``t = lr * lambda``, goes along the gradient of the second term (by at most a tenth), then takes the first's proximal
step:

    p_u <- p_u - clip(t rate G_u / r, -0.1, 0.1)
    p_u <- argmin_q  1/2 (q - p_u)^2 + t price_u q,  0.01 <= q <= 0.99   =   clip(p_u - t price_u, 0.01, 0.99).

(FiGS hands ``loss + lambda * sum p`` to the optimizer of the weights. Steps in `p` that stop when the pressure does
keep scores falling at the pace that the loop's controller counts on, do not let noise close gates once the target is
reached, and leave the gates out of the user's optimizer.)

Units that take no share of the pressure (price 0) rest: their probabilities stay as they are.

There is **one gate per unit**: coupled channels leave together, and so share it. (FiGS has a gate per channel and
couples them by ``1 - prod(1 - p)``.) Gates multiply the parameters through which a unit speaks, see
:mod:`~morphsearch.strategies.gates`; the user's network is not changed, and gates begin only when the loop begins to
press. The best unit of every group is not pressed, and its gate is never closed in evaluation.

Draws depend on `seed` and on how many there were before, so that a resumed search repeats them, and processes that
train together draw alike; `G` is the mean of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from morphsearch.arguments import require_seed
from morphsearch.errors import UsageError
from morphsearch.finite import all_finite
from morphsearch.strategies.base import Strategy
from morphsearch.strategies.gates import Gates
from morphsearch.strategies.judging import Spared, flag, nothing_to_judge, number_in, unjudged_groups
from morphsearch.strategies.places import PerUnit, places, speaking
from morphsearch.strategies.ranks import mean_over_ranks

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

LEAST = 0.01  # probabilities stay at least so far from 0 and 1
MEMORY = 0.98  # share of the former mean square of the gradients that stays at every step
LONGEST = 0.1  # step of a probability along the gradient of the loss
OPEN_AGAIN = 0.05  # above the threshold: the probability of a gate that is opened again
SEEDS_APART = 1_000_003
DEAF = 5  # steps in a row in which gates were drawn and heard nothing


class LogisticSigmoid(Strategy):
    """Probabilistic gates on units.

    Args:
        initial: the logit that gates begin with; 2.5 is open 92 times of 100.
        temperature: tau at the start of a morph. final_temperature: at the end of its schedule.
        straight_through: gates are 0 or 1 in training too.
        rate: how much a typical gradient of the loss counts against a price of 1.
        threshold: units whose probability is at most this are dead.
        seed: of the draws.

    Raises:
        UsageError: an argument out of range.
    """

    name = "logistic-sigmoid"
    rests = True

    def __init__(
        self,
        *,
        initial: float = 2.5,
        temperature: float = 0.5,
        final_temperature: float = 0.1,
        straight_through: bool = True,
        rate: float = 10.0,
        threshold: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.initial = number_in("initial", initial, -4.5, 4.5, "2.5 is usual")
        self.temperature = number_in("temperature", temperature, 0, float("inf"), "0.5 is usual", open_ends=True)
        self.final_temperature = number_in(
            "final_temperature", final_temperature, 0, float("inf"), "0.1 is usual", open_ends=True
        )
        self.straight_through = flag("straight_through", straight_through)
        self.rate = number_in("rate", rate, 0, float("inf"), "10 is usual")
        self.default_threshold = number_in("threshold", threshold, 0, 1, "0.5 is usual")
        require_seed(seed)
        self.seed = seed
        self._gates: Gates | None = None
        self._logits, self._heard = torch.zeros(0), torch.zeros(0)
        self._generator = torch.Generator()
        self._draws, self._begun = 0, False
        self._drawn = self._deaf = 0  # draws by the last step; steps since gates heard anything

    def attach(self, model: nn.Module, graph: ConvGraph) -> None:
        """Find where units speak; gates begin at the first step that presses.

        Raises:
            UsageError: no unit may leave.
        """
        self._bind(model, graph)
        self._logits = torch.full((graph.num_units,), self.initial)
        self._heard = torch.zeros(graph.num_units, requires_grad=True)
        self._power = torch.zeros(1)
        self._draws, self._begun = 0, False
        self._drawn = self._deaf = 0

    def _bind(self, model: nn.Module, graph: ConvGraph) -> None:
        if self._gates is not None:
            self._gates.remove()
        found = speaking(places(model, graph))
        if not found:
            raise nothing_to_judge(self.name, graph, "parameters to put a gate on")
        self._spoken = [place.tensor for place in found]
        self._gates = Gates(model, found, graph.num_units, self._source)
        self._scored = PerUnit(np.concatenate([place.units for place in found]), graph.num_units).present()
        self._count_scored = int(self._scored.sum())
        self._spared = Spared(graph)
        self._device = found[0].tensor.device
        self._tensor = found[0].tensor
        self._shut: Tensor | None = None
        self._chances: Tensor | None = None
        self.notes = unjudged_groups(self.name, graph, self._scored, "no parameter speaks for them")

    # -- gates ---------------------------------------------------------------------------------------------------------

    @property
    def tau(self) -> float:
        """The temperature as it is now."""
        ratio = self.final_temperature / self.temperature
        return float(self.temperature * ratio ** min(1.0, max(0.0, self.progress)))

    def _source(self, model: nn.Module) -> Tensor | None:
        self._follow_device()
        if model.training and torch.is_grad_enabled():
            return self._sample()
        shut = self._closed()
        return (~shut).to(self._logits.dtype) if bool(shut.any()) else None

    def _sample(self) -> Tensor:
        """`u`: gates for one batch, with a gradient for the probabilities."""
        generator = self._generator.manual_seed(self.seed * SEEDS_APART + self._draws)
        self._draws += 1
        uniform = torch.rand(self._logits.numel(), generator=generator).clamp_(1e-6, 1 - 1e-6)
        noise = uniform.logit_().to(self._logits.device, non_blocking=True)
        if not self.straight_through:
            return torch.sigmoid((torch.logit(self._on() + self._heard) + noise) / self.tau)
        return (self._logits + self.tau * noise > 0).to(self._logits.dtype) + self._heard

    def _on(self) -> Tensor:
        """`u`: P(on), known from one step to the next."""
        if self._chances is None:
            self._chances = torch.sigmoid(self._logits)
        return self._chances

    def _moved(self) -> None:
        """What was known of the former probabilities is not true any more."""
        self._shut = self._chances = None

    @torch.no_grad()
    def _closed(self) -> Tensor:
        """`u` bool: gates that are closed in evaluation."""
        if self._shut is None:
            shut = (self._on() <= self.default_threshold) & self._scored.to(self._logits.device)
            self._shut = shut.index_fill_(0, self._spared.best(self._on()), False)
        return self._shut

    def _follow_device(self) -> None:
        if self._logits.device != self._tensor.device:
            self._logits = self._logits.to(self._tensor.device)
            self._heard = torch.zeros_like(self._logits, requires_grad=True)
            self._moved()

    # -- what the loop calls -------------------------------------------------------------------------------------------

    def penalty(self, prices: Tensor, strength: float) -> Tensor:
        """``lambda * sum_u price_u * p_u``, without gradient: :meth:`after_step` does the work."""
        chances = self._on()
        priced = prices.to(chances.device, chances.dtype) * self._scored.to(chances.device)
        return strength * torch.dot(priced, chances)

    @torch.no_grad()
    def after_step(self, prices: Tensor, strength: float, lr: float) -> None:
        """A step of the probabilities along the gradient of the loss, then the proximal one.

        Raises:
            UsageError: gradients do not reach the gates.
        """
        pull, self._heard.grad = self._heard.grad, None
        self._hear(pull is not None)
        if not strength and not self._begun:
            return
        if not self._begun:
            self._begun = True
            assert self._gates is not None
            self._gates.install()
        self._follow_device()
        if self.together:
            pull = mean_over_ranks(pull, self._logits)
        on = self._on()
        pressed = prices.to(on.device, on.dtype)
        moved = pressed * (-lr * strength)
        moved.index_fill_(0, self._spared.best(on), 0.0)
        if pull is not None:
            pull = pull.to(on.device)
            self._power = self._power.to(on.device)
            square = torch.dot(pull, pull) / self._count_scored
            # A loss that is scaled for half precision overflows now and then: such a step says nothing.
            told = square.isfinite()
            power = torch.where(self._power > 0, torch.lerp(square, self._power, MEMORY), square)
            self._power = torch.where(told, power, self._power)
            size = self._power.sqrt().clamp_(min=torch.finfo(pull.dtype).tiny)
            pull = pull * torch.where(told, lr * strength * self.rate / size, 0.0)
            moved -= pull.nan_to_num_(0.0).clamp_(-LONGEST, LONGEST).mul_(pressed > 0)
        torch.add(on, moved, out=moved)
        self._logits.copy_(moved.clamp_(LEAST, 1 - LEAST).logit_())
        self._moved()

    def _hear(self, heard: bool) -> None:
        """Refuse to go on by price alone where the loss never says anything about the gates."""
        if heard or self._draws != self._drawn:
            self._deaf = 0 if heard else self._deaf + 1
        self._drawn = self._draws
        if self._deaf >= DEAF:
            raise UsageError(
                f"the gates of logistic-sigmoid were given no gradient in {self._deaf} steps",
                "the loss's gradient says which units matter; torch.compile leaves the gates out of it, and so does "
                "torch.autograd.grad",
                "train search.model itself, by loss.backward(), or take a strategy that needs no gates with compiled "
                "networks: gamma-l1, group-lasso, taylor or magnitude",
            )

    @torch.no_grad()
    def revive(self, units: Tensor) -> None:
        """Open the gates of units that closed together with more than had to: they all start out alike."""
        back = torch.logit(torch.tensor(min(self.default_threshold + OPEN_AGAIN, 1 - LEAST)))
        self._logits[units.to(self._logits.device)] = back.to(self._logits)
        self._moved()

    @torch.no_grad()
    def scores(self) -> Tensor:
        """`u` float32: P(on); NaN in a network whose parameters are no longer finite, which gates do not tell."""
        chances = torch.sigmoid(self._logits)
        broken = not all_finite(self._spoken)
        return torch.full_like(chances, float("nan")) if broken else chances

    def scored(self) -> Tensor:
        """`u` bool: units that may leave and speak."""
        return self._scored

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Without gates; parameters are as they are."""
        gates = self._gates
        installed = gates is not None and gates.installed
        if gates is not None:
            gates.remove()
        try:
            yield
        finally:
            if gates is not None and installed and gates is self._gates:
                gates.install()

    @torch.no_grad()
    def detach(self) -> None:
        """Fold the gates of evaluation into the parameters, and take them off."""
        if self._gates is not None and self._gates.installed:
            self._follow_device()
            self._gates.remove()
            self._gates.fold((~self._closed()).to(self._logits.dtype))
        self._begun = False

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The logits, the mean square of the gradients, how many draws there were, and whether gates have begun."""
        tensors = {"logits": self._logits.cpu().clone(), "power": self._power.cpu().clone()}
        return tensors, {"draws": self._draws, "begun": self._begun, "progress": self.progress}

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            ValueError: it is of another network.
        """
        if tensors["logits"].numel() != self._logits.numel():
            raise ValueError(f"gates of {tensors['logits'].numel()} units, not {self._logits.numel()}")
        self._logits, self._power = tensors["logits"].clone(), tensors["power"].clone()
        self._heard = torch.zeros_like(self._logits, requires_grad=True)
        self._moved()
        self._draws, self._begun = int(state["draws"]), bool(state["begun"])
        self._drawn, self._deaf = self._draws, 0
        self.progress = float(state.get("progress", 0.0))
        if self._begun and self._gates is not None:
            self._gates.install()
