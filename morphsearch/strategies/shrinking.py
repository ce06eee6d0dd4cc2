"""Proximal operators of norms over the magnitudes of coupled slices."""

from __future__ import annotations

import torch
from torch import Tensor


def shrink_max(magnitudes: Tensor, amounts: Tensor) -> Tensor:
    """Proximal operator of ``amount * max`` on each column of `magnitudes` (`m x k`, non-negative)."""
    if magnitudes.shape[0] == 1:
        return (magnitudes - amounts).clamp_(min=0)
    if magnitudes.shape[0] == 2:  # the usual case of a depthwise block; no sort needed
        level = torch.maximum(magnitudes.amax(0), (magnitudes.sum(0) + amounts) / 2).sub_(amounts).clamp_(min=0)
        return torch.minimum(magnitudes, level)
    descending = magnitudes.sort(dim=0, descending=True).values
    places = torch.arange(1, magnitudes.shape[0] + 1, device=magnitudes.device, dtype=magnitudes.dtype).unsqueeze(1)
    level = ((descending.cumsum(0) - amounts) / places).amax(0).clamp_(min=0)
    return torch.minimum(magnitudes, level)


def shrink_l2(magnitudes: Tensor, amounts: Tensor) -> Tensor:
    """Proximal operator of ``amount * L2 norm`` on each column of `magnitudes` (`m x k`, non-negative)."""
    norms = magnitudes.square().sum(0).sqrt_()
    return magnitudes * (1 - amounts / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp_(min=0)
