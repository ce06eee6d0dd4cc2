"""Schedules against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from morphsearch.training.schedules import factor


def rates_of(scheduler_of: object, total: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = scheduler_of(optimizer)  # type: ignore[operator]
    rates = []
    for step in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < total - 1:
            scheduler.step()
    return rates


def test_cosine_is_torchs_without_warmup() -> None:
    expected = rates_of(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=40), 40)
    assert [factor("cosine", step, 40, 0.0) for step in range(40)] == pytest.approx(expected)


@pytest.mark.parametrize("warmup", [0.1, 0.3])
def test_onecycle_is_torchs(warmup: float) -> None:
    expected = rates_of(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=50, pct_start=warmup), 50
    )
    assert [factor("onecycle", step, 50, warmup) for step in range(50)] == pytest.approx(expected)


@given(
    st.sampled_from(["cosine", "onecycle", "constant"]), st.integers(1, 500), st.floats(0, 0.99), st.integers(0, 1000)
)
def test_between_zero_and_the_peak(schedule: str, total: int, warmup: float, step: int) -> None:
    assert 0 <= factor(schedule, step, total, warmup) <= 1


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "constant"])
def test_warmup_rises_to_the_peak(schedule: str) -> None:
    rates = [factor(schedule, step, 100, 0.2) for step in range(100)]
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert 18 <= peak <= 20
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert factor(schedule, 250, 100, 0.2) == rates[-1]
