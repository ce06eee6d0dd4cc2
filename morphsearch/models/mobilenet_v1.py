"""MobileNet v1 (Howard et al., "MobileNets", 2017, arXiv 1704.04861, table 1)."""

from __future__ import annotations

from torch import Tensor, nn

from morphsearch.models.layers import GlobalPool, HeInitialised, conv_bn, count, one_of, positive

# Output channels at alpha 1 and stride of each depthwise-separable block.
_BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


class Separable(nn.Module):
    """A depthwise 3 x 3 convolution and a pointwise one, each with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = conv_bn(in_channels, in_channels, 3, stride=stride, groups=in_channels)
        self.pointwise = conv_bn(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`n c h w` to `n c' h/s w/s`."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


class MobileNetV1(HeInitialised):
    """See :func:`mobilenet_v1`."""

    def __init__(self, num_classes: int, alpha: float, stem: str, in_channels: int) -> None:
        super().__init__()

        def width(channels: int) -> int:
            return max(8, int(channels * alpha + 0.5))

        self.stem = conv_bn(in_channels, width(32), 3, stride=1 if stem == "cifar" else 2)
        blocks, channels = [], width(32)
        for out_channels, stride in _BLOCKS:
            blocks.append(Separable(channels, width(out_channels), stride))
            channels = width(out_channels)
        self.blocks = nn.Sequential(*blocks)
        self.pool = GlobalPool()
        self.classifier = nn.Linear(channels, num_classes)
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Logits: `n c h w` to `n k`."""
        logits: Tensor = self.classifier(self.pool(self.blocks(self.stem(x))))
        return logits


def mobilenet_v1(
    num_classes: int = 1000, *, alpha: float = 1.0, stem: str = "imagenet", in_channels: int = 3
) -> MobileNetV1:
    """MobileNet v1.

    Args:
        num_classes: outputs.
        alpha: width multiplier: every layer has alpha times its channels, at least 8.
        stem: ``"imagenet"`` halves the image at once (224 to 7 at the end), ``"cifar"`` does not (32 to 2).
        in_channels: colour channels.

    Raises:
        UsageError: an argument is out of range.
    """
    positive("alpha", alpha)
    one_of("stem", stem, ("cifar", "imagenet"))
    return MobileNetV1(count("num_classes", num_classes), alpha, stem, count("in_channels", in_channels))
