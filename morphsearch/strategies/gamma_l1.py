"""``gamma-l1``: L1 on the scales of the norms, priced by what each unit costs (MorphNet, arXiv 1711.06798).

MorphNet's penalty for one operation is ``C * (A_in * R_out + A_out * R_in)``: `C` its cost per pair of channels, `A`
how many channels are alive, `R` the sum of ``|gamma|`` over a tensor's channels. Collected by unit instead of by
operation, the factor of ``R_u`` is the marginal cost `price_u` of the unit, which comes from the cost model, at the
widths that are alive (the search's default prices a share of the unit's group instead; ``pricing="unit"`` is
MorphNet's). Coupled channels, which share a unit, have the largest of their regularizers, ``R_u = max |gamma_i|`` over
the scales bound to `u`, as in MorphNet. The objective is

    loss + lambda * sum_u price_u * R_u.

The second term is not differentiated but minimised exactly in a proximal step after the optimizer's, with
``t = lr * lambda * price_u``:

    gamma_u <- argmin_z  1/2 ||z - gamma_u||^2 + t * max_i |z_i|  =  sign(gamma_u) * min(|gamma_u|, tau),
    tau = max(0, max_j (a_1 + ... + a_j - t) / j),   a the |gamma_i| in descending order

(Moreau: gamma minus its projection on the L1 ball of radius `t`). A unit with one scale has ``tau = |gamma| - t``: soft
thresholding. Coupled scales are clipped to a common level and so reach zero together, when t exceeds the sum of their
magnitudes. With ``coupling="l2"`` the group norm is ``||gamma_u||_2`` instead, whose proximal operator is
``gamma_u * max(0, 1 - t / ||gamma_u||_2)``: all scales of a unit shrink by the same factor.

Zeros are exact. Momentum is not in the step: with SGD at momentum 0.9 the loss pushes about ten times as far per step
as its learning rate says, so lambda is as much larger than in a formulation by subgradients; the loop's controller
finds it.

Units that no scale is bound to get no penalty and never die here. Units whose scale is at zero may still emit the
constant that the norm's shift lets through; removing them takes that away too, which the next norm's statistics
absorb once they are estimated again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from morphsearch import plugins
from morphsearch.errors import UsageError
from morphsearch.strategies.base import Strategy
from morphsearch.strategies.flat import FlatScales
from morphsearch.strategies.judging import FROZEN_TOO, flag
from morphsearch.strategies.places import places, speaking
from morphsearch.strategies.shrinking import shrink_l2, shrink_max

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

_WITHOUT_SCALES = ("group-lasso", "magnitude", "taylor", "logistic-sigmoid", "uniform", "random")


class GammaL1(Strategy):
    """Priced L1 on the scales of batch, instance, group and layer norms.

    Args:
        threshold: units whose score is at most this are dead.
        coupling: how a unit's scales make one regularizer, ``"max"`` or ``"l2"`` (see the module's docstring).
        relative: divide every score by the largest of its group, so that groups compare in spite of different ranges.

    Raises:
        UsageError: an argument out of range.
    """

    name = "gamma-l1"

    def __init__(self, *, threshold: float = 1e-2, coupling: str = "max", relative: bool = False) -> None:
        if not 0 <= threshold < float("inf"):
            raise UsageError(f"threshold={threshold!r}", "a threshold is zero or more", "0.01 is usual for gamma-l1")
        if coupling not in ("max", "l2"):
            raise UsageError(f"coupling={coupling!r}", "the coupling of scales is 'max' or 'l2'", "leave it at 'max'")
        self.default_threshold = float(threshold)
        self.coupling, self.relative = coupling, flag("relative", relative)
        self._names: list[str] = []
        self._scales = FlatScales([], [])
        self._scored = torch.zeros(0, dtype=torch.bool)
        self._unit_group = torch.zeros(0, dtype=torch.int64)
        self._num_groups = 0

    def attach(self, model: nn.Module, graph: ConvGraph) -> None:
        """Gather the scales bound to units that may leave.

        Raises:
            UsageError: no unit that may leave has a scale; the message names strategies that need none.
        """
        parameters = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
        groups = list(graph.groups.values())
        free_group = np.array([not group.frozen for group in groups], dtype=bool)
        self._names, tensors, units = [], [], []
        for binding in graph.bindings:
            scale = parameters.get(binding.tensor)
            if binding.role != "norm" or scale is None or scale.dim() != 1 or binding.tensor in self._names:
                continue
            owners = np.asarray(binding.units, np.int64)
            owners = np.where((owners >= 0) & free_group[graph.unit_group[owners]], owners, -1)
            if (owners >= 0).any():
                self._names.append(binding.tensor)
                tensors.append(scale)
                units.append(owners)
        if not tensors:
            raise self._nothing_to_do(model, graph, bool(free_group.any()))
        self._scales = FlatScales(tensors, units)
        self._scored = torch.zeros(graph.num_units, dtype=torch.bool, device=self._scales.device)
        self._scored[self._scales.units] = True
        self._unit_group = torch.from_numpy(np.asarray(graph.unit_group, np.int64)).to(self._scales.device)
        self._num_groups = len(groups)
        scored = self._scored.cpu().numpy()
        without = [
            f"{group.name} ({group.width})"
            for index, group in enumerate(groups)
            if not group.frozen and not scored[np.asarray(graph.unit_group) == index].any()
        ]
        self.notes = ()
        if without:
            self.notes = (
                f"gamma-l1 cannot judge {len(without)} of {int(free_group.sum())} groups, since no norm scales them, "
                f"and keeps them whole: {', '.join(without[:5])}{' and others' if len(without) > 5 else ''}",
            )

    def regularized(self) -> set[str]:
        """The names of all scales in use."""
        return set(self._names)

    def penalty(self, prices: Tensor, strength: float) -> Tensor:
        """``lambda * sum_u price_u * R_u``, without gradient: :meth:`after_step` does the work."""
        regularizers = self._regularizers()
        return strength * torch.dot(self._priced(prices), regularizers)

    def after_step(self, prices: Tensor, strength: float, lr: float) -> None:
        """The proximal step of length ``lr * strength * price_u``."""
        if not strength:
            return
        amounts = self._priced(prices) * (lr * strength)
        self._scales.apply(shrink_max if self.coupling == "max" else shrink_l2, amounts)

    def scores(self) -> Tensor:
        """`u` float32: R_u. Units without a scale get the largest score there is (see :meth:`scored`)."""
        known = self._regularizers()
        top = known.max().clamp(min=1.0) if known.numel() else torch.ones(())
        scores = top.expand(self._scored.numel()).clone()
        scores[self._scales.units] = known
        if self.relative:
            best = torch.zeros(self._num_groups, device=scores.device)
            best.scatter_reduce_(0, self._unit_group, scores, "amax")
            scores = scores / best.clamp(min=torch.finfo(scores.dtype).tiny)[self._unit_group]
        return scores

    def scored(self) -> Tensor:
        """`u` bool: units that may leave and have a scale."""
        return self._scored

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Nothing beyond the scales, which are the model's own."""
        return {}, {}

    def _regularizers(self) -> Tensor:
        """`k` float32."""
        return (self._scales.largest() if self.coupling == "max" else self._scales.norms()).float()

    def _priced(self, prices: Tensor) -> Tensor:
        """`k` float32: the prices of the units that have scales."""
        return prices.to(self._scales.device, torch.float32).index_select(0, self._scales.units)

    def _nothing_to_do(self, model: nn.Module, graph: ConvGraph, any_free: bool) -> UsageError:
        if not any_free:
            return UsageError(
                "every group of this network is frozen",
                "gamma-l1 needs units that may leave",
                "run morphsearch verify SEED to see which operation freezes them",
            )
        trained = any(place.tensor.requires_grad for place in speaking(places(model, graph)))
        known = plugins.registry("strategies")
        fits = [name for name in (_WITHOUT_SCALES if trained else FROZEN_TOO) if name in known]
        return UsageError(
            "no unit of this network that may leave has a scale parameter",
            "gamma-l1 regularizes the scales (gamma) of batch, instance, group or layer norms",
            f"use a strategy that needs none: {', '.join(fits)}; or put affine norms after the convolutions",
        )
