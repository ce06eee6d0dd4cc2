"""Tiny data, networks and counts for the tests of the loop."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

import morphsearch as ms
from morphsearch.data import DataSplits, as_splits
from morphsearch.testing.networks import CLASSES, NETWORKS

#: What makes a training repeat to the bit on the CPU.
EXACT: dict[str, Any] = {"precision": "fp32", "channels_last": False, "batch_size": 16, "device": "cpu"}
WITH_NORMS = sorted(set(NETWORKS) - {"bare"})


def images(count: int = 96, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`count x 3 x 8 x 8` and labels: noise around one random image a class."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(count) % CLASSES
    return centres[labels] + 0.5 * torch.randn(count, 3, 8, 8, generator=generator), labels


def data(count: int = 96) -> DataSplits:
    """Training, validation and test images."""
    return as_splits(images(count), images(40, 1), images(40, 2))


def network(name: str = "residual") -> nn.Module:
    """A small network in training mode."""
    return NETWORKS[name]().train()


def example() -> Tensor:
    """One image."""
    return torch.zeros(1, 3, 8, 8)


def counted(model: nn.Module, inputs: Tensor | None = None) -> dict[str, int]:
    """FLOPs by fvcore and parameters by numel: a count that owes nothing to morphsearch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(model.eval(), example() if inputs is None else inputs)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        flops = int(analysis.total())
    return {"flops": flops, "params": sum(p.numel() for p in model.parameters())}


def train(search: ms.Search, optimizer: torch.optim.Optimizer, steps: int, *, seed: int = 0) -> list[float]:
    """The user's own loop of DESIGN section 6; the losses."""
    x, y = images(64, seed)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(y), (16,), generator=generator)
        loss = nn.functional.cross_entropy(search.model(x[chosen]), y[chosen])
        (loss + search.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()
        losses.append(loss.item())
    return losses
