"""From saliency to masks: which weights leave, at a sparsity and within a scope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from morphsearch.sparsity.patterns import NofM, Pattern
from morphsearch.sparsity.targets import Weight

SCOPES = ("layer", "tensor", "global")


def masks(
    saliency: Mapping[str, Tensor], weights: Sequence[Weight], pattern: Pattern | NofM, scope: str, sparsity: float
) -> dict[str, Tensor]:
    """Bool tensors in the shape of each weight, True where it leaves.

    Within a scope of n units, ``max(round(n * (1 - sparsity)), tensors)`` units stay: those of largest saliency, and of
    every tensor at least its best one, so that no layer goes dark.

    Args:
        saliency: by parameter name, in the shape of the weight; finite, 0 or more.
        scope: ``"layer"`` ranks the tensors of a module together (several in attention and recurrent layers),
            ``"tensor"`` each one apart, ``"global"`` all together. Says nothing to N:M.
    """
    if isinstance(pattern, NofM):
        return {one.name: pattern.mask(saliency[one.name], one, sparsity) for one in weights}
    groups: dict[str, list[Weight]] = {}
    for one in weights:
        key = {"layer": one.layer, "tensor": one.name, "global": ""}[scope]
        groups.setdefault(key, []).append(one)
    found: dict[str, Tensor] = {}
    for group in groups.values():
        pooled = [pattern.pool(saliency[one.name], one) for one in group]
        leaves = _leaving([units.reshape(-1) for units in pooled], sparsity)
        for one, units, leaving in zip(group, pooled, leaves, strict=True):
            found[one.name] = pattern.spread(leaving.reshape(units.shape), one)
    return found


def _leaving(units: list[Tensor], sparsity: float) -> list[Tensor]:
    """For flat saliencies ranked together: True where a unit leaves. Of equal ones the first stay."""
    if len(units) > 1:
        units = [_first_kept(one) for one in units]
        devices = {one.device for one in units}
        home = units[0].device if len(devices) == 1 else torch.device("cpu")
        together = torch.cat([one.to(home) for one in units])
    else:
        together = units[0]
    total = together.numel()
    keep = max(round(total * (1 - sparsity)), len(units))
    leaving = torch.zeros(total, dtype=torch.bool, device=together.device)
    if keep < total:
        threshold = together.kthvalue(total - keep + 1).values
        leaving = together <= threshold
        # Exactly `keep` stay: of those at the threshold as many as are missing, in the order of the weights.
        ties = (together == threshold).nonzero().squeeze(1)
        missing = keep - int(total - leaving.sum())
        leaving[ties[:missing]] = False
    parts = leaving.split([one.numel() for one in units])
    return [part.to(one.device) for part, one in zip(parts, units, strict=True)]


def _first_kept(units: Tensor) -> Tensor:
    """The best unit of a tensor made better than all of other tensors'."""
    raised = units.clone()
    raised[units.argmax()] = torch.inf
    return raised
