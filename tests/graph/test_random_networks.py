"""Random small networks of many mechanisms: every one is exact, or frozen with a reason; none fails."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from morphsearch.graph import record
from tests.graph import proofs
from tests.graph.mechanisms import (
    ShuffleUnit,
    SqueezeExcite,
    StandardisedConv2d,
    cbr,
    conv,
    net,
)

# Each takes the channels that arrive and a free number, and returns a module and the channels that leave.
Block = Callable[[int, int], tuple[nn.Module, int]]


def _plain(c: int, n: int) -> tuple[nn.Module, int]:
    return cbr(c, 4 * n), 4 * n


def _residual(c: int, n: int) -> tuple[nn.Module, int]:
    return net(lambda s, x: x + s.b(s.a(x)), a=cbr(c, 2 + n), b=cbr(2 + n, c, 1)), c


def _in_place_residual(c: int, n: int) -> tuple[nn.Module, int]:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.b(s.a(x))
        y += x
        return F.elu(y)

    return net(forward, a=cbr(c, 2 + n), b=conv(2 + n, c, 1)), c


def _depthwise(c: int, n: int) -> tuple[nn.Module, int]:
    return nn.Sequential(cbr(c, c, groups=c), cbr(c, 4 * n, 1)), 4 * n


def _grouped(c: int, n: int) -> tuple[nn.Module, int]:
    return nn.Sequential(cbr(c, 8 * n, groups=(2, 4)[n % 2]), cbr(8 * n, c, 1)), c


def _dense(c: int, n: int) -> tuple[nn.Module, int]:
    return net(lambda s, x: torch.cat([x, s.a(x)], 1), a=cbr(c, 4 * n)), c + 4 * n


def _shuffle(c: int, n: int) -> tuple[nn.Module, int]:
    return ShuffleUnit(c), c


def _halves(c: int, n: int) -> tuple[nn.Module, int]:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.cat([s.a(a), b], 1)

    return net(forward, a=cbr(c // 2, c // 2)), c


def _split(c: int, n: int) -> tuple[nn.Module, int]:
    sizes = [c // 4, c - c // 4]

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        a, b = torch.split(x, sizes, 1)
        return torch.cat([b, s.a(a)], 1)

    return net(forward, a=cbr(c // 4, c // 4)), c


def _squeeze_excite(c: int, n: int) -> tuple[nn.Module, int]:
    return SqueezeExcite(c, 1 + n), c


def _transposed(c: int, n: int) -> tuple[nn.Module, int]:
    return nn.Sequential(nn.ConvTranspose2d(c, 4 * n, 2, stride=2), nn.ReLU(), nn.MaxPool2d(2)), 4 * n


def _space_to_depth(c: int, n: int) -> tuple[nn.Module, int]:
    return nn.Sequential(nn.PixelUnshuffle(2), cbr(4 * c, 4 * n, 1), nn.Upsample(scale_factor=2)), 4 * n


def _pixel_shuffle(c: int, n: int) -> tuple[nn.Module, int]:
    return nn.Sequential(conv(c, 16 * n, 1), nn.PixelShuffle(2), nn.AvgPool2d(2)), 4 * n


def _group_norm(c: int, n: int) -> tuple[nn.Module, int]:
    return nn.Sequential(conv(c, 4 * n), nn.GroupNorm((1, 2, 4)[n % 3], 4 * n), nn.SiLU()), 4 * n


def _layer_norm(c: int, n: int) -> tuple[nn.Module, int]:
    return net(lambda s, x: s.n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), n=nn.LayerNorm(c)), c


def _instance_norm(c: int, n: int) -> tuple[nn.Module, int]:
    return nn.InstanceNorm2d(c, affine=n % 2 == 0), c


def _layer_scale(c: int, n: int) -> tuple[nn.Module, int]:
    gamma = nn.Parameter(torch.rand(c, 1, 1) if n % 2 else torch.rand(1, c, 1, 1))
    return net(lambda s, x: x + s.gamma * s.a(x), a=cbr(c, c), gamma=gamma), c


def _gate(c: int, n: int) -> tuple[nn.Module, int]:
    return net(lambda s, x: x * s.g.sigmoid().view(1, -1, 1, 1), g=nn.Parameter(torch.randn(c))), c


def _twice(c: int, n: int) -> tuple[nn.Module, int]:
    return net(lambda s, x: s.a(s.a(x)), a=cbr(c, c)), c


def _padded(c: int, n: int) -> tuple[nn.Module, int]:
    return net(lambda s, x: s.a(x) + F.pad(x, (0, 0, 0, 0, 2 * n, 2 * n)), a=cbr(c, c + 4 * n)), c + 4 * n


def _functional(c: int, n: int) -> tuple[nn.Module, int]:
    weight = nn.Parameter(torch.randn(4 * n, c, 1, 1))
    return net(lambda s, x: F.conv2d(x, s.w).relu(), w=weight), 4 * n


def _standardised(c: int, n: int) -> tuple[nn.Module, int]:
    return nn.Sequential(StandardisedConv2d(c, 4 * n, 1), nn.ReLU()), 4 * n


def _attention_map(c: int, n: int) -> tuple[nn.Module, int]:
    return net(lambda s, x: x * s.a(x).sigmoid(), a=conv(c, 1)), c


def _cumsum(c: int, n: int) -> tuple[nn.Module, int]:
    return net(lambda s, x: torch.cumsum(x, 1)), c


def _fft(c: int, n: int) -> tuple[nn.Module, int]:
    return net(lambda s, x: x + torch.fft.fft(x, dim=1).real), c


def _divided(c: int, n: int) -> tuple[nn.Module, int]:
    return net(lambda s, x: x * x.shape[1] ** -0.5), c


BLOCKS: tuple[Block, ...] = (
    _plain, _residual, _in_place_residual, _depthwise, _grouped, _dense, _shuffle, _halves, _split, _squeeze_excite,
    _transposed, _space_to_depth, _pixel_shuffle, _group_norm, _layer_norm, _instance_norm, _layer_scale, _gate, _twice,
    _padded, _functional, _standardised, _attention_map, _cumsum, _fft, _divided,
)  # fmt: skip


def _average(c: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 3))


def _written(c: int) -> nn.Module:
    size = c * 4
    return net(
        lambda s, x: s.b(s.a(F.avg_pool2d(x, 4).reshape(x.size(0), size)).relu()),
        a=nn.Linear(size, 7),
        b=nn.Linear(7, 3),
    )


def _several(c: int) -> nn.Module:
    return net(lambda s, x: {"classes": s.a(x), "map": s.b(x)}, a=_average(c), b=conv(c, 2))


def compose(choices: list[tuple[Block, int]], last: Callable[[int], nn.Module]) -> nn.Module:
    channels = 8
    layers: list[nn.Module] = [cbr(3, channels)]
    for block, number in choices:
        layer, channels = block(channels, number)
        layers.append(layer)
    return nn.Sequential(*layers, last(channels))


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from(BLOCKS), st.integers(1, 3)), min_size=1, max_size=5),
    st.sampled_from([_average, _written, _several]),
    st.integers(0, 99),
)
def test_random_network(choices: list[tuple[Block, int]], last: Callable[[int], nn.Module], seed: int) -> None:
    inputs = torch.zeros(2, 3, 8, 8)
    torch.manual_seed(seed)
    graph = record(proofs.in_double(compose(choices, last), seed), inputs)
    mixes = proofs.mixing(graph)
    used = {block for block, _ in choices}
    if not used & {_layer_norm, _group_norm, _standardised, _cumsum, _divided}:
        assert not mixes
    for group in graph.groups.values():
        assert group.frozen is None or group.frozen
    proofs.shrinks_exactly(graph, inputs, seed, skip=mixes)
    proofs.widens_exactly(graph, inputs, skip=mixes)
    proofs.resizes(graph, inputs, 0.5)
    proofs.resizes(graph, inputs, 1.5)
