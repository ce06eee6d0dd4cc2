"""Networks in single and in double precision, complex numbers among them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def in_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`model` itself with its real numbers in `dtype` and its complex ones in that of two such (``Module.to`` would
    drop their imaginary parts, ``double()`` leave them as they are)."""

    def converted(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(dtype.to_complex())
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    model._apply(converted)
    return model
