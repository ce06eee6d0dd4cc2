"""The strength is found: the cost comes to its target within the schedule, and the network still learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from loop_fakes import CLASSES, EXACT, data, example

import morphsearch as ms
from morphsearch.data import DataSplits
from morphsearch.loop.controller import GROWTH, Controller
from morphsearch.training import Recipe, Trainer


def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for before, after, stride in ((3, 24, 1), (24, 32, 2), (32, 40, 2)):
        layers += [
            torch.nn.Conv2d(before, after, 3, stride, 1, bias=False),
            torch.nn.BatchNorm2d(after),
            torch.nn.ReLU(),
        ]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(40, CLASSES))


def trained(search: ms.Search, splits: DataSplits, **recipe: Any) -> tuple[Trainer, list[float]]:
    """Train for one morph; the trainer and the strengths at all steps."""
    strengths: list[float] = []

    def after(step: int) -> None:
        search.step(trainer.lr)
        strengths.append(search.strength)

    trainer = Trainer(
        search.model,
        splits,
        Recipe.from_dict({**EXACT, "schedule": "constant", **recipe}),
        no_decay=search.regularized(),
        penalty=search.penalty,
        after_step=after,
    )
    search.controller.steps = trainer.total_steps
    while not trainer.finished:
        trainer.train_epoch()
    return trainer, strengths


@pytest.mark.parametrize("budget", ["flops=50%", "params=40%"])
@pytest.mark.parametrize(("lr", "optimizer"), [(0.1, "sgd"), (0.01, "sgd"), (0.003, "adamw")])
def test_the_cost_comes_to_its_target(budget: str, lr: float, optimizer: str) -> None:
    splits = data(160)
    search = ms.Search(tiny(), example(), budget)
    trainer, strengths = trained(search, splits, lr=lr, optimizer=optimizer, epochs=25)
    status = search.status()
    assert status["load"] <= 0.75 * 1.15
    assert status["load"] >= 0.75 * 0.4  # nor is the network wrecked
    assert all(math.isfinite(strength) for strength in strengths)
    assert strengths[len(strengths) // 6] == 0
    assert max(strengths) > 0
    assert trainer.evaluate(splits.train).accuracy > 0.8
    assert search.morph().costs[search.budgets.metrics[0]]["total"] > 0


def test_a_second_morph_holds_its_budget_too() -> None:
    splits = data(160)
    search = ms.Search(tiny(), example(), "flops=50%")
    for _ in range(2):
        trained(search, splits, lr=0.05, epochs=15)
        assert search.status()["load"] <= 0.9
        found = search.morph()
    assert found.parent == "001"
    assert found.costs["flops"]["total"] <= 0.5 * search.budgets.seed_costs["flops"]


def test_resistance_raises_the_strength_and_being_there_lets_it_off() -> None:
    controller = Controller(steps=1000, warmup=0)
    first = controller.update(10, 0.5, 0.1, 2.0)
    assert first == pytest.approx(0.5 / (0.1 * 440))
    second = controller.update(20, 0.5, 0.1, 2.0)  # nothing gave way
    assert first < second <= GROWTH * first
    held = controller.update(30, 0.0, 0.1, 1.0)
    assert 0 < held < second
    assert controller.update(40, 0.0, 0.1, 0.5) < 0.5 * held  # far below: off quickly


def test_no_pressure_in_the_warmup_and_none_without_need() -> None:
    controller = Controller(steps=100, warmup=0.25)
    assert controller.update(10, 1.0, 0.1, 2.0) == 0
    assert controller.update(30, 0.0, 0.1, 0.9) == 0
    assert controller.update(31, 1.0, 0.1, 1.1) > 0


@pytest.mark.parametrize("lr", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize("steps", [None, 1, 2, 7, 100_000])
def test_the_strength_stays_finite(lr: float, steps: int | None) -> None:
    controller = Controller(steps, warmup=0)
    for step in range(300):
        strength = controller.update(step, 0.3, lr, 3.0)
        assert math.isfinite(strength)
        assert strength >= 0


def test_state_is_all_there_is() -> None:
    one = Controller(100, warmup=0)
    for step in range(0, 40, 2):
        one.update(step, 0.5 - 0.01 * step, 0.1, 2.0)
    two = Controller(**one.state())
    for step in range(40, 100, 2):
        need = max(0.0, 0.3 - 0.005 * step)
        assert one.update(step, need, 0.1, 1.5) == two.update(step, need, 0.1, 1.5)
