"""Two small networks of the grid of ``steadiness.py``, in files of their own so that a search can name them."""

from __future__ import annotations

from torch import Tensor, nn


class Stack(nn.Module):
    """Six 3 x 3 convolutions in three sizes, like a VGG, with batch norms or with biases."""

    def __init__(self, norms: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width in (24, 24, 0, 48, 48, 0, 64, 64):
            if not width:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=not norms)]
            layers += [nn.BatchNorm2d(width), nn.ReLU()] if norms else [nn.ReLU()]
            nn.init.kaiming_normal_(layers[-3 if norms else -2].weight, nonlinearity="relu")
            before = width
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """`n 1 8 8` to `n 10`."""
        return self.classifier(self.features(x).mean((2, 3)))


def vgg() -> nn.Module:
    return Stack(norms=True)


def bare() -> nn.Module:
    return Stack(norms=False)
