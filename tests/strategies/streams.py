"""A network without norms whose layers share units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from morphsearch.testing.networks import CLASSES


class Stream(nn.Module):
    """Two convolutions write to one stream, without norms."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 1)
        self.two = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x = x + self.two(torch.relu(x))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores
