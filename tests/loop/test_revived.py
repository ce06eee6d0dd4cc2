"""More units die at once than had to: those that can come back do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loop_fakes import example, network, train

import morphsearch as ms
from morphsearch.loop import pressing
from morphsearch.strategies.logistic_sigmoid import LogisticSigmoid


def load_at_the_end() -> float:
    torch.manual_seed(0)
    search = ms.Search(network("residual"), example(), "flops=50%", strategy="logistic-sigmoid", steps=120)
    optimizer = torch.optim.SGD(search.model.parameters(), lr=0.05, momentum=0.9)
    search.follow(optimizer)
    train(search, optimizer, 120)
    return float(search.status()["load"]) / search.rules.shrink_to


def test_gates_that_closed_together_open_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gates start out alike, so that equal pressure closes many at one look."""
    monkeypatch.setattr(pressing, "focus", lambda units, order, count: np.ones(units))
    load = load_at_the_end()
    assert 0.85 <= load <= 1.0
    monkeypatch.setattr(LogisticSigmoid, "revive", lambda self, units: None)
    assert load_at_the_end() < load


def test_gates_are_opened_just_above_the_threshold() -> None:
    search = ms.Search(network("residual"), example(), "flops=50%", strategy="logistic-sigmoid", steps=20)
    with torch.no_grad():
        search.strategy._logits[:6] = -3.0
    before = search.strategy.scores().clone()
    search.strategy.revive(torch.tensor([1, 4]))
    alive = search.strategy.alive(search.rules.threshold)
    assert alive[:6].tolist() == [False, True, False, False, True, False]
    untouched = torch.tensor([0, 2, 3, 5, *range(6, before.numel())])
    torch.testing.assert_close(search.strategy.scores()[untouched], before[untouched])
