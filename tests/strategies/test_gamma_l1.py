from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

from morphsearch.costs import bind, vector
from morphsearch.errors import UsageError
from morphsearch.graph import record
from morphsearch.strategies import get
from morphsearch.strategies.gamma_l1 import GammaL1
from morphsearch.testing import NETWORKS, example_inputs
from tests.strategies.fake_graph import FakeGraph, binding, group


class Scales(nn.Module):
    """Norms of the given sizes, called 0, 1, ..."""

    def __init__(self, *values: list[float]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(len(v)) for v in values)
        for norm, v in zip(self.norms, values, strict=True):
            norm.weight.data = torch.tensor(v)

    def value(self, index: int) -> list[float]:
        return self.norms[index].weight.detach().tolist()


def attached(model: nn.Module, graph: Any, **options: Any) -> GammaL1:
    strategy = GammaL1(**options)
    strategy.attach(model, graph)
    return strategy


def coupled(*options: Any, **keywords: Any) -> tuple[Scales, GammaL1]:
    """Units 0, 1 in group a (one norm), 2, 3 in b (two norms), 4 frozen, 5 without a scale."""
    model = Scales([0.5, -0.3], [1.0, -0.2], [0.4, 0.2], [0.9])
    graph = FakeGraph(
        dict([group("a", 2), group("b", 2), group("c", 1, frozen="why"), group("d", 1)]),
        [
            binding("norms.0.weight", [0, 1]),
            binding("norms.1.weight", [2, 3]),
            binding("norms.2.weight", [2, 3]),
            binding("norms.3.weight", [4]),
            binding("norms.0.bias", [0, 1], "bias"),
            binding("norms.0.running_mean", [0, 1], "other"),
        ],
    )
    return model, attached(model, graph, **keywords)


def test_scores_are_the_largest_scale_of_each_unit() -> None:
    _, strategy = coupled()
    assert strategy.scores()[:4].tolist() == pytest.approx([0.5, 0.3, 1.0, 0.2])
    assert strategy.scored().tolist() == [True, True, True, True, False, False]
    assert strategy.alive(0.25).tolist() == [True, True, True, False, True, True]
    assert strategy.alive(100).tolist() == [False, False, False, False, True, True]
    assert strategy.regularized() == {"norms.0.weight", "norms.1.weight", "norms.2.weight"}


def test_relative_scores_compare_within_groups() -> None:
    _, strategy = coupled(relative=True)
    assert strategy.scores()[:4].tolist() == pytest.approx([1.0, 0.6, 1.0, 0.2])


def test_groups_without_scales_are_named() -> None:
    _, strategy = coupled()
    assert len(strategy.notes) == 1
    assert "d (1)" in strategy.notes[0]
    assert "1 of 3 groups" in strategy.notes[0]


def test_penalty_is_the_priced_sum_without_gradient() -> None:
    _, strategy = coupled()
    penalty = strategy.penalty(torch.tensor([1.0, 2, 3, 4, 100, 100]), 0.1)
    assert float(penalty) == pytest.approx(0.1 * (0.5 + 2 * 0.3 + 3 * 1.0 + 4 * 0.2))
    assert not penalty.requires_grad
    _, strategy = coupled(coupling="l2")
    penalty = strategy.penalty(torch.tensor([1.0, 2, 3, 4, 100, 100]), 0.1)
    assert float(penalty) == pytest.approx(0.1 * (0.5 + 2 * 0.3 + 3 * 1.16**0.5 + 4 * 0.08**0.5), rel=1e-5)


def test_single_scales_are_soft_thresholded_by_price() -> None:
    model, strategy = coupled()
    strategy.after_step(torch.tensor([1.0, 2, 0, 0, 9, 9]), strength=2.0, lr=0.1)
    assert model.value(0) == pytest.approx([0.3, 0.0])
    assert model.value(1) == pytest.approx([1.0, -0.2])
    assert model.value(3) == pytest.approx([0.9]), "frozen units keep their scale"


def test_coupled_scales_meet_and_die_together() -> None:
    model, strategy = coupled()
    step = torch.tensor([0.0, 0, 1, 1, 0, 0])
    strategy.after_step(step, strength=1.0, lr=0.3)
    # Unit 2: the larger pays alone. Unit 3: equal ones share, 0.15 each.
    assert model.value(1) == pytest.approx([0.7, -0.05])
    assert model.value(2) == pytest.approx([0.4, 0.05])
    strategy.after_step(step, strength=1.0, lr=0.5)
    assert model.value(1) == pytest.approx([0.3, 0.0])
    assert model.value(2) == pytest.approx([0.3, 0.0])
    strategy.after_step(step, strength=1.0, lr=0.6)
    assert model.value(1) == model.value(2) == [0.0, 0.0]


def test_l2_shrinks_coupled_scales_by_one_factor() -> None:
    model, strategy = coupled(coupling="l2")
    strategy.after_step(torch.tensor([0.0, 0, 1, 1, 0, 0]), strength=1.0, lr=0.3)
    factor = 1 - 0.3 / 1.16**0.5
    assert model.value(1) == pytest.approx([1.0 * factor, 0.0])
    assert model.value(2) == pytest.approx([0.4 * factor, 0.0])


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.sampled_from(["max", "l2"]),
    st.integers(0, 10_000),
)
def test_the_step_minimises_its_objective(members: list[int], coupling: str, seed: int) -> None:
    """Against a general-purpose optimiser, for units with any number of scales."""
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=count) for count in members]
    most = max(members)
    norms = [[float(v[i]) for v in values if len(v) > i] for i in range(most)]
    owners = [[u for u, v in enumerate(values) if len(v) > i] for i in range(most)]
    model = Scales(*norms)
    graph = FakeGraph(
        dict([group("a", len(members))]), [binding(f"norms.{i}.weight", own) for i, own in enumerate(owners)]
    )
    strategy = attached(model, graph, coupling=coupling)
    prices = torch.from_numpy(rng.uniform(0, 2, len(members)))
    strategy.after_step(prices, strength=1.0, lr=1.0)
    for unit, before in enumerate(values):
        after = np.array([model.value(i)[owners[i].index(unit)] for i in range(len(before))])
        price = float(prices[unit])

        def objective(z: np.ndarray, before: np.ndarray = before, price: float = price) -> float:
            size = np.abs(z).max() if coupling == "max" else np.linalg.norm(z)
            return float(0.5 * ((z - before) ** 2).sum() + price * size)

        reached = objective(after)
        for start in (before, after, np.zeros_like(before)):
            best = minimize(objective, start, method="Nelder-Mead", options={"maxiter": 400}).fun
            assert reached <= best + 1e-5


def test_units_die_for_good_only_by_price() -> None:
    """Training a residual network under the step: expensive units reach exact zeros, together in every norm."""
    model = NETWORKS["residual"]()
    graph = record(model, example_inputs())
    strategy = attached(model, graph)
    per_group = bind(graph, "flops").marginal(vector(graph, graph.widths)).numpy()
    prices = torch.from_numpy(per_group[graph.unit_group] / per_group.mean())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    torch.manual_seed(0)
    x, y = torch.randn(32, 3, 8, 8), torch.randint(5, (32,))
    model.train()
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(x), y) + strategy.penalty(prices, 0.3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        strategy.after_step(prices, 0.3, 0.05)
    alive = strategy.alive(strategy.default_threshold)
    assert 0 < int(alive[strategy.scored()].sum()) < int(strategy.scored().sum())
    parameters = dict(model.named_parameters())
    for bound in graph.bindings:
        if bound.role == "norm":
            dead = ~alive.numpy() & (strategy.scores().numpy() == 0)
            assert (parameters[bound.tensor].detach().numpy()[dead[bound.units]] == 0).all()


def test_a_network_without_scales_is_told_what_fits() -> None:
    model = NETWORKS["bare"]()
    with pytest.raises(UsageError) as caught:
        GammaL1().attach(model, record(model, example_inputs()))
    assert "uniform" in caught.value.repair
    assert "scale" in caught.value.arrived


def test_all_frozen_is_told_apart_from_no_scales() -> None:
    model = Scales([1.0])
    graph: Any = FakeGraph(dict([group("a", 1, frozen="why")]), [binding("norms.0.weight", [0])])
    with pytest.raises(UsageError, match="frozen"):
        GammaL1().attach(model, graph)


def test_scales_that_do_not_train_are_left_alone() -> None:
    model = Scales([0.5], [0.7])
    model.norms[1].weight.requires_grad_(False)
    graph: Any = FakeGraph(
        dict([group("a", 1), group("b", 1)]), [binding("norms.0.weight", [0]), binding("norms.1.weight", [1])]
    )
    strategy = attached(model, graph)
    strategy.after_step(torch.ones(2), 1.0, 0.2)
    assert model.value(1) == pytest.approx([0.7])
    assert strategy.scored().tolist() == [True, False]


def test_half_precision_scales() -> None:
    model, _ = coupled()
    model.norms.bfloat16()
    graph: Any = FakeGraph(dict([group("a", 2)]), [binding("norms.0.weight", [0, 1])])
    strategy = attached(model, graph)
    strategy.after_step(torch.ones(2, dtype=torch.float64), 1.0, 0.25)
    assert model.norms[0].weight.dtype == torch.bfloat16
    assert model.value(0) == pytest.approx([0.25, -0.05], abs=0.01)


@pytest.mark.parametrize(
    "options", [{"threshold": -1}, {"threshold": float("nan")}, {"coupling": "mean"}, {"relative": "no"}]
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        get("gamma-l1", **options)
