"""VGG-16 with batch norm (Simonyan and Zisserman, "Very Deep Convolutional Networks", 2015, configuration D)."""

from __future__ import annotations

from torch import Tensor, nn

from morphsearch.models.layers import HeInitialised, conv_bn, count, one_of, positive

# Output channels of each stage's convolutions; every stage ends with a 2 x 2 max pool.
_STAGES = [(64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)]


class VGG(HeInitialised):
    """See :func:`vgg16_bn`."""

    min_input_size = 32

    def __init__(self, num_classes: int, alpha: float, head: str, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in _STAGES:
            for width in (max(1, int(alpha * width + 0.5)) for width in stage):
                layers.append(conv_bn(channels, width))
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        if head == "cifar":
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.classifier: nn.Module = nn.Linear(channels, num_classes)
        else:
            self.pool = nn.AdaptiveAvgPool2d(7)
            self.classifier = nn.Sequential(
                nn.Linear(channels * 49, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Linear(4096, num_classes),
            )
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Logits: `n c h w` to `n k`; h and w at least 32."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


def vgg16_bn(num_classes: int = 10, *, alpha: float = 1.0, head: str = "cifar", in_channels: int = 3) -> VGG:
    """VGG-16 with batch norm.

    Args:
        num_classes: outputs.
        alpha: width multiplier of the convolutions.
        head: ``"cifar"``: the mean over the image and one linear layer; ``"imagenet"``: the paper's three linear
            layers on 7 x 7 pixels, with dropout.
        in_channels: colour channels.

    Raises:
        UsageError: an argument is out of range.
    """
    one_of("head", head, ("cifar", "imagenet"))
    positive("alpha", alpha)
    return VGG(count("num_classes", num_classes), alpha, head, count("in_channels", in_channels))
