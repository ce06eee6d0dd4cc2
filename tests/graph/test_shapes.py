"""Shapes that are worked out here are those that PyTorch works out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from morphsearch.graph.shapes import quick_shape


class Compare(TorchDispatchMode):
    """Runs everything as usual and notes what the shortcut would have said."""

    def __init__(self) -> None:
        super().__init__()
        self.answered = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        guess = quick_shape(func, args, kwargs)
        truth = func(*args, **kwargs)
        if guess is not None:
            self.answered += 1
            guesses, truths = (v if isinstance(v, tuple) else (v,) for v in (guess, truth))
            assert [(g.shape, g.dtype) for g in guesses] == [(t.shape, t.dtype) for t in truths]
        return truth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [7, 8, 31])
def test_shapes_and_types_agree(dtype: torch.dtype, size: int) -> None:
    x = torch.empty(2, 6, size, size + 1, dtype=dtype, device="meta")
    compare = Compare()
    with compare, torch.no_grad():
        torch.relu(x)
        torch.nn.functional.hardswish(x)
        torch.nn.functional.silu(x, inplace=True)
        x + x, x * 2, x / 3.5, x - x
        x.add_(x)
        for kernel, stride, padding, dilation in (
            (2, 2, 0, 1),
            (3, 2, 1, 1),
            (3, 1, 1, 2),
            ((3, 2), (2, 1), (1, 0), 1),
        ):
            torch.nn.functional.max_pool2d(x, kernel, stride, padding, dilation)
        torch.nn.functional.max_pool2d(x, 3)
        for dims in ((2, 3), (-1,), (1,), (-2, 1)):
            x.mean(dims)
            x.mean(dims, keepdim=True)
    assert compare.answered >= 21


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x + x[:, :1],
        lambda x: x + torch.ones_like(x, dtype=torch.float16),
        lambda x: torch.nn.functional.max_pool2d(x, 3, 2, 1, 1, True),
        lambda x: x.mean(),
        lambda x: x > 0,
    ],
)
def test_what_is_unusual_is_left_to_pytorch(call: Any) -> None:
    x = torch.empty(2, 4, 9, 9, device="meta")
    compare = Compare()
    with compare, torch.no_grad():
        call(x)
    assert compare.answered == 0
