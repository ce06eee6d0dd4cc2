"""Pieces that the built-in seeds share: a convolution with its norm, and He initialisation."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from morphsearch.errors import UsageError, nearest


def conv_bn(
    in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Convolution without bias, batch norm and, by default, a ReLU. Padded so that stride 1 keeps the size."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        bn=nn.BatchNorm2d(out_channels),
    )
    if relu:
        layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


class HeInitialised(nn.Module):
    """A network whose weights are set by :meth:`init_weights`, correctly at any width.

    He et al., "Delving Deep into Rectifiers" (2015), equation 14: convolution weights are normal with variance
    2 / (k * k * out_channels / groups). Batch norms start at scale 1, the last of a residual branch too: a scale of 0
    there (Goyal et al., 2017) would look like a dead channel to a strategy that reads scales.
    """

    min_input_size = 1
    """The least height and width, in pixels, that the network can take."""

    def init_weights(self) -> None:
        """Set all weights afresh, from the sizes that the layers have now."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels / module.groups
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class GlobalPool(nn.Module):
    """Mean over height and width: `n c h w` to `n c`."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`."""
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


def one_of(name: str, value: object, known: tuple[str, ...]) -> str:
    """`value`, when it is one of the `known` ones.

    Raises:
        UsageError: it is not.
    """
    if value in known:
        return str(value)
    close = nearest(str(value), known)
    raise UsageError(
        f"{name}={value}",
        f"{name} is one of {', '.join(known)}",
        f"did you mean {close[0]}?" if close else f"write {name}={known[0]}",
    )


def positive(name: str, value: float) -> float:
    """`value`, when it is a number above 0.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return value
    raise UsageError(f"{name}={value}", f"{name} is a number above 0", f"write for example {name}=1")


def count(name: str, value: int) -> int:
    """`value`, when it is a whole number above 0.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise UsageError(f"{name}={value}", f"{name} is a whole number above 0", f"write for example {name}=10")
