"""``slimmable``: train one network at many widths, then narrow it step by step where that hurts least.

The first part of the training (``plain``) is as usual. Then units are ordered by magnitude in their group, and every
batch runs not only through the whole network but at ``widths`` others too (the sandwich rule of universally slimmable
networks, Yu and Huang, arXiv 1903.05134, section 3.1): a narrow network, and widths drawn at random, a group each. A
narrow group is the first part of a wider one, so that what is learned at one width serves the others. The narrow ones
learn from the outputs of the whole one (in-place distillation, section 3.2), which needs no labels; they see a quarter
of the batch (``examples``), so that a step costs half as much again as a plain one, and not three times as much.
Beginning with a network that knows something is what Once-for-All does (Cai et al., arXiv 1908.09791, section 3.3).
Draws lie between the whole network and the widths that meet the budget: that is where it will be judged.

Afterwards groups are narrowed greedily by held-out loss per cost, with the statistics of the held-out batch in batch
norms (:mod:`~morphsearch.strategies.greedy`; AutoSlim, arXiv 1903.11728). So a group's width is judged by what the
whole network loses without the units, other groups being as narrow as they have become, and never by the size of
weights.
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
from morphsearch.strategies.base import Phase, Strategy
from morphsearch.strategies.gates import Gates
from morphsearch.strategies.greedy import narrow
from morphsearch.strategies.judging import nothing_to_judge, number_in, one_of, unjudged_groups
from morphsearch.strategies.places import BIAS, SHIFT, PerUnit, places, rows_of, speaking
from morphsearch.strategies.repeating import MATCHES, LastPass
from morphsearch.strategies.widths import lowest_width, step_of

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

SEEDS_APART = 1_000_003
SPREAD = 0.35  # of the logarithm of a group's share around that of the whole draw


class Slimmable(Strategy):
    """Training at many widths, then greedy narrowing by held-out loss.

    Args:
        plain: share of the training in which all units work.
        least: the smallest share of a group that is trained and chosen, as a share of what a uniform scaling to the
            budget would leave.
        parts: a step of narrowing takes the ``1 / parts`` of a group's width.
        widths: how many narrow networks every batch trains: the narrowest, then random ones.
        examples: the share of a batch that narrow networks see, each as part of a pass.
        match: what the network gives: ``classes``, scores of classes along dimension 1, or ``numbers``.
        seed: of the draws.

    Raises:
        UsageError: an argument out of range.
    """

    name = "slimmable"
    presses = False
    live = False

    def __init__(
        self,
        *,
        plain: float = 0.4,
        least: float = 0.4,
        parts: int = 12,
        widths: int = 2,
        examples: float = 0.25,
        match: str = "classes",
        seed: int = 0,
    ) -> None:
        self.plain_share = number_in("plain", plain, 0, 1, "0.4 is usual")
        self.relative_least = number_in("least", least, 0, 1, "0.4 is usual", open_ends=True)
        if not isinstance(parts, int) or isinstance(parts, bool) or parts < 2:
            raise UsageError(f"parts={parts!r}", "parts is a whole number, 2 or more", "12 is usual")
        require_seed(seed)
        if not isinstance(widths, int) or isinstance(widths, bool) or widths < 1:
            raise UsageError(f"widths={widths!r}", "widths is a whole number, 1 or more", "2 is usual")
        self.examples = number_in("examples", examples, 0.01, 1, "0.25 is usual")
        self.parts, self.narrow, self.seed = parts, widths, seed
        self.match = one_of("match", match, MATCHES, self.name)
        self._gates: Gates | None = None
        self._last: LastPass | None = None
        self._draws = 0
        self._rank = torch.zeros(0)
        self._ordered = False
        self._chosen: Tensor | None = None

    @property
    def least(self) -> float:
        """The smallest share of a group that is trained and chosen."""
        return self.relative_least * min(1.0, self.uniform_share)

    @property
    def decided(self) -> bool:  # type: ignore[override]
        """Whether widths were chosen."""
        return self._chosen is not None

    def attach(self, model: nn.Module, graph: ConvGraph) -> None:
        """Find where units speak.

        Raises:
            UsageError: no unit may leave.
        """
        self.detach()
        found = speaking(places(model, graph))
        if not found:
            raise nothing_to_judge(self.name, graph, "parameters to put a gate on")
        self._scored = PerUnit(np.concatenate([place.units for place in found]), graph.num_units).present()
        self.notes = unjudged_groups(self.name, graph, self._scored, "no parameter speaks for them")
        group = np.asarray(graph.unit_group, np.int64)
        self._group, self._places = torch.from_numpy(group), found
        self._order(np.zeros(graph.num_units))
        self._ordered = False
        self._widths = np.array(list(graph.widths.values()), np.int64)
        judged = np.bincount(group[self._scored.cpu().numpy()], minlength=len(graph.groups)) > 0
        self._open = judged & np.array([one.frozen is None for one in graph.groups.values()], bool)
        self._steps = np.array([step_of(one) for one in graph.groups.values()], np.int64)
        self._lowest = np.array([min(lowest_width(one), one.width) for one in graph.groups.values()], np.int64)
        self._device = found[0].tensor
        self._draws, self._now, self._chosen = 0, None, None
        self._gates, self._last = (
            Gates(model, found, graph.num_units, self._source),
            LastPass(model, self.match, self.examples),
        )
        self._gates.install()
        self._last.install()

    def _order(self, worth: np.ndarray) -> None:
        """Rank the units of every group, best first."""
        group = self._group.cpu().numpy()
        order = np.lexsort((-worth, group))
        starts = np.searchsorted(group[order], group[order])
        rank = np.empty(group.size, np.int64)
        rank[order] = np.arange(group.size) - starts
        self._rank = torch.from_numpy(rank)

    # -- gates ---------------------------------------------------------------------------------------------------------

    _now: Tensor | None = None  # `g` widths at which the network runs, None for all units

    def _source(self, model: nn.Module) -> Tensor | None:
        training = model.training and torch.is_grad_enabled()
        repeating = self._last is not None and self._last.repeating
        return self._gate(self._now) if repeating or not training else None

    def _gate(self, widths: Tensor | None) -> Tensor | None:
        """`u` gates, 1 for the first units of every group."""
        if widths is None:
            return None
        device = self._device.device
        if self._rank.device != device:
            self._rank, self._group = self._rank.to(device), self._group.to(device)
        return (self._rank < widths.to(device, non_blocking=True)[self._group]).float()

    def _draw(self, least: bool) -> Tensor:
        """`g` widths for one pass: the narrowest, or random ones."""
        rng = np.random.default_rng([self.seed % SEEDS_APART, self._draws])
        self._draws += 1
        share = np.full(self._widths.size, self.least)
        if not least:
            whole = rng.uniform(min(1.0, self.uniform_share), 1.0)
            share = whole * np.exp(SPREAD * rng.standard_normal(self._widths.size))
        return torch.from_numpy(self._legal(share.clip(self.least, 1.0) * self._widths))

    def _legal(self, wanted: np.ndarray) -> np.ndarray:
        widths = np.rint(wanted / self._steps).astype(np.int64) * self._steps
        legal: np.ndarray = np.where(self._open, widths.clip(self._lowest, self._widths), self._widths)
        return legal

    # -- what the loop calls -------------------------------------------------------------------------------------------

    def penalty(self, prices: Tensor, strength: float) -> Tensor:
        """Scalar: how far the narrow networks are from the whole one on this batch, summed; 0 in the plain part."""
        last = self._last
        if last is None or not last.kept or not self._ordered:
            return torch.zeros((), device=self._device.device)
        losses = []
        try:
            for number in range(self.narrow):
                self._now = self._draw(least=number == 0)
                losses.append(last.again())
        finally:
            self._now = None
            last.forget()
        return torch.stack(losses).sum()

    def after_step(self, prices: Tensor, strength: float, lr: float) -> None:
        """Begin to train narrow networks once the plain part is over."""
        if not self._ordered and self.progress >= self.plain_share:
            self._order(self._worth())
            self._ordered = True

    @torch.no_grad()
    def _worth(self) -> np.ndarray:
        """`u`: the size of the parameters through which a unit speaks, over the mean of its layer."""
        units, sizes = [], []
        for place in self._places:
            if place.kind not in (SHIFT, BIAS):
                size = torch.linalg.vector_norm(rows_of(place.tensor.detach(), place.dim).float(), dim=1)
                sizes.append((size / size.mean().clamp(min=torch.finfo(size.dtype).tiny)).cpu())
                units.append(place.units)
        if not units:
            return np.zeros(self._group.numel())
        worth: np.ndarray = PerUnit(np.concatenate(units), self._group.numel()).mean(torch.cat(sizes)).double().numpy()
        return worth

    def run_phase(self, context: Phase) -> None:
        """Narrow greedily until the budget is met."""
        names = list(context.widths)
        place = {name: position for position, name in enumerate(names)}

        def loss(widths: Mapping[str, int]) -> float:
            self._now = torch.tensor([widths[name] for name in names])
            try:
                return context.loss()
            finally:
                self._now = None

        def below(floor: float) -> Any:
            def step(name: str, width: int) -> int | None:
                at = place[name]
                if not self._open[at]:
                    return None
                size = int(np.lcm(self._steps[at], context.round_to))
                whole = int(self._widths[at])
                amount = max(size, round(whole / self.parts / size) * size)
                lower = (width - 1) // size * size if width % size else width - amount
                least = max(int(self._lowest[at]), int(np.ceil(floor * whole / size)) * size)
                return lower if lower >= least else None

            return step

        widths: dict[str, int] = dict(context.widths)
        for floor in (self.least, 0.0):  # below what was trained only where nothing else meets the budget
            widths, count = narrow(widths, below(floor), loss, context.load, context.fits, on_step=context.on_step)
            context.evaluations += count
            if context.fits(widths):
                break
        self._chosen = torch.tensor([widths[name] for name in names])

    def scores(self) -> Tensor:
        """`u` float32 in (0, 1]: 1 for the first unit of a group, less for those behind it; NaN in a broken network."""
        whole = torch.from_numpy(self._widths).to(self._rank.device)[self._group]
        broken = not all_finite(place.tensor for place in self._places)
        return torch.full_like(whole, float("nan"), dtype=torch.float32) if broken else 1.0 - self._rank / whole

    def scored(self) -> Tensor:
        """`u` bool: units that may leave and speak."""
        return self._scored

    def alive(self, threshold: float) -> Tensor:
        """`u` bool: all units, until widths are chosen."""
        if self._chosen is None:
            return torch.ones_like(self._scored)
        return (self._rank.cpu() < self._chosen[self._group.cpu()]) | ~self._scored

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Without gates; parameters are as they are."""
        gates = self._gates
        last = self._last
        if gates is not None and last is not None:
            gates.remove()
            last.remove()
        try:
            yield
        finally:
            if gates is not None and last is not None and gates is self._gates:
                gates.install()
                last.install()

    def detach(self) -> None:
        """Take the gates off; parameters are as they are."""
        if self._gates is not None and self._last is not None:
            self._gates.remove()
            self._last.remove()
        self._gates = self._last = None

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The order of the units, whether they are ordered yet, the number of draws, and the widths chosen."""
        tensors = {"rank": self._rank.cpu().clone()}
        if self._chosen is not None:
            tensors["chosen"] = self._chosen.clone()
        return tensors, {"draws": self._draws, "ordered": self._ordered, "progress": self.progress}

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            ValueError: it is of another network.
        """
        if tensors["rank"].numel() != self._rank.numel():
            raise ValueError(f"an order of {tensors['rank'].numel()} units, not {self._rank.numel()}")
        self._rank, self._draws = tensors["rank"].clone(), int(state["draws"])
        self._ordered, self.progress = bool(state["ordered"]), float(state["progress"])
        self._chosen = tensors["chosen"].clone() if "chosen" in tensors else None
