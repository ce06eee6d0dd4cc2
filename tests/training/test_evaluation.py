"""Evaluation, and batch-norm statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from training_fakes import FakeSplit, fake_data, tiny_net

from morphsearch.errors import InputError
from morphsearch.training import evaluate, reestimate_batchnorm


def test_equals_the_definition_and_changes_nothing() -> None:
    split: Any = fake_data().test
    model = tiny_net()
    model.train()
    model.norm.eval()
    before = torch.get_rng_state()
    found = evaluate(model, split, batch_size=8)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert not model.norm.training
    model.eval()
    logits = model(split.images)
    assert found.count == 21
    assert found.loss == pytest.approx(functional.cross_entropy(logits, split.labels).item(), rel=1e-5)
    assert found.accuracy == pytest.approx((logits.argmax(1) == split.labels).float().mean().item())


def test_refuses_an_empty_split() -> None:
    empty: Any = FakeSplit(torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64), 3)
    with pytest.raises(InputError, match="no images"):
        evaluate(tiny_net(), empty)


def test_refuses_too_few_outputs() -> None:
    split: Any = fake_data().test
    with pytest.raises(InputError, match="2 outputs"):
        evaluate(tiny_net(classes=2), split)


class TwoNorms(nn.Module):
    """One batch norm always runs, one in training only; dropout would disturb the statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.branch, self.dropout = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = self.branch(x)
        return self.norm(self.dropout(x))


def test_statistics_are_the_plain_average_over_batches() -> None:
    split: Any = fake_data(40).train
    model = TwoNorms()
    model.norm.running_mean.fill_(7.0)
    model.branch.running_mean.fill_(7.0)
    model.norm.momentum = 0.3
    model.train()
    model.dropout.eval()
    before = torch.get_rng_state()
    reestimate_batchnorm(model, split, batches=3, batch_size=8, seed=4)
    batches = [x for x, _ in split.batches(8, shuffle_seed=4, augment=False)][:3]
    torch.testing.assert_close(model.norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0))
    torch.testing.assert_close(model.norm.running_var, torch.stack([x.var((0, 2, 3)) for x in batches]).mean(0))
    assert torch.equal(model.branch.running_mean, torch.full((3,), 7.0))
    assert model.norm.momentum == 0.3
    assert model.norm.training
    assert not model.dropout.training
    assert torch.equal(before, torch.get_rng_state())


def test_does_nothing_without_batch_norms() -> None:
    split: Any = fake_data().train
    reestimate_batchnorm(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)), split)
    assert split.reads == 0


def test_a_failing_forward_leaves_the_statistics() -> None:
    split: Any = fake_data().train
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Linear(5, 5))
    model[0].running_mean.fill_(7.0)
    with pytest.raises(RuntimeError):
        reestimate_batchnorm(model, split)
    assert torch.equal(model[0].running_mean, torch.full((3,), 7.0))
    assert model[0].momentum == 0.1
