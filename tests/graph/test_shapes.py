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
            facts = [[(t.shape, t.dtype, t.stride()) for t in tensors] for tensors in (guesses, truths)]
            assert facts[0] == facts[1]
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
        lambda x: x * torch.empty_like(x[:, :1, :1]).contiguous(),
        lambda x: torch.empty_like(x[:, :1, :1, :1]).contiguous() - x,
        lambda x: x / torch.empty(x.shape[-1], device="meta"),
        lambda x: x.mul_(torch.empty(x.shape[1], 1, 1, device="meta")),
        lambda x: torch.cat([x, x, x[:, :, :2].contiguous()], 2),
        lambda x: torch.cat((x, x), -3),
        lambda x: torch.stack([x, x], -1),
        lambda x: torch.nn.functional.avg_pool2d(x, 2),
        lambda x: torch.nn.functional.avg_pool2d(x, (3, 2), (2, 1), (1, 0)),
        lambda x: x.softmax(1),
        lambda x: x.softmax(-1),
        lambda x: x.cumsum(2),
        lambda x: x**2,
        lambda x: x.pow(0.5),
        lambda x: (x.sin(), x.rsqrt(), -x),
        lambda x: torch.linalg.vector_norm(x, 2, -1, True),
        lambda x: x.permute(0, 3, 1, 2).norm(2.0, [2], True),
        lambda x: torch.linalg.vector_norm(x.transpose(1, 2), 1, (1, 3)),
        lambda x: x.flatten(0, 1) @ x.flatten(0, 1).transpose(1, 2),
        lambda x: x[0, 0] @ x[0, 0].T,
        lambda x: x.clone(),
        lambda x: x.permute(0, 2, 3, 1).contiguous(),
        lambda x: x[torch.zeros(3, 2, dtype=torch.int64, device="meta")],
        lambda x: x + x[:, :1],
        lambda x: x[:, :, 1:, 2:] * x[0, 0, 1:, 2:],
        lambda x: x[:, :, 1:] - x[:, :, 1:].transpose(1, 2).contiguous().transpose(1, 2)[..., :1],
        lambda x: torch.cat([x[:, :, 1:], x], 2),
        lambda x: torch.cat([x, x.transpose(2, 3)], 1),
        lambda x: torch.cat([x[0].transpose(1, 2), x[0, :, 1:]], 1),
        lambda x: torch.cat([x[0, :, :1].transpose(0, 1), x[0].transpose(1, 2)[:1]], 1),
        lambda x: x[0, 0][:, torch.zeros(3, 2, dtype=torch.int64, device="meta")],
        lambda x: x[0][:, :, torch.zeros(5, dtype=torch.int64, device="meta")],
        lambda x: x.index_select(2, torch.zeros(5, dtype=torch.int64, device="meta")),
    ],
)
def test_strides_agree_too(call: Any) -> None:
    x = torch.empty(2, 4, 9, 9, device="meta")
    compare = Compare()
    with compare, torch.no_grad():
        call(x)
    assert compare.answered >= 1


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x[:, :1] + x,
        lambda x: x.transpose(2, 3) * torch.empty(x.shape[1], 1, 1, device="meta"),
        lambda x: torch.cat([x.transpose(2, 3), x.transpose(2, 3)]),
        lambda x: x.transpose(1, 3).sin(),
        lambda x: x.transpose(1, 3).clone(),
        lambda x: x[:, torch.zeros(3, dtype=torch.int64, device="meta")],
        lambda x: torch.cat([x.to(memory_format=torch.channels_last)[:, :, 1:]] * 2, 1),
        lambda x: torch.stack([x.transpose(2, 3), x.transpose(2, 3)]),
        lambda x: torch.nn.functional.avg_pool2d(x, 2, ceil_mode=True),
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
