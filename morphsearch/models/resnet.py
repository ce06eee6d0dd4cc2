"""ResNets (He et al., "Deep Residual Learning", 2016): those for CIFAR, section 4.2, and for ImageNet, table 1."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from morphsearch.models.layers import GlobalPool, HeInitialised, conv_bn, count, one_of


class PadShortcut(nn.Module):
    """Option A of the paper: every second pixel, and zeros for the channels that the input lacks. Has no weights."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.before, self.after, self.stride = before, after, stride

    def forward(self, x: Tensor) -> Tensor:
        """`n c h w` to `n before+c+after h/s w/s`."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def _shortcut(kind: str, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if kind == "A":
        missing = out_channels - in_channels
        return PadShortcut(missing // 2, missing - missing // 2, stride)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
            bn=nn.BatchNorm2d(out_channels),
        )
    )


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: str = "B") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(shortcut, in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`n c h w` to `n c' h/s w/s`."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (which strides) and 1 x 1 convolutions beside a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: str = "B") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.shortcut = _shortcut(shortcut, in_channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`n c h w` to `n c' h/s w/s`."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet(HeInitialised):
    """A stem, stages of residual blocks (each after the first halves the image), mean and a linear layer."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        num_classes: int,
        stem: nn.Module,
        shortcut: str = "B",
    ) -> None:
        super().__init__()
        self.stem = stem
        channels, stages = widths[0], []
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks: list[nn.Module] = []
            for index in range(depth):
                blocks.append(block(channels, width, 2 if stage > 0 and index == 0 else 1, shortcut))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = GlobalPool()
        self.classifier = nn.Linear(channels, num_classes)
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Logits: `n c h w` to `n k`."""
        logits: Tensor = self.classifier(self.pool(self.stages(self.stem(x))))
        return logits


def _cifar(blocks: int, num_classes: int, shortcut: str, in_channels: int) -> ResNet:
    one_of("shortcut", shortcut, ("A", "B"))
    stem = conv_bn(count("in_channels", in_channels), 16)
    return ResNet(BasicBlock, (blocks,) * 3, (16, 32, 64), count("num_classes", num_classes), stem, shortcut)


def _imagenet(
    block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, ...], num_classes: int, stem: str, in_channels: int
) -> ResNet:
    one_of("stem", stem, ("cifar", "imagenet"))
    count("in_channels", in_channels)
    first: nn.Module = conv_bn(in_channels, 64)
    if stem == "imagenet":
        first = nn.Sequential(*conv_bn(in_channels, 64, 7, stride=2), nn.MaxPool2d(3, 2, 1))
    return ResNet(block, depths, (64, 128, 256, 512), count("num_classes", num_classes), first)


def resnet20(num_classes: int = 10, *, shortcut: str = "B", in_channels: int = 3) -> ResNet:
    """ResNet-20 for 32 x 32 images: 16, 32 and 64 channels, three blocks each.

    Args:
        num_classes: outputs.
        shortcut: where the shape changes: ``"B"``, a 1 x 1 convolution, or ``"A"``, zero-padded channels (the paper's
            choice on CIFAR; it ties the channels of neighbouring stages to each other).
        in_channels: colour channels.

    Raises:
        UsageError: an argument is out of range.
    """
    return _cifar(3, num_classes, shortcut, in_channels)


def resnet56(num_classes: int = 10, *, shortcut: str = "B", in_channels: int = 3) -> ResNet:
    """ResNet-56 for 32 x 32 images: nine blocks a stage; see :func:`resnet20`."""
    return _cifar(9, num_classes, shortcut, in_channels)


def resnet18(num_classes: int = 1000, *, stem: str = "imagenet", in_channels: int = 3) -> ResNet:
    """ResNet-18.

    Args:
        num_classes: outputs.
        stem: ``"imagenet"``: 7 x 7 with stride 2 and a max pool; ``"cifar"``: 3 x 3, full resolution.
        in_channels: colour channels.

    Raises:
        UsageError: an argument is out of range.
    """
    return _imagenet(BasicBlock, (2, 2, 2, 2), num_classes, stem, in_channels)


def resnet50(num_classes: int = 1000, *, stem: str = "imagenet", in_channels: int = 3) -> ResNet:
    """ResNet-50 (the stride is in the 3 x 3 convolution, "v1.5"); arguments as in :func:`resnet18`."""
    return _imagenet(Bottleneck, (3, 4, 6, 3), num_classes, stem, in_channels)
