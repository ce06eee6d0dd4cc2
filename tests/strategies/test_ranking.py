"""Strategies that rank: magnitude and taylor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from morphsearch.errors import UsageError
from morphsearch.graph import record
from morphsearch.strategies import get, taylor
from morphsearch.strategies.magnitude import Magnitude
from morphsearch.strategies.places import places, speaking
from morphsearch.strategies.taylor import Taylor
from morphsearch.testing.networks import CLASSES, NETWORKS, example_inputs
from tests.strategies.streams import Stream


def batch(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 3, 8, 8, generator=generator, dtype=dtype)
    return x, torch.randint(CLASSES, (8,), generator=generator)


def loss_of(model: nn.Module, seed: int) -> Tensor:
    x, y = batch(seed)
    return nn.functional.cross_entropy(model(x), y)


@pytest.mark.parametrize("name", [*sorted(NETWORKS), "stream"])
def test_taylor_is_the_first_order_change_of_the_loss(name: str) -> None:
    """Against the difference quotient of the loss in a common factor on all that a unit says."""
    model = (Stream() if name == "stream" else NETWORKS[name]()).eval().double()
    graph = record(model, example_inputs().double())
    strategy = Taylor()
    strategy.attach(model, graph)
    strategy.penalty(torch.ones(graph.num_units), 0.0)
    loss_of(model, 1).backward()
    strategy.after_step(torch.ones(graph.num_units), 0.0, 0.1)
    scores = strategy.scores()
    found = speaking(places(model, graph))

    def changed(unit: int, factor: float) -> float:
        with torch.no_grad():
            held = [(place.tensor, place.tensor.detach().clone()) for place in found]
            for place in found:
                by = torch.from_numpy(np.where(place.units == unit, factor, 1.0)).view(place.shape())
                place.tensor.mul_(by)
            value = float(loss_of(model, 1))
            for tensor, former in held:
                tensor.copy_(former)
        return value

    step = 1e-5
    for unit in np.nonzero(strategy.scored().numpy())[0][::3]:
        slope = (changed(unit, 1 + step) - changed(unit, 1 - step)) / (2 * step)
        assert float(scores[unit]) == pytest.approx(abs(slope), rel=1e-3, abs=1e-6)


def test_rows_before_a_norm_say_nothing() -> None:
    model = NETWORKS["depthwise"]()
    found = places(model, record(model, example_inputs()))
    kinds = {place.name: (place.kind, place.normed) for place in found}
    assert kinds["body.1.0.weight"] == ("rows", True)
    assert kinds["body.2.1.weight"] == ("scale", False)
    assert kinds["body.2.1.bias"] == ("shift", False)
    dense = NETWORKS["dense"]()
    kinds = {p.name: (p.kind, p.normed) for p in places(dense, record(dense, example_inputs()))}
    assert kinds["stem.weight"] == ("rows", False), "a concatenation reads it, not a norm alone"


def test_taylor_averages_over_batches_and_accumulated_gradients_are_one() -> None:
    model = NETWORKS["bare"]().double()
    graph = record(model, example_inputs().double())

    def scores(batches: list[list[int]], power: str) -> Tensor:
        strategy = Taylor(memory=1000, power=power)
        strategy.attach(model, graph)
        prices = torch.ones(graph.num_units)
        for together in batches:
            for seed in together:
                strategy.penalty(prices, 0.0)
                loss_of(model, seed).backward()
            for parameter in model.parameters():
                parameter.grad = None  # as in the user's loop, before search.step()
            strategy.after_step(prices, 0.0, 0.1)
        strategy.detach()
        return strategy.scores()[strategy.scored()]

    one, two = scores([[1]], "square"), scores([[2]], "square")
    torch.testing.assert_close(scores([[1], [2]], "square"), ((one**2 + two**2) / 2).sqrt(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(scores([[1], [2]], "abs"), (one + two) / 2, rtol=1e-4, atol=1e-7)
    both = scores([[1, 2]], "abs")
    assert (both <= one + two + 1e-6).all()
    assert not torch.allclose(both, one + two), "signs within a step cancel before anything is squared"


@pytest.mark.parametrize("large", [1, 1 << 20])
def test_taylor_is_not_rounded_where_backward_is_called_under_autocast(
    monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    monkeypatch.setattr(taylor, "LARGE", large)
    layer = nn.Conv2d(3, 8, 3)
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, CLASSES))
    strategy = Taylor()
    strategy.attach(model, record(model, example_inputs()))
    strategy.penalty(torch.ones(8), 0.0)
    x, y = batch(1, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        nn.functional.cross_entropy(model(x), y).backward()
    strategy.after_step(torch.ones(8), 0.0, 0.1)
    with torch.no_grad():
        expected = (layer.weight * layer.weight.grad).flatten(1).double().sum(1) + layer.bias * layer.bias.grad
    assert torch.allclose(strategy.scores()[:8], expected.abs().float(), rtol=1e-5, atol=1e-9)


def test_taylor_forgets() -> None:
    model = NETWORKS["bare"]().double()
    graph = record(model, example_inputs().double())
    strategy = Taylor(memory=2)
    strategy.attach(model, graph)
    for seed in [1] + [2] * 30:
        strategy.penalty(torch.ones(graph.num_units), 0.0)
        loss_of(model, seed).backward()
        model.zero_grad()
        strategy.after_step(torch.ones(graph.num_units), 0.0, 0.1)
    late = strategy.scores()
    fresh = Taylor()
    strategy.detach()
    fresh.attach(model, graph)
    fresh.penalty(torch.ones(graph.num_units), 0.0)
    loss_of(model, 2).backward()
    fresh.after_step(torch.ones(graph.num_units), 0.0, 0.1)
    torch.testing.assert_close(late, fresh.scores(), rtol=1e-3, atol=1e-6)


def test_taylor_leaves_no_hooks_and_knows_nothing_before_the_first_step() -> None:
    model = NETWORKS["plain"]()
    graph = record(model, example_inputs())
    strategy = Taylor()
    strategy.attach(model, graph)
    assert strategy.alive(0.5).all()
    strategy.penalty(torch.ones(graph.num_units), 0.0)
    strategy.detach()
    nn.functional.cross_entropy(model(batch(1, torch.float32)[0]), batch(1)[1]).backward()
    strategy._fresh = strategy._fresh or False
    assert strategy._parts.numel() == 0


def test_magnitude_is_the_norm_over_the_mean_norm_of_the_layer() -> None:
    model = Stream()
    graph = record(model, example_inputs())
    one, two = (layer.weight.detach().flatten(1) for layer in (model.one, model.two))
    units = graph.units_of("one")

    def scores(**options: Any) -> Tensor:
        strategy = Magnitude(**options)
        strategy.attach(model, graph)
        return strategy.scores()[units]

    norms = [rows.norm(dim=1) for rows in (one, two)]
    torch.testing.assert_close(scores(), (norms[0] / norms[0].mean() + norms[1] / norms[1].mean()) / 2)
    torch.testing.assert_close(scores(relative=False, coupling="max"), torch.maximum(*norms))
    torch.testing.assert_close(scores(relative=False, norm="l1"), (one.abs().sum(1) + two.abs().sum(1)) / 2)


def test_units_at_zero_do_not_raise_the_scores_of_others() -> None:
    model = Stream()
    graph = record(model, example_inputs())
    strategy = Magnitude()
    strategy.attach(model, graph)
    units = graph.units_of("one")
    with torch.no_grad():
        model.one.weight[3] = model.two.weight[3] = 0
        model.two.weight[:, 3] = 0  # as the loop does, once the unit is silent
    scores = strategy.scores()[units]
    keep = graph.shrink({"one": [0, 1, 2]})
    smaller = Magnitude()
    smaller.attach(keep, record(keep, example_inputs()))
    torch.testing.assert_close(scores[:3], smaller.scores()[:3])
    assert scores[3] == 0


@pytest.mark.parametrize(
    ("name", "options", "near"),
    [
        ("magnitude", {"norm": "L1"}, "l1"),
        ("magnitude", {"coupling": "men"}, "mean"),
        ("magnitude", {"relative": 1}, "true"),
        ("taylor", {"memory": 0.5}, "50"),
        ("taylor", {"power": "squre"}, "square"),
        ("taylor", {"memry": 5}, "memory"),
    ],
)
def test_bad_options_are_named_with_a_repair(name: str, options: dict[str, Any], near: str) -> None:
    with pytest.raises(UsageError) as caught:
        get(name, **options)
    assert next(iter(options)) in caught.value.arrived
    assert near in caught.value.repair
