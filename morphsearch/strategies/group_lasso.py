"""``group-lasso``: units whose rows of weights reach zero leave; for networks without norms.

Sources: MorphNet, arXiv 1711.06798; Wen et al. 2016, arXiv 1608.03665; Yuan & Lin 2006.

A member `m` of unit `u` is one layer's row of it: `d` weights and, where the layer has one, the bias, which a unit must
lose too before its removal changes nothing. MorphNet's regularizer of a row is

    (1 - f) ||w||_2 / sqrt(d)  +  f ||w||_1 / d,            f = l1_fraction.

Both parts are of the size of one weight. With ``relative`` (the default) they are divided by `c`, the layer's own root
mean square when the morph began, so that layers compare in spite of different fan-in (the weights of the adaptive group
lasso, Wang & Leng 2008); ``relative=False`` is MorphNet's. Coupled members: the first part is the largest of theirs, as
in MorphNet, and the second the mean of theirs:

    R_u = (1 - f) max_m ||w_m||_2 / (c_m sqrt(d_m))  +  f mean_m ||w_m||_1 / (c_m d_m),

    loss + lambda * sum_u price_u R_u.

As in ``gamma-l1`` the second term is minimised exactly in a proximal step after the optimizer's, of length
``t = lr * lambda * price_u``, here in the metric in which every row counts as one number, so that `R_u` falls by `t`
whatever `d` is:

    w_u <- argmin_z  sum_m ||z_m - w_m||^2 / (2 c_m^2 d_m)  +  t R_u(z).

Its solution takes two steps: soft thresholding of every weight by ``t f c_m / M`` (`M` members), then scaling each row
so that the numbers ``||w_m||_2 / (c_m sqrt(d_m))`` undergo the step of ``gamma-l1`` with ``t (1 - f)``. (In the plain
metric this is the same as a weight of `d` on `R_u`, Yuan & Lin's ``sqrt(d) ||w||_2``.) Zeros are exact.

Rows whose output goes straight into a norm with a scale have no size of their own, since the norm divides it out:
pressed, they would only grow noisy. There the norm's scale stands for the row (``d = 1``, no shift), so on a network
with norms everywhere this is ``gamma-l1`` on relative scales. The best unit of every group is not pressed.

Without norms the size of a layer is the size of its signal, and rows that begin equal would shrink to nothing
together. So with ``balance`` (the default) a layer's rows are multiplied, after the step, by what brings their sum of
squares back to what it was before it: what weak rows lose, strong ones gain, and the signal passes. Scales of norms are
left as they are.

`every` = k takes the step at every k-th step of the optimizer with k times the length; a step costs two passes over the
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from morphsearch.errors import UsageError
from morphsearch.strategies.base import Strategy
from morphsearch.strategies.flat import FlatScales
from morphsearch.strategies.judging import Spared, flag, nothing_to_judge, number_in, unjudged_groups
from morphsearch.strategies.places import BIAS, ROWS, SCALE, PerUnit, Place, places, rows_of, speaking
from morphsearch.strategies.shrinking import shrink_max

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph


GAIN = 1.1  # rows grow at most so many times in a step to make up for what others lost


@dataclass(frozen=True, eq=False)
class Member:
    """One layer's rows, with its bias where it has one, or the scale of a norm."""

    place: Place
    bias: Place | None

    @property
    def tensors(self) -> list[Place]:
        """Rows, then bias."""
        return [self.place] if self.bias is None else [self.place, self.bias]

    @property
    def size(self) -> int:
        """`d`."""
        rows = self.place.tensor.numel() // max(1, self.place.units.size)
        return rows + (self.bias is not None)


class GroupLasso(Strategy):
    """Priced group lasso on the rows of layers.

    Args:
        l1_fraction: `f`, the share of the L1 part, 0 to 1.
        threshold: units whose score is at most this are dead.
        relative: weigh every layer by its root mean square at the start of the morph.
        balance: a layer's rows keep their sum of squares: what some lose, others gain.
        every: steps of the optimizer from one proximal step to the next.

    Raises:
        UsageError: an argument out of range.
    """

    name = "group-lasso"

    def __init__(
        self,
        *,
        l1_fraction: float = 0.0,
        threshold: float = 1e-2,
        relative: bool = True,
        balance: bool = True,
        every: int = 1,
    ) -> None:
        self.fraction = number_in("l1_fraction", l1_fraction, 0, 1, "0 is the group lasso alone, 0.5 usual")
        self.default_threshold = number_in("threshold", threshold, 0, float("inf"), "0.01 is usual for group-lasso")
        self.relative = flag("relative", relative)
        self.balance = flag("balance", balance)
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise UsageError(f"every={every!r}", "every is a whole number of steps, 1 or more", "leave it at 1")
        self.every = every
        self._members: list[Member] = []
        self._pending, self._steps = 0.0, 0
        self._sizes: Tensor | None = None

    def attach(self, model: nn.Module, graph: ConvGraph) -> None:
        """Find the rows, and the scales that stand for some.

        Raises:
            UsageError: no unit that may leave has either.
        """
        self._bind(model, graph)
        self._sizes, self._pending, self._steps = None, 0.0, 0

    def _bind(self, model: nn.Module, graph: ConvGraph) -> None:
        found = speaking(places(model, graph))
        biases = {place.layer: place for place in found if place.kind == BIAS}
        self._members = [
            Member(place, biases.get(place.layer) if place.kind == ROWS else None)
            for place in found
            if place.kind in (ROWS, SCALE) and place.tensor.requires_grad
        ]
        if not self._members:
            raise nothing_to_judge(self.name, graph, "rows of weights or a scale that is trained", trained=True)
        units = [member.place.units for member in self._members]
        self._lengths = [part.size for part in units]
        self._units = PerUnit(np.concatenate(units), graph.num_units)
        self._scored = self._units.present()
        self._levels = torch.zeros(sum(self._lengths))
        self._flat = FlatScales([self._levels], [np.concatenate(units)])
        self._spared = Spared(graph)
        self.notes = unjudged_groups(self.name, graph, self._scored, "no rows of theirs are trained")

    # -- what the loop calls -------------------------------------------------------------------------------------------

    def regularized(self) -> set[str]:
        """The names of all rows, biases and scales in use."""
        return {place.name for member in self._members for place in member.tensors}

    def penalty(self, prices: Tensor, strength: float) -> Tensor:
        """``lambda * sum_u price_u * R_u``, without gradient: :meth:`after_step` does the work."""
        if not strength:
            return torch.zeros((), device=self._members[0].place.tensor.device)
        scores = self.scores()
        priced = prices.to(scores.device, scores.dtype) * self._scored.to(scores.device)
        return strength * torch.dot(priced, scores)

    @torch.no_grad()
    def after_step(self, prices: Tensor, strength: float, lr: float) -> None:
        """The proximal step of length ``lr * strength * price_u``, at every `every`-th call for all since the last."""
        self._pending += lr * strength
        self._steps += 1
        if self._steps % self.every or not self._pending:
            return
        sizes = self._reference()
        device = sizes.device
        amounts = prices.to(device, torch.float32) * self._pending
        self._pending = 0.0
        before = whole = self._norms() / sizes
        if self.fraction:
            self._threshold_weights(amounts * self.fraction, sizes)
            before = self._norms() / sizes
        self._move_to(device)
        self._levels.copy_(before)
        amounts = self._spare(amounts, self._units.largest(before)) * (1 - self.fraction)
        self._flat.apply(shrink_max, amounts.index_select(0, self._flat.units))
        after = self._levels
        if self.balance:
            after = after * self._gains(whole, after)
        self._scale(after / before.clamp(min=torch.finfo(before.dtype).tiny))

    @torch.no_grad()
    def scores(self) -> Tensor:
        """`u` float32: R_u. Units without rows have 0 (see :meth:`scored`)."""
        sizes = self._reference()
        scores = self._units.largest(self._norms() / sizes)
        if self.fraction:
            weighed = torch.cat([self._sums(member) for member in self._members]) / (
                sizes * self._roots.to(sizes.device)
            )
            scores = (1 - self.fraction) * scores + self.fraction * self._units.mean(weighed)
        return scores

    def scored(self) -> Tensor:
        """`u` bool: units that may leave and have rows."""
        return self._scored

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Every layer's `c` and `d` as they were when the morph began, and what is left of a step that is due."""
        self._reference()  # what a resumed morph goes on with is what this one goes on with
        known = {m.place.name: list(pair) for m, pair in zip(self._members, self._begun(), strict=True)}
        return {}, {"layers": known, "pending": self._pending, "steps": self._steps}

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`, on the same layers at any widths.

        Raises:
            ValueError: it is of another network.
        """
        names = [member.place.name for member in self._members]
        missing = sorted(set(names) - set(state["layers"]))
        if missing:
            raise ValueError(f"it knows nothing of {missing[0]}")
        pairs = [state["layers"][name] for name in names]
        self._begin([(float(mean), int(size)) for mean, size in pairs])
        self._pending, self._steps = float(state["pending"]), int(state["steps"])

    # -- arithmetic ----------------------------------------------------------------------------------------------------

    def _reference(self) -> Tensor:
        """`k` float32: ``c_m sqrt(d_m)`` of every row; taken when it is first asked for, after weights were loaded."""
        if self._sizes is None:
            self._begin(self._begun())
        assert self._sizes is not None
        device = self._members[0].place.tensor.device
        if self._sizes.device != device:
            self._sizes = self._sizes.to(device)
        return self._sizes

    @torch.no_grad()
    def _begun(self) -> list[tuple[float, int]]:
        """For every member `c`, the root mean square of its units that are not zero (1 unless relative), and `d`."""
        if self._sizes is not None:
            return self._known
        known = []
        for member in self._members:
            mean = 1.0
            if self.relative:
                squares = self._norm(member).square()[torch.from_numpy(member.place.units >= 0)] / member.size
                squares = squares[squares > 0]
                mean = float(squares.mean().sqrt()) if squares.numel() else 1.0
            known.append((mean, member.size))
        return known

    def _begin(self, known: list[tuple[float, int]]) -> None:
        # `d` stays too when columns leave: these were zero, and nothing about the row has changed.
        self._known = known
        counts = torch.tensor(self._lengths)
        self._roots = torch.tensor([float(size) ** 0.5 for _, size in known]).repeat_interleave(counts)
        self._sizes = torch.tensor([mean for mean, _ in known]).repeat_interleave(counts) * self._roots

    def _norm(self, member: Member) -> Tensor:
        """`n`: the L2 norm of every row."""
        weight = member.place.tensor.detach()
        if weight.dim() == 1:
            return weight.float().abs()
        norm: Tensor = torch.linalg.vector_norm(rows_of(weight, member.place.dim).float(), dim=1)
        return norm if member.bias is None else torch.hypot(norm, member.bias.tensor.detach().float())

    def _norms(self) -> Tensor:
        """`k`: of all members."""
        return torch.cat([self._norm(member) for member in self._members])

    def _sums(self, member: Member) -> Tensor:
        """`n`: the L1 norm of every row."""
        total: Tensor = rows_of(member.place.tensor.detach(), member.place.dim).float().abs().sum(1)
        return total if member.bias is None else total + member.bias.tensor.detach().float().abs()

    def _spare(self, amounts: Tensor, levels: Tensor) -> Tensor:
        """`u`: `amounts`, but nothing for the best unit of each group, which a group cannot do without."""
        return amounts.index_fill(0, self._spared.best(levels), 0.0)

    def _gains(self, before: Tensor, after: Tensor) -> Tensor:
        """`k`: what brings the sum of squares of every layer's rows back to what it was; 1 for scales of norms."""
        squares = torch.stack([before.square(), after.square()])
        gains = []
        for part, member in zip(squares.split(self._lengths, 1), self._members, strict=True):
            if member.place.kind == SCALE:
                gains.append(part.new_ones(part.shape[1]))
            else:
                was, now = part.sum(1)
                gains.append((was / now.clamp(min=1e-30)).sqrt().clamp(1, GAIN).expand(part.shape[1]))
        return torch.cat(gains)

    def _threshold_weights(self, amounts: Tensor, sizes: Tensor) -> None:
        """Soft thresholding of every weight by ``amount * c_m / M``; the best unit of a group aside."""
        levels = self._units.largest(self._norms() / sizes)
        amounts = self._spare(amounts, levels) / self._units.number.clamp(min=1)
        for member, (mean, _) in zip(self._members, self._known, strict=True):
            units = torch.from_numpy(member.place.units).to(amounts.device)
            by_row = torch.where(units >= 0, amounts[units.clamp(min=0)], 0.0) * mean
            for place in member.tensors:
                limit = by_row.view(place.shape()).to(place.tensor.dtype)
                place.tensor.sub_(place.tensor.detach().clamp(-limit, limit))

    def _move_to(self, device: torch.device) -> None:
        if self._levels.device != device:
            self._levels = self._levels.to(device)
            self._flat.parameters[0] = self._levels

    def _scale(self, factors: Tensor) -> None:
        """Multiply every row."""
        parts = factors.split(self._lengths)
        tensors: list[Tensor] = []
        by: list[Tensor] = []
        for member, part in zip(self._members, parts, strict=True):
            for place in member.tensors:
                tensors.append(place.tensor)
                by.append(part.view(place.shape()).to(place.tensor.dtype))
        torch._foreach_mul_(tensors, by)
