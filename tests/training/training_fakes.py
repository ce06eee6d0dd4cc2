"""Tiny data and networks for the training tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch.data import Split


class FakeSplit(Split):
    """Images in memory; batches are a function of (shuffle_seed, batch index), as the data package promises."""

    def __init__(self, images: Tensor, labels: Tensor, num_classes: int) -> None:
        self.images, self.labels, self.num_classes = images, labels, num_classes
        self.reads = 0

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        augment: bool = False,
        start_batch: int = 0,
        device: Any = "cpu",
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        self.reads += 1
        order = torch.arange(len(self))
        if shuffle_seed is not None:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(shuffle_seed))
        for number, chosen in enumerate(order.split(batch_size)):
            if number < start_batch or (drop_last and len(chosen) < batch_size):
                continue
            images = self.images[chosen]
            if augment:
                generator = torch.Generator().manual_seed((shuffle_seed or 0) * 1000 + number)
                images = images + 0.1 * torch.randn(images.shape, generator=generator)
            yield images.to(device), self.labels[chosen].to(device)


@dataclass
class FakeData:
    train: Any
    val: Any
    test: Any
    shape: tuple[int, int, int] = (3, 8, 8)
    classes: list[str] = field(default_factory=lambda: ["a", "b", "c"])
    name: str = "fake"


def fake_data(train: int = 40, *, test: bool = True, seed: int = 0) -> FakeData:
    """Three classes that a small network learns: noise around one random image each."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 3, 8, 8, generator=generator)

    def split(count: int) -> FakeSplit:
        labels = torch.arange(count) % 3
        images = centres[labels] + 0.5 * torch.randn(count, 3, 8, 8, generator=generator)
        return FakeSplit(images, labels, 3)

    return FakeData(split(train), split(15), split(21) if test else None)


class TinyNet(nn.Module):
    """Convolution, batch norm, depthwise convolution, dropout, linear."""

    def __init__(self, classes: int = 3, dropout: float = 0.3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.depthwise(x))
        return self.head(self.dropout(x.mean((2, 3))))


def tiny_net(seed: int = 0, **arguments: Any) -> TinyNet:
    """A TinyNet with the same weights every time."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return TinyNet(**arguments)
