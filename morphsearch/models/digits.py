"""A small seed for 8 x 8 digits: trains in seconds, and has a residual stage, depthwise layers and room to shrink."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from morphsearch.models.layers import GlobalPool, HeInitialised, conv_bn, count


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm, added to their input."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(channels, inner)
        self.conv2 = conv_bn(inner, channels, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """`n c h w` to the same."""
        return F.relu(x + self.conv2(self.conv1(x)))


class DigitsNet(HeInitialised):
    """See :func:`digits_net`."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = conv_bn(in_channels, 24)
        self.residual1 = Residual(24, 24)
        self.down = nn.Sequential(conv_bn(24, 24, 3, stride=2, groups=24), conv_bn(24, 48, 1))
        self.residual2 = Residual(48, 32)
        self.mix = nn.Sequential(conv_bn(48, 48, 3, groups=48), conv_bn(48, 64, 1))
        self.pool = GlobalPool()
        self.classifier = nn.Linear(64, num_classes)
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Logits: `n c h w` to `n k`."""
        x = self.residual1(self.stem(x))
        x = self.residual2(self.down(x))
        logits: Tensor = self.classifier(self.pool(self.mix(x)))
        return logits


def digits_net(num_classes: int = 10, *, in_channels: int = 1) -> DigitsNet:
    """A conv net for 8 x 8 images: about 1.2 million multiply-adds and 44,000 parameters.

    Args:
        num_classes: outputs.
        in_channels: colour channels.

    Raises:
        UsageError: an argument is out of range.
    """
    return DigitsNet(count("num_classes", num_classes), count("in_channels", in_channels))
