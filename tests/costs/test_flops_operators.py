"""FLOPs against fvcore, one kind of operation at a time."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from morphsearch.costs import cost
from morphsearch.graph import record


class Apply(nn.Module):
    """Convolutions, so that there are groups, then a function of their output."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module, channels: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.layers = nn.ModuleList(layers)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x), *self.layers)


with warnings.catch_warnings():
    # fvcore scripts functions as it is imported, which newer releases of torch deprecate.
    warnings.simplefilter("ignore", DeprecationWarning)
    from fvcore.nn import FlopCountAnalysis


def fvcore_flops(model: nn.Module, *inputs: Tensor) -> int:
    """fvcore's count of one image, the network in evaluation mode."""
    return fvcore_total(model, *inputs) // inputs[0].shape[0]


def fvcore_total(model: nn.Module, *inputs: Tensor) -> int:
    """fvcore's count of all that runs in evaluation mode."""
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        total = FlopCountAnalysis(model.eval(), inputs).total()
    return int(total)


def attention(x: Tensor) -> Tensor:
    tokens = x.flatten(2)
    return torch.bmm(torch.bmm(tokens.transpose(1, 2), tokens).softmax(-1), tokens.transpose(1, 2))


def context(x: Tensor, query: nn.Module, key: nn.Module, value: nn.Module, after: nn.Module) -> Tensor:
    """Linear attention: keys times values first, an outer product of channels."""
    q, k, v = (layer(x).flatten(2) for layer in (query, key, value))
    return after(((k.softmax(-1) @ v.transpose(1, 2)).transpose(1, 2) @ q).unflatten(2, x.shape[2:]))


def context_last(x: Tensor, query: nn.Module, key: nn.Module, value: nn.Module, after: nn.Module) -> Tensor:
    """The same with the outer product as the second factor."""
    q, k, v = (layer(x).flatten(2) for layer in (query, key, value))
    given = q.transpose(1, 2) @ (k.softmax(-1) @ v.transpose(1, 2))
    return after(given.transpose(1, 2).unflatten(2, x.shape[2:]))


def context_layers() -> tuple[nn.Module, ...]:
    return tuple(nn.Conv2d(a, b, 1) for a, b in ((8, 6), (8, 6), (8, 10), (10, 5)))


CASES: dict[str, Callable[[], Any]] = {
    "conv": lambda: Apply(lambda x, c: c(x), nn.Conv2d(8, 12, 3, stride=2)),
    "conv 1x1": lambda: Apply(lambda x, c: c(x), nn.Conv2d(8, 12, 1)),
    "conv dilated": lambda: Apply(lambda x, c: c(x), nn.Conv2d(8, 12, (3, 5), dilation=2, padding=(1, 4))),
    "conv depthwise": lambda: Apply(lambda x, c, d: d(c(x)), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 5, 1)),
    "conv depthwise, twice as wide": lambda: Apply(
        lambda x, c, d: d(c(x)), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 5, 1)
    ),
    "conv grouped": lambda: Apply(lambda x, c, d: d(c(x)), nn.Conv2d(8, 12, 3, groups=2), nn.Conv2d(12, 5, 1)),
    "conv 1d": lambda: Apply(lambda x, c: c(x.flatten(2)), nn.Conv1d(8, 6, 3)),
    "conv 3d": lambda: Apply(lambda x, c: c(x.unsqueeze(2)), nn.Conv3d(8, 6, (1, 3, 3))),
    "conv transposed": lambda: Apply(lambda x, c: c(x), nn.ConvTranspose2d(8, 12, 3, stride=2)),
    "conv transposed, grouped": lambda: Apply(lambda x, c: c(x), nn.ConvTranspose2d(8, 12, 3, stride=2, groups=2)),
    "linear": lambda: Apply(lambda x, c: c(x.mean((2, 3))), nn.Linear(8, 5)),
    "linear after flatten": lambda: Apply(lambda x, c: c(x.flatten(1)), nn.Linear(8 * 36, 5)),
    "linear on channels last": lambda: Apply(lambda x, c: c(x.permute(0, 2, 3, 1)), nn.Linear(8, 5)),
    "batch norm": lambda: Apply(lambda x, n: n(x), nn.BatchNorm2d(8)),
    "batch norm without scale": lambda: Apply(lambda x, n: n(x), nn.BatchNorm2d(8, affine=False)),
    "batch norm of the batch's own statistics": lambda: Apply(
        lambda x, n: n(x), nn.BatchNorm2d(8, track_running_stats=False)
    ),
    "group norm": lambda: Apply(lambda x, n: n(x), nn.GroupNorm(4, 8)),
    "group norm without scale": lambda: Apply(lambda x, n: n(x), nn.GroupNorm(4, 8, affine=False)),
    "layer norm": lambda: Apply(lambda x, n: n(x.permute(0, 2, 3, 1)), nn.LayerNorm(8)),
    "layer norm without scale": lambda: Apply(
        lambda x, n: n(x.permute(0, 2, 3, 1)), nn.LayerNorm(8, elementwise_affine=False)
    ),
    "instance norm": lambda: Apply(lambda x, n: n(x), nn.InstanceNorm2d(8, affine=True)),
    "instance norm without scale": lambda: Apply(lambda x, n: n(x), nn.InstanceNorm2d(8)),
    "adaptive average pool": lambda: Apply(lambda x, p: p(x), nn.AdaptiveAvgPool2d(1)),
    "adaptive average pool 3": lambda: Apply(lambda x: nn.functional.adaptive_avg_pool2d(x, (3, 2))),
    "upsample nearest": lambda: Apply(lambda x, u: u(x), nn.Upsample(scale_factor=2)),
    "upsample bilinear": lambda: Apply(lambda x, u: u(x), nn.Upsample(scale_factor=2, mode="bilinear")),
    "grid sample": lambda: Apply(
        lambda x: nn.functional.grid_sample(x, torch.zeros(x.shape[0], 4, 4, 2, device=x.device), align_corners=False)
    ),
    "attention": lambda: Apply(attention),
    "linear attention": lambda: Apply(context, *context_layers()),
    "linear attention, context last": lambda: Apply(context_last, *context_layers()),
    "matmul": lambda: Apply(lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2)),
    "not counted": lambda: Apply(lambda x: nn.functional.max_pool2d(torch.relu(x), 2).mean((2, 3)) + 1),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", [1, 2])
def test_equals_fvcore(case: str, batch: int) -> None:
    model = CASES[case]()
    x = torch.randn(batch, 3, 6, 6)
    assert cost(record(model, x), "flops").total == fvcore_flops(model, x)


@pytest.mark.parametrize("case", CASES)
def test_equals_fvcore_at_other_widths(case: str) -> None:
    model = CASES[case]()
    x = torch.randn(1, 3, 6, 6)
    graph = record(model, x)
    rng = np.random.default_rng(0)
    for _ in range(2):
        widths = {
            name: max(1, rng.integers(1, 2 * group.width) // group.multiple) * group.multiple
            for name, group in graph.groups.items()
            if not group.frozen
        }
        rebuilt = graph.resize(widths)
        assert cost(graph, "flops", widths).total == fvcore_flops(rebuilt, x)
        assert cost(graph, "params", widths).total == sum(p.numel() for p in rebuilt.parameters())


def test_attention_by_einsum_equals_fvcore() -> None:
    model = Apply(lambda x: torch.einsum("abc,abd->acd", x.flatten(2), x.flatten(2)))
    x = torch.randn(1, 3, 6, 6)
    assert cost(record(model, x), "flops").total == fvcore_flops(model, x)


def test_padding_by_word_counts_like_padding_by_number() -> None:
    x = torch.randn(1, 3, 6, 6)
    by_word = Apply(lambda x, c: c(x), nn.Conv2d(8, 12, 3, padding="same"))
    by_number = Apply(lambda x, c: c(x), nn.Conv2d(8, 12, 3, padding=1))
    assert cost(record(by_word, x), "flops") == cost(record(by_number, x), "flops")


def test_einsum_is_counted_exactly() -> None:
    model = Apply(lambda x: torch.einsum("nchw,nchv->nhwv", x, x))
    found = cost(record(model, torch.randn(1, 3, 6, 6)), "flops")
    assert found.per_layer[""] == 8 * 6 * 6 * 6


def test_what_is_not_counted_is_named() -> None:
    model = Apply(lambda x: torch.relu(nn.functional.max_pool2d(x, 2)).flatten(1).clone())
    uncounted = cost(record(model, torch.randn(1, 3, 6, 6)), "flops").uncounted
    assert "relu" in uncounted
    assert any("max_pool2d" in kind for kind in uncounted)
    assert not any(kind in uncounted for kind in ("conv", "view", "flatten", "clone", "reshape", "output"))
