"""Tiny networks, each with one thing that goes wrong easily. All take 1 x 3 x 8 x 8 and give 5 classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

CLASSES = 5


def example_inputs(batch: int = 1) -> Tensor:
    """`batch x 3 x 8 x 8`, the same numbers every time."""
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _unit(channels_in: int, channels_out: int, kernel: int = 3, *, groups: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class Plain(nn.Module):
    """Convolutions one after another; flattened into the linear layer, so that a channel has several columns there."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_unit(3, 8), nn.MaxPool2d(2), _unit(8, 12), nn.MaxPool2d(2))
        self.head = nn.Linear(12 * 4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        scores: Tensor = self.head(torch.flatten(self.body(x), 1))
        return scores


class Residual(nn.Module):
    """Two additions to one stream, whose norms share its units."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _unit(3, 8)
        self.first = nn.Sequential(_unit(8, 6), nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.second = nn.Sequential(_unit(8, 10), nn.Conv2d(10, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = self.stem(x)
        x = torch.relu(x + self.first(x))
        x = torch.relu(x + self.second(x))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class Depthwise(nn.Module):
    """An inverted bottleneck: expansion, depthwise convolution and their norms share units."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _unit(3, 6, stride=2),
            _unit(6, 18, 1),
            _unit(18, 18, groups=18),
            nn.Conv2d(18, 8, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        scores: Tensor = self.head(self.body(x))
        return scores


class Grouped(nn.Module):
    """A convolution in four groups, as in ResNeXt: channels leave in step."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _unit(3, 16), _unit(16, 16, groups=4), _unit(16, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        scores: Tensor = self.head(self.body(x))
        return scores


class Dense(nn.Module):
    """Concatenations: one unit is read at several places, under several norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.first = self._layer(6, 4)
        self.second = self._layer(10, 4)
        self.norm = nn.BatchNorm2d(14)
        self.head = nn.Linear(14, CLASSES)

    @staticmethod
    def _layer(channels: int, growth: int) -> nn.Sequential:
        return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, growth, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = self.stem(x)
        x = torch.cat([x, self.first(x)], 1)
        x = torch.cat([x, self.second(x)], 1)
        scores: Tensor = self.head(torch.relu(self.norm(x)).mean((2, 3)))
        return scores


class Bare(nn.Module):
    """No norm anywhere: convolutions with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()
        )
        self.head = nn.Linear(6 * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        scores: Tensor = self.head(self.body(x))
        return scores


#: By name; call for a new network in evaluation mode, with weights that depend on nothing but the name.
NETWORKS: Mapping[str, Callable[[], nn.Module]] = {}


def _register(network: type[nn.Module]) -> None:
    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = network().eval()
            # Scales that differ, as after training: equal ones would hide mistakes.
            for module in made.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.2, 1.5)
                    nn.init.normal_(module.bias, std=0.1)
        return made

    assert isinstance(NETWORKS, dict)
    NETWORKS[network.__name__.lower()] = build


for _network in (Plain, Residual, Depthwise, Grouped, Dense, Bare):
    _register(_network)
