"""Small networks, one for each way in which forward code moves, joins or mixes channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Parts(nn.Module):
    """Holds named parts; sizes and functions are plain attributes."""

    def __init__(self, **parts: nn.Module | nn.Parameter | Tensor | int | float) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)


def net(forward: Callable[..., Any], **parts: nn.Module | nn.Parameter | Tensor | int | float) -> nn.Module:
    """A network of named parts whose forward is the function `forward(self, x)`, as if written in a class of its
    own."""
    kind: type[_Parts] = type("Net", (_Parts,), {"forward": forward})
    return kind(**parts)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the spatial size."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def cbr(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(conv(inputs, outputs, kernel, bias=False, **options), nn.BatchNorm2d(outputs), nn.ReLU(True))


def head(channels: int, classes: int = 5) -> nn.Sequential:
    """Global average, flatten, linear."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


@dataclass
class Case:
    """One network with its example inputs.

    Args:
        removable: the least share of all units that must be free.
        exact: every free group shrinks exactly (nothing mixes).
        reason: text that the reasons for freezing or mixing must hold, where there is one.
    """

    build: Callable[[], nn.Module]
    inputs: Any
    removable: float = 0.5
    exact: bool = True
    reason: str = ""


CASES: dict[str, Case] = {}


def case(
    *shape: int, inputs: Any = None, removable: float = 0.5, exact: bool = True, reason: str = ""
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register a factory under its own name."""

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        example = inputs if inputs is not None else torch.zeros(*(shape or (2, 3, 8, 8)))
        CASES[build.__name__] = Case(build, example, removable, exact, reason)
        return build

    return register


# -- chains and joins -------------------------------------------------------------------------------------------------


@case(removable=0.7)
def plain() -> nn.Module:
    return nn.Sequential(cbr(3, 8), cbr(8, 12), head(12))


@case(removable=0.7)
def no_norm() -> nn.Module:
    return nn.Sequential(
        conv(3, 8), nn.GELU(), conv(8, 6), nn.Sigmoid(), nn.MaxPool2d(2), conv(6, 7), nn.Hardswish(), head(7)
    )


@case(removable=0.7)
def residual() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.stem(x)
        x = x + s.b(s.a(x))
        y = s.d(s.c(x)) * 1.0
        y += x
        return s.head(y.relu_())

    return net(forward, stem=cbr(3, 8), a=cbr(8, 5), b=cbr(5, 8), c=cbr(8, 6), d=cbr(6, 8), head=head(8))


@case(removable=0.7)
def dense_concat() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        a = s.a(x)
        b = s.b(a)
        c = s.c(torch.cat([a, b], 1))
        return s.head(s.bn(torch.cat([c, a, b], 1)).relu())

    return net(forward, a=cbr(3, 6), b=cbr(6, 4), c=cbr(10, 5), bn=nn.BatchNorm2d(15), head=head(15))


@case(removable=0.7)
def input_concat() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        a = s.a(x)
        return s.head(s.b(torch.cat([x, a, F.avg_pool2d(x, 3, 1, 1)], 1)))

    return net(forward, a=cbr(3, 6), b=cbr(12, 8), head=head(8))


@case(removable=0.7)
def input_minus_features() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return x - s.c(s.b(s.a(x)))

    return net(forward, a=cbr(3, 6), b=cbr(6, 8), c=conv(8, 3))


@case(removable=0.7)
def unet() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        a = s.a(x)
        b = s.b(F.max_pool2d(a, 2))
        up = F.interpolate(s.up(b), size=a.shape[-2:], mode="bilinear", align_corners=False)
        return s.out(s.c(torch.cat([a, up], 1)))

    return net(
        forward,
        a=cbr(3, 6),
        b=cbr(6, 10),
        up=nn.ConvTranspose2d(10, 7, 2, stride=2),
        c=cbr(13, 8),
        out=conv(8, 2, 1),
    )


# -- grouped
# ------------------------------------------------------------------------------------------------------------


@case(removable=0.7)
def depthwise() -> nn.Module:
    return nn.Sequential(cbr(3, 8), cbr(8, 8, groups=8), cbr(8, 12, 1), cbr(12, 12, 5, groups=12), head(12))


@case(removable=0.5)
def depthwise_multiplier() -> nn.Module:
    return nn.Sequential(cbr(3, 6), cbr(6, 12, groups=6), cbr(12, 8, 1), head(8))


@case(removable=0.4)
def grouped_whole() -> nn.Module:
    return nn.Sequential(cbr(3, 16), cbr(16, 24, groups=8), cbr(24, 8, 1), head(8))


@case(removable=0.4)
def grouped_lockstep() -> nn.Module:
    return nn.Sequential(cbr(3, 16), cbr(16, 12, groups=2), cbr(12, 8, 1), head(8))


@case(removable=0.4)
def grouped_residual() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.stem(x)
        return s.head((x + s.c(s.b(s.a(x)))).relu())

    return net(forward, stem=cbr(3, 8), a=cbr(8, 16, 1), b=cbr(16, 16, groups=4), c=cbr(16, 8, 1), head=head(8))


@case(removable=0.5)
def transposed() -> nn.Module:
    return nn.Sequential(
        cbr(3, 8), nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 6, 3, 1, 1, groups=6), conv(6, 2)
    )


@case(removable=0.1)
def transposed_grouped() -> nn.Module:
    return nn.Sequential(cbr(3, 8), nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2), nn.ReLU(), conv(6, 2))


# -- moving channels
# ----------------------------------------------------------------------------------------------------


def _shuffle(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


@case(removable=0.4)
def channel_shuffle() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        x = _shuffle(s.b(x), 2)
        return s.head(s.d(s.c(x)))

    return net(forward, a=cbr(3, 8), b=cbr(8, 12, 1, groups=2), c=cbr(12, 12, groups=12), d=cbr(12, 8, 1), head=head(8))


class ShuffleUnit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(cbr(half, half, 1), cbr(half, half, groups=half), cbr(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return _shuffle(torch.cat((a, self.branch(b)), 1), 2)


@case(removable=0.5)
def shuffle_units() -> nn.Module:
    return nn.Sequential(cbr(3, 8), ShuffleUnit(8), ShuffleUnit(8), cbr(8, 6), head(6))


@case(removable=0.7)
def halves_apart() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        a, b = s.a(x).chunk(2, 1)
        return s.head(torch.cat([s.b(a), s.c(b)], 1))

    return net(forward, a=cbr(3, 10), b=cbr(5, 6), c=cbr(5, 4), head=head(10))


@case(removable=0.6)
def c2f() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        parts = list(s.a(x).chunk(2, 1))
        parts.append(parts[-1] + s.n(s.m(parts[-1])))
        return s.head(s.out(torch.cat(parts, 1)))

    return net(forward, a=cbr(3, 12), m=cbr(6, 5), n=cbr(5, 6), out=cbr(18, 8, 1), head=head(8))


@case(removable=0.6)
def split_written() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        a, b = torch.split(s.a(x), [4, 8], dim=1)
        return s.head(torch.cat([s.b(a), s.c(b)], 1))

    return net(forward, a=cbr(3, 12), b=cbr(4, 6), c=cbr(8, 5), head=head(11))


@case(removable=0.6)
def slices_written() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(torch.cat([s.b(x[:, :5]), x[:, 5:], s.c(x[:, 3:9])], 1))

    return net(forward, a=cbr(3, 12), b=cbr(5, 6), c=cbr(6, 4), head=head(17))


@case(removable=0.6)
def res2net() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        parts = torch.split(s.a(x), s.width, 1)
        y = s.b(parts[0])
        z = s.c(y + parts[1])
        return s.head(s.d(torch.cat([y, z, parts[2]], 1)))

    return net(forward, a=cbr(3, 12), b=cbr(4, 4), c=cbr(4, 4), d=cbr(12, 7, 1), head=head(7), width=4)


@case(removable=0.6)
def interleaved() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(s.b(torch.cat([x[:, 1::2], x[:, ::2]], 1)).flip(1))

    return net(forward, a=cbr(3, 10), b=cbr(10, 6), head=head(6))


@case(removable=0.7)
def flatten_linear() -> nn.Module:
    return nn.Sequential(cbr(3, 6), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 16, 10), nn.ReLU(), nn.Linear(10, 4))


@case(removable=0.7)
def view_written() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = F.max_pool2d(s.a(x), 2)
        return s.c(F.relu(s.b(x.view(x.size(0), 96))))

    return net(forward, a=cbr(3, 6), b=nn.Linear(96, 10), c=nn.Linear(10, 4))


@case(removable=0.7)
def view_written_minus_one() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = F.max_pool2d(s.a(x), 2)
        return s.c(F.relu(s.b(x.view(-1, 6 * 4 * 4))))

    return net(forward, a=cbr(3, 6), b=nn.Linear(96, 10), c=nn.Linear(10, 4))


@case(removable=0.7)
def view_attribute() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.b(s.a(x).mean((2, 3)).view(-1, s.features))

    return net(forward, a=cbr(3, 6), b=nn.Linear(6, 4), features=6)


@case(2, 8, removable=0.7)
def generator() -> nn.Module:
    def forward(s: nn.Module, z: Tensor) -> Tensor:
        return s.out(s.a(s.fc(z).view(-1, 6, 4, 4)))

    return net(forward, fc=nn.Linear(8, 96), a=cbr(6, 8), out=conv(8, 3))


@case(removable=0.5)
def pixel_shuffle() -> nn.Module:
    return nn.Sequential(cbr(3, 6), conv(6, 16), nn.PixelShuffle(2), nn.ReLU(), conv(4, 3))


@case(removable=0.7)
def pixel_unshuffle() -> nn.Module:
    return nn.Sequential(cbr(3, 4), nn.PixelUnshuffle(2), cbr(16, 8), head(8))


@case(removable=0.7)
def space_to_depth() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        return s.head(s.b(x))

    return net(forward, a=cbr(3, 5), b=cbr(20, 8), head=head(8))


@case(removable=0.7)
def focus_by_view() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, c, h, w = x.shape
        x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).contiguous().view(b, c * 4, h // 2, w // 2)
        return s.head(s.b(x))

    return net(forward, a=cbr(3, 5), b=cbr(20, 8), head=head(8))


@case(removable=0.7)
def channels_last_linear() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x)
        z = s.d(F.gelu(s.c(y.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return s.head(y + z)

    return net(forward, a=cbr(3, 6), c=nn.Linear(6, 10), d=nn.Linear(10, 6), head=head(6))


@case(removable=0.7)
def padded_shortcut() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        y = s.b(x)
        return s.head((y + F.pad(x, (0, 0, 0, 0, 2, 2))).relu())

    return net(forward, a=cbr(3, 6), b=cbr(6, 10), head=head(10))


@case(removable=0.7)
def padded_by_cat() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        y = s.b(x)
        fill = y.new_zeros(y.shape[0], y.shape[1] - x.shape[1], *y.shape[2:])
        return s.head((y + torch.cat([x, fill], 1)).relu())

    return net(forward, a=cbr(3, 6), b=cbr(6, 10), head=head(10))


@case(removable=0.7)
def partial_convolution() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        y, z = torch.split(x, [4, 8], dim=1)
        return s.head(s.c(torch.cat([s.b(y), z], 1)))

    return net(forward, a=cbr(3, 12), b=conv(4, 4), c=cbr(12, 8), head=head(8))


@case(removable=0.7)
def written_over_in_part() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        y = x.clone()
        y[:, :, 1:] += s.b(x)[:, :, :-1]
        y[:, :, ::2, :3] = s.c(x)[:, :, ::2, :3]
        return s.head(s.d(y))

    return net(forward, a=cbr(3, 12), b=conv(12, 12), c=conv(12, 12), d=cbr(12, 8), head=head(8))


@case(removable=0.9)
def written_in_place() -> nn.Module:
    """Up to a channel that is written down."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        y = x.clone()
        y[:, :4] = s.b(x[:, :4])
        return s.head(s.c(y))

    return net(forward, a=cbr(3, 12), b=conv(4, 4), c=cbr(12, 8), head=head(8))


@case(removable=0.7)
def stacked_branches() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(torch.stack([s.b(x), s.c(x)], 1).sum(1))

    return net(forward, a=cbr(3, 6), b=cbr(6, 8), c=cbr(6, 8, 5), head=head(8))


# -- gates, scales and norms
# ---------------------------------------------------------------------------------------------


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.down, self.up = conv(channels, reduced, 1), conv(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


@case(removable=0.7)
def squeeze_excite() -> nn.Module:
    return nn.Sequential(cbr(3, 8), SqueezeExcite(8, 4), cbr(8, 6), head(6))


@case(removable=0.7)
def squeeze_excite_linear() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, c, _, _ = x.size()
        y = s.up(s.down(F.adaptive_avg_pool2d(x, 1).view(b, c)).relu()).sigmoid().view(b, c, 1, 1)
        return s.head(x * y.expand_as(x))

    return net(forward, a=cbr(3, 8), down=nn.Linear(8, 4), up=nn.Linear(4, 8), head=head(8))


@case(removable=0.7)
def layer_scale() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(x + s.gamma * s.b(x))

    return net(forward, a=cbr(3, 8), b=cbr(8, 8), gamma=nn.Parameter(torch.rand(8, 1, 1)), head=head(8))


@case(removable=0.7)
def layer_scale_last() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x).permute(0, 2, 3, 1)
        x = x + s.gamma * s.b(x)
        return s.head(x.permute(0, 3, 1, 2))

    return net(forward, a=cbr(3, 8), b=nn.Linear(8, 8), gamma=nn.Parameter(torch.rand(8)), head=head(8))


@case(removable=0.7)
def layer_scale_viewed() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.head(s.a(x) * s.gamma.view(1, -1, 1, 1))

    return net(forward, a=cbr(3, 8), gamma=nn.Parameter(torch.rand(8)), head=head(8))


@case(removable=0.7)
def layer_scale_view_written() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.head(s.a(x) * s.gamma.reshape(1, 8, 1, 1) + s.beta[None, :, None, None])

    return net(forward, a=cbr(3, 8), gamma=nn.Parameter(torch.rand(8)), beta=nn.Parameter(torch.rand(8)), head=head(8))


@case(removable=0.7)
def learned_gate() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.head(s.a(x) * torch.sigmoid(s.gate) + s.shift)

    return net(
        forward,
        a=cbr(3, 8),
        gate=nn.Parameter(torch.randn(1, 8, 1, 1)),
        shift=nn.Parameter(torch.randn(8, 1, 1)),
        head=head(8),
    )


@case(removable=0.7)
def learned_mask() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.head(s.b(s.a(x) * s.mask + s.where))

    mask, where = nn.Parameter(torch.randn(1, 8, 8, 8)), nn.Parameter(torch.randn(1, 1, 8, 8))
    return net(forward, a=cbr(3, 8), mask=mask, where=where, b=cbr(8, 6), head=head(6))


@case(removable=0.7)
def scalar_scale() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.head(s.a(x) * s.scale * s.one + 0.5)

    return net(
        forward, a=cbr(3, 8), scale=nn.Parameter(torch.tensor(2.0)), one=nn.Parameter(torch.ones(1)), head=head(8)
    )


@case(removable=0.7)
def prelu() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.PReLU(8), conv(8, 6), nn.PReLU(), head(6))


@case(removable=0.7, exact=False, reason="layer norm")
def layer_norm_channels() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        y = s.n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return s.head(s.b(y))

    return net(forward, a=cbr(3, 8), n=nn.LayerNorm(8), b=cbr(8, 6), head=head(6))


@case(removable=0.7, exact=False, reason="layer norm")
def layer_norm_map() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.LayerNorm([8, 8, 8]), nn.ReLU(), cbr(8, 6), head(6))


@case(removable=0.7)
def layer_norm_space() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.LayerNorm([8, 8]), nn.ReLU(), cbr(8, 6), head(6))


@case(removable=0.7, exact=False, reason="mean over channels")
def layer_norm_by_hand() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        u = x.mean(1, keepdim=True)
        v = (x - u).pow(2).mean(1, keepdim=True)
        x = s.weight[:, None, None] * ((x - u) / torch.sqrt(v + 1e-6)) + s.bias[:, None, None]
        return s.head(s.b(x))

    return net(
        forward,
        a=conv(3, 8),
        weight=nn.Parameter(torch.rand(8)),
        bias=nn.Parameter(torch.rand(8)),
        b=cbr(8, 6),
        head=head(6),
    )


@case(removable=0.4)
def group_norm() -> nn.Module:
    return nn.Sequential(
        conv(3, 8), nn.GroupNorm(4, 8), nn.ReLU(), conv(8, 12), nn.GroupNorm(6, 12), nn.ReLU(), head(12)
    )


@case(removable=0.7, exact=False, reason="group norm")
def group_norm_one() -> nn.Module:
    return nn.Sequential(
        conv(3, 8), nn.GroupNorm(1, 8), nn.ReLU(), conv(8, 12), nn.GroupNorm(1, 12, affine=False), head(12)
    )


@case(removable=0.7)
def group_norm_each() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.GroupNorm(8, 8), nn.ReLU(), cbr(8, 6), head(6))


@case(removable=0.4)
def group_norm_plain() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.GroupNorm(4, 8, affine=False), nn.ReLU(), cbr(8, 6), head(6))


@case(removable=0.7)
def instance_norm() -> nn.Module:
    return nn.Sequential(
        conv(3, 8),
        nn.InstanceNorm2d(8, affine=True),
        nn.ReLU(),
        conv(8, 6),
        nn.InstanceNorm2d(6),
        nn.ReLU(),
        conv(6, 7),
        nn.InstanceNorm2d(7, affine=True, track_running_stats=True),
        head(7),
    )


@case(removable=0.7)
def batch_norm_plain() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.BatchNorm2d(8, affine=False), nn.ReLU(), conv(8, 6), nn.BatchNorm2d(6), head(6))


@case(removable=0.7, exact=False, reason="norm")
def l2_normalised() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.b(F.normalize(s.a(x).mean((2, 3)), dim=1))

    return net(forward, a=cbr(3, 8), b=nn.Linear(8, 4))


# -- code
# -----------------------------------------------------------------------------------------------------------------


@case(removable=0.7)
def shared_module() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(s.b(s.b(x)))

    return net(forward, a=cbr(3, 8), b=cbr(8, 8), head=head(8))


@case(removable=0.7)
def shared_head() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> list[Tensor]:
        a = s.a(x)
        b = s.b(a)
        return [s.out(s.tower(s.la(a))), s.out(s.tower(s.lb(b)))]

    return net(
        forward,
        a=cbr(3, 8),
        b=cbr(8, 10, stride=2),
        la=conv(8, 6, 1),
        lb=conv(10, 6, 1),
        tower=cbr(6, 6),
        out=conv(6, 4),
    )


@case(removable=0.7)
def tied_weights() -> nn.Module:
    a, b = conv(8, 8), conv(8, 8)
    b.weight = a.weight
    return nn.Sequential(cbr(3, 8), a, nn.ReLU(), b, nn.ReLU(), head(8))


@case(removable=0.7, inputs={"image": torch.zeros(2, 3, 8, 8), "depth": torch.zeros(2, 1, 8, 8)})
def two_inputs() -> nn.Module:
    def forward(s: nn.Module, image: Tensor, depth: Tensor) -> dict[str, Tensor]:
        y = s.a(image) + s.b(depth)
        return {"classes": s.head(y), "depth": s.c(y)}

    return net(forward, a=cbr(3, 8), b=cbr(1, 8), head=head(8), c=conv(8, 1))


@case(removable=0.7, inputs=(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)))
def siamese() -> nn.Module:
    def forward(s: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        a, b = s.b(s.a(x)), s.b(s.a(y))
        return s.head((a - b).abs()), s.head(torch.maximum(a, b))

    return net(forward, a=cbr(3, 8), b=cbr(8, 6), head=head(6))


@case(removable=0.7)
def functional() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, s.w1, s.b1, padding=1))
        x = F.conv2d(x, s.w2, None, 2, 1)
        return F.linear(F.leaky_relu_(x, 0.1).mean((2, 3)), s.w3, s.b3)

    return net(
        forward,
        w1=nn.Parameter(torch.randn(8, 3, 3, 3)),
        b1=nn.Parameter(torch.randn(8)),
        w2=nn.Parameter(torch.randn(6, 8, 3, 3)),
        w3=nn.Parameter(torch.randn(4, 6)),
        b3=nn.Parameter(torch.randn(4)),
    )


@case(removable=0.7)
def matmul_weight() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return (s.a(x).mean((2, 3)) @ s.w1 + s.b1).relu() @ s.w2.t()

    return net(
        forward,
        a=cbr(3, 8),
        w1=nn.Parameter(torch.randn(8, 6)),
        b1=nn.Parameter(torch.randn(6)),
        w2=nn.Parameter(torch.randn(4, 6)),
    )


@case(removable=0.7)
def in_place() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        y = s.b(x)
        y.mul_(0.5).add_(x).clamp_(min=0)
        return s.head(y)

    return net(forward, a=cbr(3, 8), b=conv(8, 8), head=head(8))


@case(removable=0.7)
def buffers() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = (x - s.mean) / s.std
        return s.head(s.a(x) * s.channel * s.constant)

    return net(
        forward,
        mean=torch.rand(1, 3, 1, 1),
        std=torch.rand(1, 3, 1, 1) + 1,
        channel=torch.rand(8, 1, 1),
        constant=torch.tensor(2.0),
        a=cbr(3, 8),
        head=head(8),
    )


@case(removable=0.7)
def blur_pool() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        x = F.conv2d(x, s.kernel.expand(x.shape[1], -1, -1, -1), stride=2, padding=1, groups=x.shape[1])
        return s.head(s.b(x))

    return net(forward, a=cbr(3, 8), kernel=torch.rand(1, 1, 3, 3), b=cbr(8, 6), head=head(6))


@case(removable=0.7)
def blur_pool_written() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = F.conv2d(s.a(x), s.kernel, stride=2, padding=1, groups=8)
        return s.head(s.b(x))

    return net(forward, a=cbr(3, 8), kernel=torch.rand(8, 1, 3, 3), b=cbr(8, 6), head=head(6))


@case(removable=0.7)
def frozen_filters() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.head(s.b(F.conv2d(s.a(x), s.kernel, padding=1).relu()))

    return net(forward, a=cbr(3, 8), kernel=torch.randn(6, 8, 3, 3), b=cbr(6, 7), head=head(7))


class StandardisedConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        mean, var = w.mean((1, 2, 3), keepdim=True), w.var((1, 2, 3), keepdim=True)
        w = (w - mean) / (var + 1e-5).sqrt()
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class StandardisedByBatchNorm(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0)
        return F.conv2d(x, w.reshape_as(self.weight), self.bias, self.stride, self.padding)


@case(removable=0.5, exact=False, reason="weight")
def weight_standardisation() -> nn.Module:
    return nn.Sequential(StandardisedConv2d(3, 8, 3), nn.ReLU(), StandardisedConv2d(8, 6, 3), nn.ReLU(), head(6))


@case(removable=0.5, exact=False, reason="weight")
def weight_standardisation_by_batch_norm() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.ReLU(), StandardisedByBatchNorm(8, 6, 3), nn.ReLU(), head(6))


@case(removable=0.5)
def scaled_weight() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.head(F.relu(F.conv2d(s.a(x), s.b.weight * s.scale.view(-1, 1, 1, 1), s.b.bias)))

    return net(forward, a=cbr(3, 8), b=conv(8, 6), scale=nn.Parameter(torch.rand(6) + 0.5), head=head(6))


@case(removable=0.0, exact=False, reason="weight")
def summed_weights() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.head(F.relu(F.conv2d(s.a(x), s.b.weight + F.pad(s.c.weight, (1, 1, 1, 1)), padding=1)))

    return net(forward, a=cbr(3, 8), b=conv(8, 6), c=conv(8, 6, 1), head=head(6))


@case(removable=0.5, exact=False, reason="sum over channels")
def control_flow() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        x = s.b(x) if float(x.detach().sum()) > -1e30 else s.c(x)
        return s.head(x)

    return net(forward, a=cbr(3, 8), b=cbr(8, 6), c=cbr(8, 6), head=head(6))


@case(removable=0.5)
def never_called() -> nn.Module:
    return net(
        lambda s, x: s.head(s.a(x)), a=cbr(3, 8), unused=cbr(8, 9), spare=nn.Parameter(torch.randn(4)), head=head(8)
    )


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.aux, self.head = cbr(3, 8), cbr(8, 6), head(8), head(6)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        out = self.head(self.drop(self.b(x)))
        return (out, self.aux(x)) if self.training else out


@case(removable=0.5)
def auxiliary_head() -> nn.Module:
    return Auxiliary()


@case(1, 2, 40, removable=0.7)
def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 8, 3),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 6, 3, groups=2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


@case(1, 2, 6, 8, 8, removable=0.7)
def three_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 8, 3),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.Conv3d(8, 6, 3),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


@case(removable=0.5)
def split_attention() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, rc, h, w = x.shape
        x = x.reshape(b, 2, rc // 2, h, w)
        gap = x.sum(1).mean((2, 3), keepdim=True)
        attention = s.fc2(F.relu(s.fc1(gap))).view(b, 1, 2, -1).transpose(1, 2)
        attention = F.softmax(attention, 1).reshape(b, -1, 1, 1)
        return s.head((x * attention.reshape(b, 2, rc // 2, 1, 1)).sum(1))

    return net(forward, a=cbr(3, 12), fc1=conv(6, 4, 1), fc2=conv(4, 12, 1), head=head(6))


@case(removable=0.5, exact=False, reason="over channels")
def spatial_attention() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        y = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return s.head(x * s.b(y).sigmoid())

    return net(forward, a=cbr(3, 8), b=conv(2, 1), head=head(8))


@case(removable=0.7, exact=False, reason="a convolution over channels")
def eca() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        y = s.b(x.mean((2, 3)).unsqueeze(1)).sigmoid().view(x.shape[0], -1, 1, 1)
        return s.head(x * y)

    return net(forward, a=cbr(3, 8), b=nn.Conv1d(1, 1, 3, padding=1), head=head(8))


# -- not understood
# ---------------------------------------------------------------------------------------------------------


@case(removable=0.0, exact=False, reason="product")
def attention() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, _, h, w = x.shape
        q, k, v = s.qkv(x).flatten(2).chunk(3, 1)
        y = ((q.transpose(1, 2) @ k) * 0.5).softmax(-1)
        return s.head(x + s.proj((v @ y.transpose(1, 2)).view(b, -1, h, w)))

    return net(forward, a=cbr(3, 8), qkv=conv(8, 18, 1), proj=conv(6, 8, 1), head=head(8))


@case(removable=0.7, exact=False, reason="its scale follows from the number of channels")
def fused_attention() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        q, k, v = s.qkv(x).flatten(2).transpose(1, 2).reshape(x.shape[0], 64, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], 64, 8)
        return s.head(x + s.proj(y).transpose(1, 2).reshape(x.shape))

    return net(forward, a=cbr(3, 8), qkv=conv(8, 24, 1), proj=nn.Linear(8, 8), head=head(8))


@case(removable=0.0, exact=False, reason="cumsum")
def cumulative() -> nn.Module:
    return net(lambda s, x: s.head(s.b(torch.cumsum(s.a(x), 1))), a=cbr(3, 8), b=cbr(8, 6), head=head(6))


@case(removable=0.0, exact=False, reason="fft")
def fourier() -> nn.Module:
    return net(lambda s, x: s.head(s.b(torch.fft.fft(s.a(x), dim=1).real)), a=cbr(3, 8), b=cbr(8, 6), head=head(6))


@case(removable=0.9)
def fourier_space() -> nn.Module:
    return net(lambda s, x: s.head(s.b(torch.fft.rfft2(s.a(x)).abs())), a=cbr(3, 8), b=cbr(8, 6), head=head(6))


@case(removable=0.7)
def einsum_linear() -> nn.Module:
    return net(
        lambda s, x: s.head(torch.einsum("nchw,oc->nohw", s.a(x), s.w).relu()),
        a=cbr(3, 8),
        w=nn.Parameter(torch.randn(6, 8)),
        head=head(6),
    )


@case(removable=0.0, exact=False, reason="product")
def einsum_gram() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x).flatten(2)
        return s.out(torch.einsum("ncp,ndp->ncd", x, x).flatten(1))

    return net(forward, a=cbr(3, 8), out=nn.Linear(64, 4))


@case(removable=0.0, exact=False, reason="topk")
def top_channels() -> nn.Module:
    return net(lambda s, x: s.out(torch.topk(s.a(x).mean((2, 3)), 3, 1)[0]), a=cbr(3, 8), out=nn.Linear(3, 4))


@case(removable=0.0, exact=False, reason="sort")
def sorted_channels() -> nn.Module:
    return net(lambda s, x: s.out(torch.sort(s.a(x).mean((2, 3)), 1)[0]), a=cbr(3, 8), out=nn.Linear(8, 4))


@case(removable=0.0, exact=False, reason="over channels")
def maxout() -> nn.Module:
    return net(lambda s, x: s.head(s.b(s.a(x).amax(1, keepdim=True))), a=cbr(3, 8), b=cbr(1, 6), head=head(6))


@case(removable=0.0)
def maxout_pairs() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(s.b(x.view(x.shape[0], -1, 2, 8, 8).amax(2)))

    return net(forward, a=cbr(3, 8), b=cbr(4, 6), head=head(6))


@case(removable=0.0)
def glu() -> nn.Module:
    return net(lambda s, x: s.head(s.b(F.glu(s.a(x), 1))), a=cbr(3, 12), b=cbr(6, 8), head=head(8))


@case(removable=0.0, exact=False, reason="")
def softmax_channels() -> nn.Module:
    return net(lambda s, x: s.head(s.b(s.a(x).softmax(1))), a=cbr(3, 8), b=cbr(8, 6), head=head(6))


@case(removable=0.0, exact=False, reason="")
def local_response() -> nn.Module:
    return nn.Sequential(cbr(3, 8), nn.LocalResponseNorm(3), cbr(8, 6), head(6))


@case(removable=0.0, exact=False, reason="")
def embedding_of_argmax() -> nn.Module:
    return net(
        lambda s, x: s.head(s.e(s.a(x).argmax(1)).permute(0, 3, 1, 2)), a=cbr(3, 8), e=nn.Embedding(8, 6), head=head(6)
    )


@case(removable=0.0, exact=False, reason="")
def cosine() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        a, b = s.a(x), s.b(x)
        return s.out((a * b).sum(1, keepdim=True))

    return net(forward, a=cbr(3, 8), b=cbr(3, 8), out=conv(1, 2))


@case(removable=0.0, exact=False, reason="")
def unfolded_channels() -> nn.Module:
    return net(lambda s, x: s.head(s.b(s.a(x).unfold(1, 4, 2).mean(-1))), a=cbr(3, 8), b=cbr(3, 6), head=head(6))


@case(removable=0.0, exact=False, reason="")
def scattered() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x).clone()
        return s.head(s.b(x.index_add(1, s.where, s.c(x))))

    return net(forward, a=cbr(3, 8), c=conv(8, 3), where=torch.tensor([1, 4, 6]), b=cbr(8, 6), head=head(6))


@case(removable=0.0, exact=False, reason="")
def masked() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(s.b(torch.where(x > 0.3, x, s.c(x)).masked_fill(x < -1, 0.5)))

    return net(forward, a=conv(3, 8), c=conv(8, 8), b=cbr(8, 6), head=head(6))


@case(removable=0.0, exact=False, reason="")
def nonzero_pad() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(s.b(F.pad(x, (1, 1, 1, 1, 2, 0), value=0.7)))

    return net(forward, a=cbr(3, 8), b=cbr(10, 6), head=head(6))


@case(removable=0.0, exact=False, reason="")
def circular_channels() -> nn.Module:
    return net(lambda s, x: s.head(s.b(s.a(x).roll(1, 1) + s.a(x))), a=cbr(3, 8), b=cbr(8, 6), head=head(6))


@case(removable=0.0, exact=False, reason="")
def outer_product() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x).mean((2, 3))
        return s.out((x.unsqueeze(1) * x.unsqueeze(2)).flatten(1))

    return net(forward, a=cbr(3, 6), out=nn.Linear(36, 4))


@case(removable=0.0, exact=False, reason="")
def token_mixer() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x).flatten(2)
        return s.out((x + s.b(x).relu()).mean(2))

    return net(forward, a=cbr(3, 8), b=nn.Linear(64, 64), out=nn.Linear(8, 4))


@case(removable=0.0, exact=False, reason="")
def recurrent() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y, _ = s.lstm(s.a(x).flatten(2).transpose(1, 2))
        return s.out(y[:, -1])

    return net(forward, a=cbr(3, 8), lstm=nn.LSTM(8, 5, batch_first=True), out=nn.Linear(5, 4))


@case(removable=0.0, exact=False, reason="")
def divided_by_count() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(s.b(x / x.shape[1]))

    return net(forward, a=cbr(3, 8), b=cbr(8, 6), head=head(6))


# -- code that sizes itself
# ----------------------------------------------------------------------------------------------------


class ChosenForward(nn.Module):
    """One of several forwards, chosen when it is made; part of the channels is convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sizes = [channels // 4, channels - channels // 4]
        self.conv = conv(channels // 4, channels // 4)
        self.forward = self.by_split  # type: ignore[method-assign]

    def by_split(self, x: Tensor) -> Tensor:
        one, two = torch.split(x, self.sizes, 1)
        return torch.cat([self.conv(one), two], 1)


@case(removable=0.7)
def chosen_forward() -> nn.Module:
    return nn.Sequential(cbr(3, 12), ChosenForward(12), cbr(12, 8), head(8))


class OptionalShortcut(nn.Module):
    """A block whose shortcut may be given from outside, and an assertion about its sizes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.a, self.b = cbr(channels // 2, channels // 2), cbr(channels // 2, channels // 2)

    def forward(self, x: Tensor, shortcut: Tensor | None = None, *, scaled: bool = True) -> Tensor:
        torch._assert(x.shape[1] == 2 * self.half, "wrong channels")
        if shortcut is None:
            shortcut = x
        one, two = x[:, : self.half], x[:, self.half :]
        y = torch.cat([self.a(one), self.b(two)], 1) + shortcut
        return y * 0.5 if scaled else y


@case(removable=0.7)
def optional_arguments() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(s.c(s.b(x, scaled=False), shortcut=x))

    return net(forward, a=cbr(3, 12), b=OptionalShortcut(12), c=OptionalShortcut(12), head=head(12))


@case(removable=0.7)
def slice_beyond() -> nn.Module:
    """A slice up to a width that is written down: no operation until the width grows."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(torch.cat([x, s.b(x)], 1)[:, :16])

    return net(forward, a=cbr(3, 8), b=cbr(8, 8, groups=8), head=head(16))


@case(removable=0.4)
def groups_written() -> nn.Module:
    """Groups written into the call of a convolution."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.head(F.conv2d(s.a(x), s.w, padding=1, groups=8).relu())

    return net(forward, a=cbr(3, 8), w=nn.Parameter(torch.randn(8, 1, 3, 3)), head=head(8))


@case(removable=0.4)
def transposed_groups_written() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.head(F.conv_transpose2d(s.a(x), s.w, stride=2, groups=8).relu())

    return net(forward, a=cbr(3, 8), w=nn.Parameter(torch.randn(8, 1, 2, 2)), head=head(8))


class EvoNorm(nn.Module):
    """EvoNorm S0 (arXiv 2004.02967): a deviation over sets of channels, their number written into the code."""

    def __init__(self, channels: int, sets: int) -> None:
        super().__init__()
        self.sets = sets
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        torch._assert(c % self.sets == 0, "sets of one size")
        grouped = x.reshape(b, self.sets, c // self.sets, h, w)
        deviation = (grouped.var((2, 3, 4), unbiased=False, keepdim=True) + 1e-5).sqrt()
        deviation = deviation.expand(grouped.shape).reshape(b, c, h, w)
        gate = (x * self.v.view(1, -1, 1, 1)).sigmoid()
        return x * gate / deviation * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


@case(removable=0.4)
def evo_norm() -> nn.Module:
    return nn.Sequential(conv(3, 8), EvoNorm(8, 4), conv(8, 12), nn.ReLU(), head(12))


@case(removable=0.9, exact=False, reason="var over channels")
def evo_norm_widths() -> nn.Module:
    """Sets of one channel, of two (which may come to one) and of many, in modules of one type."""
    layers = [[conv(before, width), EvoNorm(width, 4)] for before, width in ((3, 4), (4, 8), (8, 32))]
    return nn.Sequential(*(layer for pair in layers for layer in pair), head(32))


@case(removable=0.7, exact=False, reason="var over channels")
def evo_norm_one() -> nn.Module:
    return nn.Sequential(conv(3, 8), EvoNorm(8, 1), conv(8, 12), nn.ReLU(), head(12))


class Cached(nn.Module):
    """Forward code that keeps what it made in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.grid: Tensor | None = None
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.shape[-1])
        if self.grid is None or self.grid.shape != x.shape[-2:]:
            self.grid = torch.ones(x.shape[-2:], dtype=x.dtype, device=x.device)
        return x * self.grid


@case(removable=0.7)
def cached_grid() -> nn.Module:
    return nn.Sequential(cbr(3, 8), Cached(), cbr(8, 12), head(12))


@case(removable=0.7, exact=False, reason="mean over channels")
def written_by_index() -> nn.Module:
    """Images chosen by the data, worked on and written back in their places."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        bright = torch.where(x.mean((1, 2, 3)) > -1e9)[0]
        y = torch.zeros_like(x)
        y[bright] = s.b(x[bright])
        return s.head(y)

    return net(forward, a=cbr(3, 8), b=cbr(8, 8), head=head(8))
