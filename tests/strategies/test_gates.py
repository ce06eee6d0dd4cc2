"""Gates on units, put on from outside."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphsearch.errors import UsageError
from morphsearch.graph import record
from morphsearch.strategies import get
from morphsearch.strategies.logistic_sigmoid import LogisticSigmoid
from morphsearch.testing import NETWORKS, example_inputs


class Functional(nn.Module):
    """No module but the root: parameters, used by functions; one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(6, 3, 3, 3))
        self.offset = nn.Parameter(torch.randn(6))
        self.second = nn.Parameter(torch.randn(6, 6, 3, 3) / 5)
        self.head = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(F.conv2d(x, self.first, self.offset, padding=1))
        for _ in range(2):
            x = x + torch.relu(F.conv2d(x, self.second, padding=1))
        return F.linear(x.mean((2, 3)), self.head)


def network(name: str) -> nn.Module:
    if name == "functional":
        torch.manual_seed(0)
        return Functional().eval().double()
    return NETWORKS[name]().double()


def inputs(batch: int = 4) -> Tensor:
    return example_inputs(batch).double()


def gated(model: nn.Module, seed: int = 0, **options: Any) -> tuple[LogisticSigmoid, Any, dict[str, list[int]]]:
    """A strategy whose gates are open for a random part of every group; the graph; the positions that are open."""
    graph = record(model, inputs(1))
    strategy = LogisticSigmoid(**options)
    strategy.attach(model, graph)
    rng = np.random.default_rng(seed)
    logits = torch.full((graph.num_units,), 2.0)
    keep = {}
    for name in graph.free:
        group = graph.groups[name]
        steps = group.width // group.multiple
        count = int(rng.integers(max(1, group.floor // group.multiple), steps)) * group.multiple
        keep[name] = sorted(rng.choice(group.width, count, replace=False).tolist())
        off = np.setdiff1d(np.arange(group.width), keep[name])
        logits[graph.units_of(name)[off]] = -1.0
    strategy.load_state_dict({"logits": logits, "power": torch.zeros(1)}, {"draws": 0, "begun": True})
    return strategy, graph, keep


@pytest.mark.parametrize("name", [*sorted(NETWORKS), "functional"])
def test_closed_gates_compute_what_the_network_without_the_units_does(name: str) -> None:
    model = network(name)
    before = model(inputs())
    plain = copy.deepcopy(model)
    _, graph, keep = gated(model)
    graph.model = plain
    shut = model(inputs())
    assert not torch.allclose(shut, before)
    torch.testing.assert_close(shut, graph.shrink(keep)(inputs()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [*sorted(NETWORKS), "functional"])
def test_after_detach_the_network_is_plain_and_computes_the_same(name: str) -> None:
    model = network(name)
    names = list(model.state_dict())
    strategy, _, _ = gated(model)
    shut = model(inputs())
    strategy.detach()
    assert torch.equal(model(inputs()), shut)
    assert not model._forward_pre_hooks
    assert not model._forward_hooks
    assert list(model.state_dict()) == names


def test_parameters_are_plain_between_passes_and_train() -> None:
    model = network("residual").train()
    names = [name for name, _ in model.named_parameters()]
    strategy, _, _ = gated(model, temperature=1.0)
    model(inputs()).sum().backward()
    assert [name for name, _ in model.named_parameters()] == names
    assert all(isinstance(p, nn.Parameter) and p.grad is not None for p in model.parameters())
    assert "weight" not in model.get_submodule("stem.1").__dict__
    assert strategy._heard.grad is not None
    assert strategy._heard.grad[strategy.scored()].abs().sum() > 0


def test_a_pass_that_fails_leaves_parameters_plain() -> None:
    model = network("plain")
    gated(model)
    with pytest.raises(RuntimeError):
        model(torch.zeros(1, 2, 8, 8).double())
    assert isinstance(model.get_submodule("body.0.1").weight, nn.Parameter)


def test_a_copy_has_gates_of_its_own() -> None:
    model = network("plain")
    strategy, _, _ = gated(model)
    twin = copy.deepcopy(model)
    shut = model(inputs())
    assert torch.equal(twin(inputs()), shut)
    strategy.detach()
    with torch.no_grad():
        model.get_submodule("head").weight.zero_()
    assert torch.equal(twin(inputs()), shut)


def test_plain_takes_gates_off_for_a_while() -> None:
    model = network("depthwise")
    before = model(inputs())
    strategy, _, _ = gated(model)
    shut = model(inputs())
    with strategy.plain():
        assert torch.equal(model(inputs()), before)
        assert not copy.deepcopy(model)._forward_pre_hooks
    assert torch.equal(model(inputs()), shut)


def test_gates_begin_when_something_is_pressed() -> None:
    model = NETWORKS["plain"]()
    graph = record(model, example_inputs())
    strategy = LogisticSigmoid()
    strategy.attach(model, graph)
    strategy.after_step(torch.ones(graph.num_units), 0.0, 0.1)
    assert not model._forward_pre_hooks
    strategy.after_step(torch.ones(graph.num_units), 0.1, 0.1)
    assert model._forward_pre_hooks


def test_the_proximal_step_lowers_probabilities_by_price_and_spares_the_best() -> None:
    model = NETWORKS["plain"]()
    graph = record(model, example_inputs())
    strategy = LogisticSigmoid()
    strategy.attach(model, graph)
    prices = torch.linspace(0.5, 2, graph.num_units)
    before = strategy.scores()
    strategy.after_step(prices, 2.0, 0.05)
    fallen = before - strategy.scores()
    free = strategy.scored()
    best = torch.from_numpy(np.array([graph.units_of(name)[0] for name in graph.free]))
    pressed = free.index_fill(0, best, False)
    torch.testing.assert_close(fallen[pressed], 0.1 * prices[pressed], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(strategy.scores()[best], before[best])
    for _ in range(100):
        strategy.after_step(prices, 2.0, 0.05)
    assert strategy.scores()[pressed].max() == pytest.approx(0.01, abs=1e-5)


def test_gates_that_nothing_presses_rest() -> None:
    model = NETWORKS["plain"]()
    graph = record(model, example_inputs())
    strategy = LogisticSigmoid()
    strategy.attach(model, graph)
    prices = torch.ones(graph.num_units)
    prices[::2] = 0.0
    before = strategy.scores()
    (strategy._sample() * torch.linspace(-1, 1, graph.num_units)).sum().backward()
    strategy.after_step(prices, 0.5, 0.05)
    after = strategy.scores()
    torch.testing.assert_close(after[::2], before[::2])
    assert (after[1::2] != before[1::2]).all()


def test_relaxed_gates_estimate_the_gradient_of_the_probability() -> None:
    """A loss that is linear in the gates: its derivative by p is its coefficient, whatever the temperature."""
    model = NETWORKS["plain"]()
    graph = record(model, example_inputs())
    for options in ({"straight_through": False, "temperature": 0.3}, {"straight_through": True}):
        strategy = LogisticSigmoid(initial=0.5, **options)
        strategy.attach(model, graph)
        coefficient = torch.linspace(-1, 1, graph.num_units)
        total = torch.zeros(graph.num_units)
        for _ in range(4000):
            (strategy._sample() * coefficient).sum().backward()
        assert strategy._heard.grad is not None
        total = strategy._heard.grad / 4000
        torch.testing.assert_close(total, coefficient, rtol=0.1, atol=0.02)


def test_gates_are_open_as_often_as_their_probability() -> None:
    model = NETWORKS["plain"]()
    graph = record(model, example_inputs())
    strategy = LogisticSigmoid(initial=1.0, temperature=1.0)
    strategy.attach(model, graph)
    share = torch.stack([strategy._sample().detach() for _ in range(2000)]).mean()
    assert float(share) == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=0.01)


def test_the_temperature_falls_over_the_schedule() -> None:
    strategy = LogisticSigmoid(temperature=1.0, final_temperature=0.01)
    found = []
    for progress in (0.0, 0.5, 1.0):
        strategy.progress = progress
        found.append(strategy.tau)
    assert found == pytest.approx([1.0, 0.1, 0.01])


def test_draws_go_on_where_they_were() -> None:
    model = NETWORKS["residual"]().train()
    graph = record(model, example_inputs())
    strategy = LogisticSigmoid(initial=0.0, temperature=1.0)
    strategy.attach(model, graph)
    first = [strategy._sample().detach() for _ in range(3)]
    assert not torch.equal(first[0], first[1])
    tensors, state = strategy.state_dict()
    later = [strategy._sample().detach() for _ in range(2)]
    again = LogisticSigmoid(initial=0.0, temperature=1.0)
    again.attach(NETWORKS["residual"]().train(), graph)
    again.load_state_dict(tensors, state)
    assert all(
        torch.equal(one, two) for one, two in zip(later, [again._sample().detach() for _ in range(2)], strict=True)
    )
    other = LogisticSigmoid(initial=0.0, temperature=1.0, seed=1)
    other.attach(NETWORKS["residual"]().train(), graph)
    assert not torch.equal(other._sample().detach(), first[0])


@pytest.mark.parametrize(
    "options",
    [
        {"initial": 9},
        {"temperature": 0},
        {"final_temperature": -1.0},
        {"straight_through": "yes"},
        {"rate": float("nan")},
        {"threshold": 2},
        {"seed": -1},
    ],
)
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        get("logistic-sigmoid", **options)
    assert next(iter(options)) in caught.value.arrived


def test_a_state_of_another_network_is_refused() -> None:
    graph = record(NETWORKS["plain"](), example_inputs())
    strategy = LogisticSigmoid()
    strategy.attach(NETWORKS["plain"](), graph)
    with pytest.raises(ValueError, match="3 units"):
        strategy.load_state_dict({"logits": torch.zeros(3), "power": torch.zeros(1)}, {"draws": 0, "begun": False})
