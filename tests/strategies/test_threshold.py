from __future__ import annotations

import pytest
import torch

from morphsearch.strategies.threshold import score_gap, settled


def test_two_modes_are_told_apart() -> None:
    gap = score_gap(torch.tensor([0.9, 1.1, 0.001, 0.002, 0.7, 0.0015]))
    assert gap is not None
    assert (gap.below, gap.above) == (3, 3)
    assert gap.low == pytest.approx(0.002)
    assert gap.high == pytest.approx(0.7)
    assert gap.low < gap.threshold < gap.high
    assert gap.ratio == pytest.approx(350)


def test_exact_zeros_are_one_mode() -> None:
    gap = score_gap(torch.cat([torch.zeros(10), torch.linspace(0.3, 1.2, 50)]))
    assert gap is not None
    assert (gap.below, gap.above) == (10, 50)
    assert 0 < gap.threshold < 0.3


def test_differences_among_the_dead_do_not_matter() -> None:
    gap = score_gap(torch.tensor([1e-30, 1e-12, 1e-11, 0.2, 0.5, 1.0]))
    assert gap is not None
    assert gap.below == 3


@pytest.mark.parametrize(
    "scores", [torch.linspace(0.1, 1, 100), torch.zeros(5), torch.ones(5), torch.ones(1), torch.zeros(0)]
)
def test_no_gap_is_said(scores: torch.Tensor) -> None:
    assert score_gap(scores) is None


def test_the_threshold_lies_in_the_gap_near_the_usual_one() -> None:
    threshold, crowd = settled(torch.tensor([0.9, 1.1, 0.001, 0.02, 0.4]), 0.01, 0)
    assert crowd == 0
    assert 0.02 < threshold < 0.4  # the unit at 0.02 is one of the dead
    threshold, crowd = settled(torch.tensor([0.9, 0.7]), 0.01, 5)  # the dead have left
    assert crowd == 0
    assert 0.001 <= threshold <= 0.1


def test_a_crowd_about_the_threshold_is_counted() -> None:
    scores = torch.linspace(0.005, 0.02, 40)
    near = int(((scores > 0.01 / 3**0.5) & (scores < 0.01 * 3**0.5)).sum())
    assert settled(scores, 0.01, 0) == (0.01, near)
    assert settled(torch.cat([scores, torch.zeros(3)]), 0.01, 0) == (0.01, near)
    assert settled(scores, 0.01, 1000) == (0.01, 0)  # a few of very many


def test_a_gap_far_away_does_not_count() -> None:
    scores = torch.tensor([0.001, 0.002, 0.05, 0.06, 100.0])
    assert settled(scores, 0.01, 0) == (0.01, 0)


def test_all_alive_or_all_dead() -> None:
    assert settled(torch.ones(4), 0.01, 0) == (0.01, 0)
    assert settled(torch.zeros(4), 0.01, 0) == (0.01, 0)
    assert settled(torch.zeros(0), 0.01, 0) == (0.01, 0)
