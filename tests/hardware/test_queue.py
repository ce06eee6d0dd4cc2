"""Networks on a device that works through a queue: queueing and running limit them by turns."""

from __future__ import annotations

from dataclasses import replace

import hardware_fakes as fakes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from morphsearch.hardware.bound import BoundLatency
from morphsearch.hardware.predictor import NetworkSample, Predictor, even_pace, fit
from morphsearch.hardware.queue import charged, together
from morphsearch.hardware.sampling import Target
from morphsearch.hardware.timing import once
from morphsearch.hardware.work import works_of

TIMES = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=30)
BETWEEN, CONSTANT = 0.004, 0.03


def simulated(issued: np.ndarray, running: np.ndarray) -> float:
    """The device, step by step."""
    queued = done = 0.0
    for issue, run in zip(issued, running, strict=True):
        queued += issue
        done = max(done, queued) + run
    return done


def issue_of(name: str) -> float:
    """Milliseconds to queue an operation of the simulated device."""
    return 0.02 if name.startswith("conv") else 0.008


def queued(sample: NetworkSample, slow: float) -> NetworkSample:
    """The sample of a device that runs `slow` times as long as the simulated one, and has to be told."""
    running = slow * 1e3 * fakes.seconds(sample.families, sample.rows)
    issued = np.array([issue_of(name) for name in sample.families])
    ms = simulated(issued + BETWEEN * sample.steps / len(issued), running) + CONSTANT
    seen = (sample.families, sample.rows, running / 1e3)
    return replace(sample, seen=seen, issued=issued / 1e3, ms=ms, low=ms, high=ms)


@pytest.fixture(scope="module")
def target() -> Target:
    return fakes.target()


def predictor(target: Target, slow: float) -> Predictor:
    return fit([queued(sample, slow) for sample in fakes.samples(target)])


@given(TIMES)
def test_the_formula_is_the_queue(times: list[tuple[float, float]]) -> None:
    issued, running = np.array(times).T
    assert together(issued, running) == pytest.approx(simulated(issued, running))
    shares = charged(issued, running)
    assert shares.sum() == pytest.approx(together(issued, running))
    assert (shares >= 0).all()


@pytest.mark.parametrize("slow", [0.02, 0.3, 1.0, 10.0])
def test_networks_that_the_fit_has_not_seen(target: Target, slow: float) -> None:
    fitted = predictor(target, slow)
    for sample in fakes.samples(target, count=20, seed=7):
        due = queued(sample, slow).ms
        assert fitted.network(sample.families, sample.rows, sample.steps) == pytest.approx(due, rel=0.05)


def bound_of(target: Target, fitted: Predictor) -> BoundLatency:
    from morphsearch.hardware.kinds import Fusion

    return BoundLatency(works_of(target.graph, Fusion(), 1), fitted, len(target.graph.groups))


def test_small_operations_cost_nothing_more_than_being_queued(target: Target) -> None:
    bound = bound_of(target, predictor(target, 0.02))
    seed = torch.tensor([float(width) for width in target.graph.widths.values()], dtype=torch.float64)
    narrow = (seed / 2).ceil()
    assert bound.total(narrow) == pytest.approx(float(bound.total(seed)), rel=0.02)
    assert (bound.prices(seed) * seed).sum() < 0.02 * bound.total(seed)


def test_large_operations_cost_what_they_run(target: Target) -> None:
    bound = bound_of(target, predictor(target, 10.0))
    seed = torch.tensor([float(width) for width in target.graph.widths.values()], dtype=torch.float64)
    assert bound.total((seed / 2).ceil()) < 0.6 * bound.total(seed)
    assert (bound.prices(seed)[1:-1] > 0).all()


@pytest.mark.parametrize("slow", [0.3, 1.0])
def test_layers_and_prices_agree_with_the_total(target: Target, slow: float) -> None:
    bound = bound_of(target, predictor(target, slow))
    at = torch.tensor([float(width) for width in target.graph.widths.values()], dtype=torch.float64)
    total = float(bound.total(at))
    assert sum(map(float, bound.per_layer(at).values())) == pytest.approx(total)
    for group, price in enumerate(bound.marginal(at)):
        more = at.clone()
        more[group] += 1
        assert float(bound.total(more)) - total == pytest.approx(float(price), abs=1e-12)


def test_a_fit_goes_through_a_file(target: Target) -> None:
    fitted = predictor(target, 1.0)
    again = Predictor.from_dict(fitted.to_dict())
    for sample in fakes.samples(target, count=3):
        args = (sample.families, sample.rows, sample.steps)
        assert again.network(*args) == pytest.approx(fitted.network(*args), rel=1e-5)


def test_the_pace_of_the_machine_is_taken_out_of_queueing_too(target: Target) -> None:
    samples = [queued(sample, 0.3) for sample in fakes.samples(target, count=3)]
    slow = replace(samples[0], pace=4.0)
    even = even_pace([slow, *(replace(sample, pace=2.0) for sample in samples[1:])])
    np.testing.assert_allclose(even[0].issued, slow.issued / 2)
    assert even[0].ms == pytest.approx(slow.ms / 2)


def test_a_pass_that_waits_for_another_device_counts_by_the_clock() -> None:
    import time

    seconds, waited = once(lambda: time.sleep(0.02), True)
    assert not waited
    assert seconds >= 0.02
