"""Whether numbers are numbers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no floating-point tensor holds NaN or infinity: one pass, no copy, one synchronisation."""
    # A sum is finite only where all its terms are; in half precision it could overflow by itself.
    sums = [
        tensor.detach().sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
        for tensor in tensors
        if tensor.is_floating_point()
    ]
    return not sums or bool(torch.stack([total.to(sums[0].device, torch.float32) for total in sums]).isfinite().all())
