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
from morphsearch.hardware.pace import even_pace
from morphsearch.hardware.predictor import NetworkSample, Predictor, fit
from morphsearch.hardware.queue import at_pace, charged, together
from morphsearch.hardware.sampling import Target
from morphsearch.hardware.timing import once
from morphsearch.hardware.work import COLUMNS, works_of

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


def test_the_pace_of_the_processor_is_taken_out_of_queueing(target: Target) -> None:
    """A network measured while the processor runs at half its pace is brought back to what the device takes then."""
    for slowness in (0.3, 30.0):  # limited by queueing, and by running
        samples = [queued(sample, slowness) for sample in fakes.samples(target, count=3)]
        one = samples[0]
        issued = 1e3 * one.issued + BETWEEN * one.steps / len(one.issued)
        ms = simulated(2 * issued, 1e3 * one.seen[2])
        slow = replace(one, issued=2 * one.issued, pace=4.0, ms=ms)
        even = even_pace([slow, *(replace(sample, pace=2.0) for sample in samples[1:])])
        np.testing.assert_allclose(even[0].issued, one.issued)
        np.testing.assert_allclose(even[0].seen[2], one.seen[2])
        assert even[0].ms == pytest.approx(one.ms - CONSTANT, rel=1e-3)


def test_a_pass_that_waits_for_another_device_counts_by_the_clock() -> None:
    import time

    seconds, waited = once(lambda: time.sleep(0.02), True)
    assert not waited
    assert seconds >= 0.02


def test_a_slow_processor_matters_as_far_as_it_is_waited_for() -> None:
    """Twice the queueing: all of it for a network of small operations, none of it for one of large ones."""
    issued, small, large = np.full(20, 5e-5), np.full(20, 5e-6), np.full(20, 1e-3)
    assert at_pace(issued, small, 1.3, 2.0) == pytest.approx(2.0, rel=0.01)  # 15 microseconds lie between operations
    assert at_pace(issued, large, 20.1, 2.0) == pytest.approx(1.0, rel=0.01)
    assert at_pace(issued, large, 20.1, 1.0) == pytest.approx(1.0)
    mixed = np.where(np.arange(20) < 10, 5e-6, 3e-4)
    assert 1.0 < at_pace(issued, mixed, 4.0, 2.0) < 2.0


def test_samples_are_brought_to_the_usual_pace_of_the_processor() -> None:
    """Of two measurements of one network, the one at half the pace is brought back; the GPU's own times stay."""
    seen = (["conv"] * 20, np.ones((20, len(COLUMNS))), np.full(20, 1e-6))
    rows = (["conv"] * 20, np.ones((20, len(COLUMNS))), 20)

    def sample(slowness: float) -> NetworkSample:
        ms = 2.0 * slowness
        return NetworkSample("a", [8], *rows, seen, ms, ms, ms, 0.0, 0.5 * slowness, np.full(20, 1e-4 * slowness))

    found = even_pace([sample(1.0), sample(1.0), sample(2.0)])
    assert [one.ms for one in found] == pytest.approx([2.0, 2.0, 2.0], rel=0.01)
    assert all((one.seen[2] == seen[2]).all() for one in found)
