from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from morphsearch.errors import UsageError
from morphsearch.graph import record
from morphsearch.strategies import get
from morphsearch.strategies.group_lasso import GroupLasso
from morphsearch.testing import NETWORKS, example_inputs
from tests.strategies.streams import Stream


def attached(model: nn.Module, **options: Any) -> tuple[GroupLasso, Any]:
    graph = record(model, example_inputs())
    strategy = GroupLasso(**options)
    strategy.attach(model, graph)
    return strategy, graph


def rows(model: Stream) -> list[Tensor]:
    """Rows with their bias, `4 x d`, of both members of the stream."""
    return [
        torch.cat([m.weight.detach().flatten(1), m.bias.detach()[:, None]], 1).double() for m in (model.one, model.two)
    ]


def regularizer(members: list[Tensor], sizes: list[float], fraction: float) -> Tensor:
    """`4`: R_u as the docstring has it."""
    norms = torch.stack([w.norm(dim=1) / (c * w.shape[1] ** 0.5) for w, c in zip(members, sizes, strict=True)])
    sums = torch.stack([w.abs().sum(1) / (c * w.shape[1]) for w, c in zip(members, sizes, strict=True)])
    return (1 - fraction) * norms.amax(0) + fraction * sums.mean(0)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
def test_the_step_is_the_argmin(fraction: float, relative: bool) -> None:
    """The objective is convex: where no small change lowers it, it is at its least."""
    torch.manual_seed(0)
    model = Stream()
    strategy, graph = attached(model, l1_fraction=fraction, relative=relative, balance=False)
    before = rows(model)
    sizes = [float(w.square().mean().sqrt()) if relative else 1.0 for w in before]
    units = graph.units_of("one")
    torch.testing.assert_close(
        strategy.scores()[units].double(), regularizer(before, sizes, fraction), rtol=1e-4, atol=1e-6
    )
    prices = torch.zeros(graph.num_units)
    prices[units] = torch.tensor([0.1, 0.3, 0.6, 3.0]) * (1.0 if relative else 0.3)
    best = int(strategy.scores()[units].argmax())
    strategy.after_step(prices, 2.0, 0.5)
    after = rows(model)
    step = prices[units].double()
    step[best] = 0.0

    def objective(members: list[Tensor]) -> Tensor:
        far = sum(
            (z - w).square().sum(1) / (2 * c**2 * w.shape[1]) for z, w, c in zip(members, before, sizes, strict=True)
        )
        return far + step * regularizer(members, sizes, fraction)

    reached = objective(after)
    generator = torch.Generator().manual_seed(1)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(300):
            moved = [
                z + size * c * torch.randn(z.shape, generator=generator) for z, c in zip(after, sizes, strict=True)
            ]
            assert (objective(moved) >= reached - 1e-7).all()
        for factor in (1 - size, 1 + size):
            assert (objective([factor * z for z in after]) >= reached - 1e-7).all()
    torch.testing.assert_close(after[0][best], before[0][best])
    dead = 3 if best != 3 else 2
    assert all((w[dead] == 0).all() for w in after) == bool(strategy.scores()[units][dead] == 0)


def test_coupled_rows_die_together_with_their_biases() -> None:
    torch.manual_seed(0)
    model = Stream()
    strategy, graph = attached(model)
    units = graph.units_of("one")
    best = int(strategy.scores()[units].argmax())
    for _ in range(60):
        strategy.after_step(torch.ones(graph.num_units), 1.0, 0.1)
    for unit in range(4):
        zero = [bool((w[unit] == 0).all()) for w in rows(model)]
        assert zero == [unit != best] * 2
    assert strategy.alive(strategy.default_threshold)[units].tolist() == [unit == best for unit in range(4)]


def test_the_score_falls_by_price_whatever_the_fan_in() -> None:
    model = NETWORKS["bare"]()
    strategy, graph = attached(model, balance=False)
    before = strategy.scores()
    prices = torch.linspace(0.5, 1.5, graph.num_units)
    strategy.after_step(prices, 1.0, 0.1)
    fallen = (before - strategy.scores())[strategy.scored()]
    expected = 0.1 * prices[strategy.scored()]
    spared = fallen.abs() < 1e-6
    assert int(spared.sum()) == len(graph.free)
    torch.testing.assert_close(fallen[~spared], expected[~spared], rtol=1e-4, atol=1e-5)


def test_a_layer_keeps_its_size() -> None:
    """What weak rows lose strong ones gain, so that the signal passes a network without norms."""
    model = NETWORKS["bare"]()
    strategy, graph = attached(model)
    size = model.get_submodule("body.0").weight.square().sum() + model.get_submodule("body.0").bias.square().sum()
    for _ in range(20):
        strategy.after_step(torch.ones(graph.num_units), 1.0, 0.02)
    after = model.get_submodule("body.0").weight.square().sum() + model.get_submodule("body.0").bias.square().sum()
    torch.testing.assert_close(after, size, rtol=1e-4, atol=1e-6)


def test_scales_stand_for_rows_before_a_norm() -> None:
    model = NETWORKS["depthwise"]()
    strategy, _ = attached(model)
    assert strategy.regularized() == {"body.0.1.weight", "body.1.1.weight", "body.2.1.weight", "body.4.weight"}
    bare, _ = attached(NETWORKS["bare"]())
    assert bare.regularized() == {"body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"}


def test_on_norms_it_is_gamma_l1() -> None:
    model, twin = NETWORKS["residual"](), NETWORKS["residual"]()
    strategy, graph = attached(model, relative=False)
    other = get("gamma-l1")
    other.attach(twin, graph)
    prices = torch.linspace(0.5, 1.5, graph.num_units)
    strategy.after_step(prices, 1.0, 0.1)
    other.after_step(prices, 1.0, 0.1)
    pairs = zip(model.parameters(), twin.parameters(), strict=True)
    differ = sum(int((~torch.isclose(a, b)).sum()) for a, b in pairs)
    # One unit of each group is spared; the stream's has three scales.
    assert 0 < differ <= len(graph.free) + 2
    pressed = ~torch.isclose(strategy.scores(), other.scores()) & strategy.scored()
    assert int(pressed.sum()) <= len(graph.free)


def test_every_k_steps_makes_up_for_the_others() -> None:
    model, twin = NETWORKS["bare"](), NETWORKS["bare"]()
    each, graph = attached(model, balance=False)
    fourth, _ = attached(twin, balance=False, every=4)
    prices = torch.linspace(0.5, 1.5, graph.num_units)
    for _ in range(8):
        each.after_step(prices, 1.0, 0.01)
        fourth.after_step(prices, 1.0, 0.01)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_layers_are_weighed_by_what_they_were_when_the_morph_began() -> None:
    model = NETWORKS["bare"]()
    strategy, graph = attached(model)
    first = strategy.scores()
    with torch.no_grad():
        model.get_submodule("body.2").weight.mul_(0.5)
        model.get_submodule("body.2").bias.mul_(0.5)
    units = torch.from_numpy(graph.units_of("body.2"))
    torch.testing.assert_close(strategy.scores()[units], first[units] / 2)
    again = GroupLasso()
    again.attach(model, graph)
    again.load_state_dict(*strategy.state_dict())
    torch.testing.assert_close(again.scores(), strategy.scores())
    with torch.no_grad():
        model.get_submodule("body.2").weight[:, 3:] = 0  # as the loop does, once units are silent
    before = strategy.scores()
    smaller = graph.shrink({"body.0": [0, 1, 2]})
    kept = np.r_[0:3, 8 : graph.num_units]
    strategy.leave(smaller, record(smaller, example_inputs()), torch.from_numpy(kept))
    torch.testing.assert_close(strategy.scores(), before[kept])


@pytest.mark.parametrize(
    "options",
    [{"l1_fraction": 1.5}, {"threshold": -1}, {"relative": "no"}, {"balance": 1}, {"every": 0}, {"every": 2.5}],
)
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        get("group-lasso", **options)
    assert next(iter(options)) in caught.value.arrived


def test_a_misspelt_option_has_its_nearest() -> None:
    with pytest.raises(UsageError, match="l1_fraction"):
        get("group-lasso", l1_fracton=0.5)
