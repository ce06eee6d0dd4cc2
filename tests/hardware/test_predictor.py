"""The predictor: what a simulated device does is learnt from some networks, and foretold for others."""

from __future__ import annotations

from dataclasses import replace

import hardware_fakes as fakes
import numpy as np
import pytest
import torch

from morphsearch.costs import vector
from morphsearch.hardware.predictor import NetworkSample, Predictor, cross_validate, errors, fit
from morphsearch.hardware.work import COLUMNS, filters


@pytest.fixture(scope="module")
def target() -> fakes.Target:
    return fakes.target()


@pytest.fixture(scope="module")
def predictor(target: fakes.Target) -> Predictor:
    return fit(fakes.samples(target))


def test_networks_that_the_fit_has_not_seen(target: fakes.Target, predictor: Predictor) -> None:
    fresh = fakes.samples(target, count=20, seed=7)
    ratios = np.array([predictor.network(s.families, s.rows, s.steps) / s.ms for s in fresh])
    assert errors(ratios)["mape"] < 0.03
    assert errors(ratios)["within_10"] == 1.0


def test_the_error_that_is_told_is_of_networks_held_out(target: fakes.Target) -> None:
    samples = fakes.samples(target)
    for place in range(0, len(samples), 2):
        samples[place].ms *= 1.5  # something that no predictor could know
    assert errors(cross_validate(samples))["mape"] > 0.12


def test_steps_of_vector_widths_are_seen(target: fakes.Target, predictor: Predictor) -> None:
    """On a device that pads to 16, the unit after 32 costs much more than those after 33."""
    bound = fakes.profile(target).bind(target.graph)
    name = target.graph.free[1]
    at = [float(bound.total(vector(target.graph, {name: width}))) for width in (32, 33, 48)]
    assert at[1] - at[0] > 5 * (at[2] - at[1]) / 15  # one unit over the edge against each of those up to the next


def test_what_is_saved_predicts_the_same(target: fakes.Target, predictor: Predictor) -> None:
    again = Predictor.from_dict(predictor.to_dict())
    for sample in fakes.samples(target, count=3, seed=3):
        one, other = (p.network(sample.families, sample.rows, sample.steps) for p in (predictor, again))
        assert other == pytest.approx(one, rel=1e-6)


def test_a_backend_that_does_not_tell_operations_apart_is_fitted_to_whole_networks(target: fakes.Target) -> None:
    samples = fakes.samples(target, count=40)
    for sample in samples:
        sample.seen = ([], np.zeros((0, sample.rows.shape[1])), np.zeros(0))
    predictor = fit(samples)
    assert predictor.whole
    fresh = fakes.samples(target, count=20, seed=7)
    ratios = np.array([predictor.network(s.families, s.rows, s.steps) / s.ms for s in fresh])
    assert errors(ratios)["mape"] < 0.1


def cached(sample: NetworkSample) -> NetworkSample:
    """On a device whose cache holds 6,000 elements: filters of a network with more of them come from memory."""
    families, rows, seconds = sample.seen
    own = filters(families, rows)
    missed = own * 4e-9 if own.sum() > 6000 else 0.0 * own
    return replace(sample, seen=(families, rows, seconds + missed), ms=sample.ms + 1e3 * float(missed.sum()))


def test_prices_hold_where_filters_come_from_a_cache_or_not(target: fakes.Target) -> None:
    """A wider group makes other layers slower too, whose filters no longer find room: its price has that in it."""
    predictor = fit([cached(s) for s in fakes.samples(target)])
    bound = replace(fakes.profile(target), predictor=predictor).bind(target.graph)
    sample = fakes.samples(target, count=1, seed=7)[0]
    point = torch.tensor([float(width) for width in sample.widths], dtype=torch.float64)
    assert float(bound.total(point)) == pytest.approx(
        predictor.network(sample.families, sample.rows, sample.steps), rel=1e-9
    )
    marginal = bound.marginal(point)
    for place in range(len(point)):
        wider = point.clone()
        wider[place] += 1
        assert float(marginal[place]) == pytest.approx(float(bound.total(wider) - bound.total(point)), abs=1e-12)


def test_a_kind_that_was_not_seen_is_extrapolated_and_said_so(predictor: Predictor) -> None:
    families, rows = ["silu", "relu"], np.array([[0, 0, 0, 0, 0, 0, 5e4, 5e4, 0, 0]] * 2, float)
    assert predictor.unseen(families, rows).tolist() == [True, False]
    silu, relu = predictor.operations(families, rows)
    assert 0.2 < silu / relu < 5


def test_a_size_far_beyond_what_was_seen_is_said_so(predictor: Predictor) -> None:
    row = np.array([[640, 960, 640, 1, 256, 256, 163840, 245760, 0, 0]], float)
    assert predictor.unseen(["conv_1x1"], row).tolist() == [True]


def test_the_price_of_a_unit_is_a_difference_and_steering_is_a_slope(target: fakes.Target) -> None:
    bound = fakes.profile(target).bind(target.graph)
    point = vector(target.graph, target.graph.widths)
    marginal, prices = bound.marginal(point), bound.prices(point)
    for place, name in enumerate(target.graph.groups):
        wider = point.clone()
        wider[place] += 1
        assert float(marginal[place]) == pytest.approx(float(bound.total(wider) - bound.total(point)), abs=1e-12), name
    free = [list(target.graph.groups).index(name) for name in target.graph.free]
    assert (prices >= 0).all()
    assert (prices[free] > 0).all()
    at = point.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(bound.total(at), at)
    assert torch.equal(gradient, prices)


def test_layers_add_up_to_the_total(target: fakes.Target) -> None:
    bound = fakes.profile(target).bind(target.graph)
    point = vector(target.graph, target.graph.widths) * 0.7
    assert sum(float(v) for v in bound.per_layer(point).values()) == pytest.approx(float(bound.total(point)))


def test_a_fused_activation_that_was_never_seen_is_said_so(predictor: Predictor) -> None:
    """It goes over the results again, at a price that nothing tells."""
    row = np.array([[16, 16, 16, 1, 256, 256, 4096, 4096, 0, 0]] * 2, float)
    row[1, COLUMNS.index("again")] = 4096
    assert predictor.unseen(["conv_1x1"] * 2, row).tolist() == [False, True]
