from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from morphsearch.errors import BudgetError, UnknownName, UsageError
from morphsearch.strategies import get
from tests.strategies.fake_graph import FakeGraph, group


def chain(*widths: int) -> Any:
    return FakeGraph(dict(group(f"g{i}", width) for i, width in enumerate(widths)))


def within(limit: float) -> Any:
    return lambda widths: sum(a * b for a, b in zip(widths.values(), list(widths.values())[1:], strict=False)) <= limit


def test_uniform_keeps_the_proportions() -> None:
    widths = get("uniform").propose(chain(100, 200, 400), within(100_000 / 4), np.random.default_rng(0))
    assert widths == {"g0": 50, "g1": 100, "g2": 200}


def test_random_depends_on_its_generator_alone() -> None:
    graph, strategy = chain(100, 200, 400), get("random")
    draws = [strategy.propose(graph, within(25_000), np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_random_factors_are_log_normal() -> None:
    graph = chain(*[10_000] * 400)
    widths = get("random", sigma=0.5).propose(graph, lambda w: True, np.random.default_rng(0))
    logs = np.log([float(width) for width in widths.values()])
    assert logs.std() == pytest.approx(0.5, abs=0.05)


def test_random_without_spread_is_uniform() -> None:
    graph, rng = chain(30, 17, 90), np.random.default_rng(0)
    assert get("random", sigma=0).propose(graph, within(700), rng) == get("uniform").propose(graph, within(700), rng)


@pytest.mark.parametrize("name", ["uniform", "random"])
def test_baselines_round_and_refuse(name: str) -> None:
    graph, rng = chain(30, 17, 90), np.random.default_rng(0)
    widths = get(name).propose(graph, within(2000), rng, round_to=8)
    assert all(width % 8 == 0 for width in widths.values())
    with pytest.raises(BudgetError):
        get(name).propose(graph, within(1), rng)


def test_baselines_judge_nothing() -> None:
    strategy = get("uniform")
    strategy.attach(None, chain(3, 4))
    assert not strategy.needs_training
    assert not strategy.scored().any()
    assert strategy.alive(1e9).all()


def test_unknown_names_and_options_get_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean gamma-l1"):
        get("gama-l1")
    with pytest.raises(UsageError, match="did you mean sigma"):
        get("random", sigm=0.2)
    with pytest.raises(UsageError, match="no option 'colour'") as caught:
        get("gamma-l1", colour=1)
    assert "threshold" in caught.value.rule


def test_sigma_out_of_range() -> None:
    with pytest.raises(UsageError, match="sigma"):
        get("random", sigma=-1)
