"""Live shrinking: training goes on as if the units that left were masked, and everything that follows goes with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from loop_fakes import counted, example, images, network
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import morphsearch as ms
from morphsearch.errors import UsageError
from morphsearch.graph import ConvGraph
from morphsearch.loop import live

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=5e-3, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=5e-3, weight_decay=1e-2, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=2e-3, momentum=0.9, centered=True),
}


class Gated(nn.Module):
    """Squeeze and excitation: a sigmoid that is not zero at zero, and a network in which nothing else tells."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.Softplus())
        self.squeeze, self.excite = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 12, 1)
        self.second = nn.Sequential(nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(self.second(x).mean((2, 3)))


class Sized(nn.Module):
    """Forward code with numbers written into it, that a rewrite must replace."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.left, self.right = nn.Conv2d(4, 6, 1), nn.Conv2d(12, 6, 1)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.body(x).split([4, 12], 1)
        x = torch.relu(self.norm(self.left(one) + self.right(two)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).reshape(-1, 24))


OWN: dict[str, type[nn.Module]] = {"gated": Gated, "sized": Sized}


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return (OWN[name]() if name in OWN else network(name)).double().train()


def searched(name: str = "residual", **options: Any) -> ms.Search:
    settings = {"steps": 100, "warmup": 0.05, "shrink_to": 1.0}
    return ms.Search(built(name), example().double(), "flops=25%", **{**settings, **options})


def run(
    search: ms.Search, optimizer: torch.optim.Optimizer, steps: int = 100, *, after: Callable[[], None] = lambda: None
) -> list[float]:
    """The user's loop; he holds the network himself."""
    model = search.model
    x, y = images(64)
    x = x.double()
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(y), (16,), generator=generator)
        loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
        (loss + search.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()
        after()
        losses.append(loss.item())
    return losses


def masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units that leave are masked and stay."""
    monkeypatch.setattr(live.Leaving, "worth", lambda *_: False)


def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units leave soon, and the network is rebuilt for every little."""
    monkeypatch.setattr(live, "PATIENCE", 2)
    monkeypatch.setattr(live, "LEAST_SHARE", 0.02)
    monkeypatch.setattr(live, "LEAST_STEPS", 0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["plain", "residual", "depthwise", "grouped", "dense", "gated", "sized"])
def test_the_loss_curve_is_that_of_masked_training(name: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if optimizer != "sgd" and name in ("grouped", "sized", "plain"):
        pytest.skip("one optimizer is enough for these")
    tight(monkeypatch)
    shrunk = searched(name)
    follower = OPTIMIZERS[optimizer](shrunk.model.parameters())
    shrunk.follow(follower)
    ours = run(shrunk, follower)
    assert shrunk.leaving.gone >= (1 if name == "grouped" else 3), "nothing left; the test would show nothing"
    with monkeypatch.context() as patched:
        masked(patched)
        whole = searched(name)
        other = OPTIMIZERS[optimizer](whole.model.parameters())
        whole.follow(other)
        theirs = run(whole, other)
        assert whole.leaving.gone == 0
        assert whole.leaving.left == shrunk.leaving.left
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)
    assert counted(shrunk.model.float())["flops"] < counted(whole.model.float())["flops"]
    x = images(16, 3)[0]
    torch.testing.assert_close(shrunk.model.eval()(x), whole.model.eval()(x), rtol=1e-4, atol=1e-5)
