"""FLOPs and parameters of whole networks, at their own widths and at random ones, against independent counts."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from morphsearch.costs import cost
from morphsearch.graph import record
from morphsearch.models import build_seed
from morphsearch.strategies.widths import scale
from tests import torchvision_shim
from tests.costs.test_flops_operators import fvcore_flops

BUILTIN = {
    "digits_net": (1, 8, 8),
    "mobilenet_v1": (3, 32, 32),
    "resnet20": (3, 32, 32),
    "resnet56": (3, 32, 32),
    "resnet18": (3, 64, 64),
    "resnet50": (3, 64, 64),
    "vgg16_bn": (3, 32, 32),
}


def check(build: Callable[[], nn.Module], shape: tuple[int, ...], seed: int) -> None:
    x = torch.zeros(1, *shape)
    model = build().eval()
    graph = record(model, x)
    assert cost(graph, "flops").total == fvcore_flops(model, x)
    assert cost(graph, "params").total == sum(p.numel() for p in model.parameters())
    rng = np.random.default_rng(seed)
    draw = {name: width * rng.uniform(0.1, 0.9) for name, width in graph.widths.items()}
    widths = scale(graph, 1.0, draw)
    assert widths != graph.widths
    rebuilt = graph.resize(widths).eval()
    flops, params = cost(graph, "flops", widths), cost(graph, "params", widths)
    assert flops.total == fvcore_flops(rebuilt, x)
    assert params.total == sum(p.numel() for p in rebuilt.parameters())
    assert sum(flops.per_layer.values()) == flops.total
    modules = dict(rebuilt.named_modules())
    for layer, count in params.per_layer.items():
        assert count == sum(p.numel() for p in modules[layer].parameters(recurse=False)), layer


@pytest.mark.parametrize("name", BUILTIN)
def test_builtin_seeds(name: str) -> None:
    def build() -> nn.Module:
        return build_seed(name, num_classes=10, input_shape=BUILTIN[name]).model

    check(build, BUILTIN[name], zlib.crc32(name.encode()))


@pytest.mark.parametrize("name", torchvision_shim.CLASSIFIERS)
def test_torchvision(name: str) -> None:
    check(lambda: torchvision_shim.build(name), (3, 64, 64), zlib.crc32(name.encode()))


class ChannelAttention(nn.Module):
    """Attention between channels (arXiv 2111.09881): its map is channels by channels."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.query, self.value = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.key = self.query if shared else nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = (query @ key.transpose(1, 2)).softmax(-1)
        return self.last((weights @ value).view(*x.shape))


def padded(mode: str) -> nn.Module:
    middle = nn.Conv2d(8, 8, 3, padding=(1, 2), padding_mode=mode)
    return nn.Sequential(nn.Conv2d(3, 8, 1), middle, nn.Conv2d(8, 3, 1))


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "channel attention": lambda: ChannelAttention(False),
    "channel attention of a key that is the query": lambda: ChannelAttention(True),
    "circular padding": lambda: padded("circular"),
    "reflected padding": lambda: padded("reflect"),
    "replicated padding": lambda: padded("replicate"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("batch", [1, 2])
def test_all_costs_at_other_widths_are_those_of_the_rebuilt_network(name: str, batch: int) -> None:
    model, x = OTHERS[name]().eval(), torch.rand(batch, 3, 6, 6)
    graph = record(model, x)
    assert len(graph.free) > 1
    rng = np.random.default_rng(batch)
    for _ in range(4):
        widths = {group: int(rng.integers(2, 13)) for group in graph.free}
        rebuilt = graph.resize(widths).eval()
        assert cost(graph, "flops", widths).total == fvcore_flops(rebuilt, x)
        again = record(rebuilt, x)
        for metric in ("flops", "params", "activations", "memory", "memory-training"):
            expected = cost(again, metric).total
            assert cost(graph, metric, widths).total == pytest.approx(expected, rel=1e-12), metric
