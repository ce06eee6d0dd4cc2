"""Small networks, data and loops for the tests of sparsity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

#: What makes a training repeat to the bit on the CPU.
EXACT: dict[str, Any] = {"precision": "fp32", "channels_last": False, "batch_size": 16, "lr": 0.05}


class Everything(nn.Module):
    """One layer of every kind that has weights. `n x 4 x 8 x 8` to `n x 5`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.layer_norm = nn.LayerNorm([8, 16, 16])
        self.line = nn.Conv1d(8, 8, 3, padding=1)
        self.cube = nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent = nn.LSTM(8, 12, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_norm(self.up(self.grouped(self.depthwise(torch.relu(self.norm(self.conv(x)))))))
        x = self.cube(x.unsqueeze(2)).squeeze(2)
        x = self.line(x.flatten(2)[..., ::16]).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        scores: Tensor = self.head(self.recurrent(x)[0][:, -1])
        return scores


def everything(seed: int = 0) -> Everything:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return Everything()


def small(seed: int = 0) -> nn.Sequential:
    """`n x 4 x 8 x 8` to `n x 5`; fast."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12 * 16, 5),
        )


def images(count: int = 96, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`count x 4 x 8 x 8` and labels: noise around one random image a class."""
    centres = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(count) % 5
    noise = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return centres[labels] + 0.5 * noise, labels


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, sparsifier: Any = None, first: int = 0
) -> list[float]:
    """The loop of the documentation, on batches that depend on the step alone; the losses."""
    x, y = images()
    losses = []
    for step in range(first, first + steps):
        chosen = torch.randperm(len(y), generator=torch.Generator().manual_seed(step))[:16]
        loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if sparsifier is not None:
            sparsifier.step()
        losses.append(loss.item())
    return losses


def zeros(tensor: Tensor) -> float:
    """The share of zeros."""
    return 1 - tensor.count_nonzero().item() / tensor.numel()
