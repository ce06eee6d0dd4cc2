"""Convolutions whose weight is another one for every image: mixed from a bank, or scaled by a style."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.mechanisms import case, cbr, head, net

WEIGHED = "of a fixed number"
DEMODULATED = "sum of the weight"


def of_every_image(x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor:
    """`n c h w` convolved with `n o c/g k k`: all images side by side, as channels."""
    n, c, h, w = x.shape
    rows = weight.shape[1]
    weight = weight.reshape(n * rows, *weight.shape[2:])
    x = F.conv2d(x.reshape(1, n * c, h, w), weight, bias, padding=weight.shape[-1] // 2, groups=n * groups)
    return x.view(n, rows, h, w)


def around(mixed: Callable[[nn.Module, Tensor, Tensor], Tensor], **parts: Any) -> nn.Module:
    """A network with `mixed`, which makes a weight from the attention over four kernels, between two convolutions."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(s.b(mixed(s, x, s.share(x.mean((2, 3))).softmax(1))))

    return net(forward, a=cbr(3, 8), share=nn.Linear(8, 4), b=cbr(6, 12), head=head(12), **parts)


def bank(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


@case(1, 3, 8, 8, removable=0.8, reason=WEIGHED)
def mixed_kernels() -> nn.Module:
    """A mixture of kernels for every image (arXiv 1912.03458), at sizes that are written down."""

    def mixed(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        b, _, h, w = x.shape
        weight = torch.mm(share, s.kernels.view(4, -1)).view(b * 6, 8, 3, 3)
        shift = torch.mm(share, s.shifts).view(-1)
        return F.conv2d(x.reshape(1, -1, h, w), weight, shift, padding=1, groups=b).view(b, 6, h, w)

    return around(mixed, kernels=bank(4, 6, 8, 3, 3), shifts=bank(4, 6))


@case(3, 3, 8, 8, removable=0.8, reason=WEIGHED)
def mixed_kernels_of_several_images() -> nn.Module:
    return mixed_kernels()


@case(removable=0.8, reason=WEIGHED)
def mixed_kernels_by_einsum() -> nn.Module:
    def mixed(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        return of_every_image(x, torch.einsum("bk,koihw->boihw", share, s.kernels))

    return around(mixed, kernels=bank(4, 6, 8, 3, 3))


@case(removable=0.8, reason=WEIGHED)
def mixed_kernels_by_a_sum() -> nn.Module:
    def mixed(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        weight = (share.view(-1, 4, 1, 1, 1, 1) * s.kernels).sum(1)
        return of_every_image(x, weight, torch.einsum("bk,ko->bo", share, s.shifts).reshape(-1))

    return around(mixed, kernels=bank(4, 6, 8, 3, 3), shifts=bank(4, 6))


@case(removable=0.6, reason=WEIGHED)
def mixed_kernels_in_groups() -> nn.Module:
    """The same of two groups."""

    def mixed(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        weight = torch.matmul(share, s.kernels.flatten(1)).view(-1, 6, 4, 3, 3)
        return of_every_image(x, weight, groups=2)

    return around(mixed, kernels=bank(4, 6, 4, 3, 3))


@case(removable=0.8, reason=WEIGHED)
def mixed_kernels_image_by_image() -> nn.Module:
    def mixed(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        weight = F.linear(share, s.kernels.flatten(1).t()).view(-1, *s.kernels.shape[1:])
        pairs = zip(x.split(1), weight.unbind(), strict=True)
        return torch.cat([F.conv2d(one, kernel, padding=1) for one, kernel in pairs])

    return around(mixed, kernels=bank(4, 6, 8, 3, 3))


@case(removable=0.8, reason=WEIGHED)
def mixed_kernels_from_the_left() -> nn.Module:
    def mixed(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        weight = s.kernels.flatten(1).t() @ share.t()
        return of_every_image(x, weight.t().reshape(-1, *s.kernels.shape[1:]))

    return around(mixed, kernels=bank(4, 6, 8, 3, 3))


@case(removable=0.8, reason=WEIGHED)
def mixed_kernels_beside_a_static_one() -> nn.Module:
    def mixed(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        weight = torch.einsum("bk,koihw->boihw", share, s.kernels) * s.mask * s.gain
        return of_every_image(x, weight + s.static)

    parts = {"gain": bank(6, 1, 1, 1), "mask": torch.ones(3, 3).tril()}
    return around(mixed, kernels=bank(4, 6, 8, 3, 3), static=bank(6, 8, 3, 3), **parts)


@case(removable=0.8, reason="by data of a fixed size")
def mixed_kernels_one_by_one() -> nn.Module:
    """The bank is a list of parameters, summed in Python."""

    def mixed(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        kernels = (s.one, s.two, s.three, s.four)
        return of_every_image(x, sum(share[:, k].view(-1, 1, 1, 1, 1) * one for k, one in enumerate(kernels)))

    return around(mixed, **{name: bank(6, 8, 3, 3) for name in ("one", "two", "three", "four")})


@case(removable=0.8, reason=WEIGHED)
def mixed_kernels_where_values_are_read() -> nn.Module:
    """Recorded on real numbers, since the code asks for one."""

    def mixed(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        if float(share.detach().sum()) < 0:
            return x
        return of_every_image(x, (share @ s.kernels).view(x.shape[0], -1, x.shape[1], 3, 3))

    return around(mixed, kernels=bank(4, 6 * 8 * 9))


@case(removable=0.8, reason=WEIGHED)
def mixed_kernels_that_a_style_scales() -> nn.Module:
    def mixed(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        weight = torch.einsum("bk,koihw->boihw", share, s.kernels)
        mean = x.mean((2, 3))
        weight = weight * s.read(mean)[:, None, :, None, None] * s.made(mean)[:, :, None, None, None]
        return of_every_image(x, weight, (s.shift * s.made(mean)).reshape(-1))

    return around(mixed, kernels=bank(4, 6, 8, 3, 3), read=nn.Linear(8, 8), made=nn.Linear(8, 6), shift=bank(6))


@case(removable=0.6, exact=False, reason="by data of a fixed size")
def a_kernel_whose_places_are_weighed() -> nn.Module:
    def mixed(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        weight = s.kernel * s.places(x.mean((2, 3))).view(-1, 1, 1, 3, 3).sigmoid()
        return of_every_image(x, weight)

    return around(mixed, kernel=bank(6, 8, 3, 3), places=nn.Linear(8, 9))


@case(removable=0.7, reason=WEIGHED)
def one_mixed_kernel_for_all_channels() -> nn.Module:
    """A blur that is another one for every image: where one channel is left, it is no weight of that channel."""

    def mixed(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weight = (share @ s.kernels.flatten(1)).view(-1, 1, 3, 3).repeat_interleave(c, 0)
        return s.point(F.conv2d(x.reshape(1, -1, h, w), weight, padding=1, groups=n * c).view(n, c, h, w))

    return around(mixed, kernels=bank(4, 1, 3, 3), point=nn.Conv2d(8, 6, 1))


@case(removable=0.8, exact=False, reason="by which the weight is not zero")
def mixed_kernels_that_are_never_zero() -> nn.Module:
    def mixed(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        return of_every_image(x.sigmoid(), torch.einsum("bk,koihw->boihw", share, s.kernels).exp())

    return around(mixed, kernels=bank(4, 6, 8, 3, 3))


class Experts(nn.Module):
    """Kernels that lie flat in a bank, mixed by routing weights (arXiv 1904.04971)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups = inputs, outputs, groups
        self.weight_shape = (outputs, inputs // groups, kernel, kernel)
        self.bias_shape = (outputs,)
        self.weight = nn.Parameter(torch.randn(4, prod(self.weight_shape)))
        self.bias = nn.Parameter(torch.randn(4, outputs)) if bias else None

    def reset_parameters(self) -> None:
        assert self.weight.shape[1] == prod(self.weight_shape), "it knows its sizes"
        nn.init.normal_(self.weight.view(4, *self.weight_shape))

    def forward(self, x: Tensor, routing: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weight = (routing @ self.weight).view(n * self.out_channels, self.in_channels // self.groups, *self.kernel)
        bias = (routing @ self.bias).view(n * self.out_channels) if self.bias is not None else None
        padding = weight.shape[-1] // 2
        x = F.conv2d(x.reshape(1, n * c, h, w), weight, bias, padding=padding, groups=n * self.groups)
        return x.permute(1, 0, 2, 3).view(n, self.out_channels, x.shape[-2], x.shape[-1])

    @property
    def kernel(self) -> tuple[int, int]:
        return self.weight_shape[2], self.weight_shape[3]


def _experts() -> nn.Module:
    """An inverted residual block whose convolutions are mixed."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.stem(x)
        routing = s.routing(x.mean((2, 3))).sigmoid()
        y = s.bn(s.expand(x, routing)).relu()
        y = s.depthwise(y, routing).relu()
        return s.head(x + s.project(y, routing))

    return net(
        forward,
        stem=cbr(3, 8),
        routing=nn.Linear(8, 4),
        expand=Experts(8, 12, 1, bias=True),
        bn=nn.BatchNorm2d(12),
        depthwise=Experts(12, 12, 3, groups=12),
        project=Experts(12, 8, 1),
        head=head(8),
    )


@case(2, 3, 8, 8, removable=0.8, reason=WEIGHED)
def experts_of_several_images() -> nn.Module:
    return _experts()


@case(1, 3, 8, 8, removable=0.8, reason=WEIGHED)
def experts_of_one_image() -> nn.Module:
    return _experts()


class Modulated(nn.Module):
    """A kernel that a style scales, and that is normalised then (arXiv 1912.04958, section 2.2)."""

    def __init__(self, inputs: int, outputs: int, style: int, demodulate: bool = True, up: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, 3, 3))
        self.style, self.outputs = nn.Linear(style, inputs), outputs
        self.scale = 1 / (inputs * 9) ** 0.5
        self.demodulate, self.up = demodulate, up

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weight = self.scale * self.weight * self.style(style).view(n, 1, c, 1, 1)
        if self.demodulate:
            scale = torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8)
            weight = weight * scale.view(n, self.outputs, 1, 1, 1)
        weight = weight.view(n * self.outputs, c, 3, 3)
        x = x.view(1, n * c, h, w)
        if not self.up:
            return F.conv2d(x, weight, padding=1, groups=n).view(n, self.outputs, h, w)
        weight = weight.view(n, self.outputs, c, 3, 3).transpose(1, 2).reshape(n * c, self.outputs, 3, 3)
        x = F.conv_transpose2d(x, weight, stride=2, groups=n)
        return x.view(n, self.outputs, x.shape[2], x.shape[3])


def styled(**options: Any) -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        style = s.mapping(x.mean((2, 3))).relu()
        x = s.two(s.one(s.a(x), style).relu(), style) + s.noise
        return s.head(x.relu())

    return net(
        forward,
        mapping=nn.Linear(3, 7),
        a=cbr(3, 8),
        one=Modulated(8, 6, 7, **options),
        two=Modulated(6, 10, 7, **options),
        noise=nn.Parameter(torch.randn(1)),
        head=head(10),
    )


@case(removable=0.9)
def modulated() -> nn.Module:
    return styled(demodulate=False)


@case(removable=0.9)
def modulated_and_upsampled() -> nn.Module:
    return styled(demodulate=False, up=True)


@case(removable=0.9, exact=False, reason=DEMODULATED)
def demodulated() -> nn.Module:
    return styled()


@case(1, 3, 8, 8, removable=0.9, exact=False, reason=DEMODULATED)
def demodulated_for_one_image() -> nn.Module:
    return styled(up=True)


@case(removable=0.0, reason="its weight is computed from data")
def kernels_that_a_layer_makes() -> nn.Module:
    """A layer whose output is all elements of a kernel (arXiv 1609.09106): what it reads and writes stays."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(s.b(of_every_image(x, s.maker(x.mean((2, 3))).view(-1, 6, 8, 3, 3))))

    return net(forward, a=cbr(3, 8), maker=nn.Linear(8, 6 * 8 * 9), b=cbr(6, 12), head=head(12))
