"""Timing on machines that other programs share: what a pass takes at full pace comes out, whatever else runs."""

from __future__ import annotations

import time

import numpy as np
import pytest

from morphsearch.hardware import timing
from morphsearch.hardware.gauge import Gauge
from morphsearch.hardware.timing import Pass, Timing, time_interleaved
from morphsearch.hardware.watching import quiet_middles


def turns(seed: int, share: float, *, power: float = 0.8, count: int = 30, ms: float = 5.0) -> list[list[Pass]]:
    """Two passes a turn on a machine that is slowed down to 1 / 1.45 for a `share` of the time; half a per cent of
    scatter."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        slow = 1.45 if rng.random() < share else 1.0
        found.append(
            [
                Pass(
                    1e-3 * ms * slow**power * rng.lognormal(0, 0.005),
                    before=slow * rng.lognormal(0, 0.02),
                    after=slow * rng.lognormal(0, 0.02),
                )
                for _ in range(2)
            ]
        )
    return found


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_slow_moments_leave_no_trace(share: float, seed: int) -> None:
    found = Timing.of(turns(seed, share))
    assert found.ms == pytest.approx(5.0, rel=0.03)
    assert not found.noisy
    assert found.repeated < 0.04
    assert found.low <= found.ms <= found.high


@pytest.mark.parametrize("power", [0.55, 0.65, 0.75])
def test_a_machine_that_never_comes_to_full_pace(power: float) -> None:
    """There the usual suffering is all that is known: right to within what it may be off by."""
    found = Timing.of(turns(0, 1.0, power=power))
    assert found.calm == 0
    assert found.ms == pytest.approx(5.0, rel=0.06)


def test_passes_that_had_to_wait_do_not_count() -> None:
    steady = [[Pass(5e-3)] for _ in range(5)]
    assert Timing.of([*steady, *([Pass(1e-3, waited=True)] for _ in range(5))]).ms == pytest.approx(5.0)
    assert Timing.of([[Pass(7e-3, waited=True)]]).ms == pytest.approx(7.0)


def test_noise_that_no_gauge_tells_is_told() -> None:
    shaky = Timing.of([[Pass(seconds)] for seconds in (1.0, 1.3, 0.8, 1.2, 0.9, 1.4, 0.7, 1.1)])
    assert shaky.noisy
    assert shaky.repeated > 0.05
    assert shaky.low < shaky.high


def test_two_timings_joined_are_one_of_all_turns() -> None:
    first, second = turns(1, 0.5), turns(2, 0.5)
    assert Timing.of(first).joined(Timing.of(second)) == Timing.of([*first, *second])


class Slow:
    """A gauge that reports a machine at half its pace until it was looked at so often."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __call__(self) -> float:
        self.looks -= 1
        return 2.0 if self.looks >= 0 else 1.0


def test_networks_get_turns_until_they_had_enough_at_full_pace() -> None:
    runs = [lambda: sum(range(2000)), lambda: sum(range(3000))]
    found = time_interleaved(runs, rounds=3, seconds=1e-4, gauge=Slow(400), patience=30.0)  # type: ignore[arg-type]
    assert all(one.calm >= timing.ENOUGH for one in found)
    assert all(len(one.turns) > timing.ENOUGH for one in found)
    hasty = time_interleaved(runs, rounds=3, seconds=1e-4, gauge=Slow(10**9), patience=0.0)  # type: ignore[arg-type]
    assert [len(one.turns) for one in hasty] == [3, 3]


def test_the_gauge_tells_slow_moments_and_learns_of_a_faster_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = [2e-4]
    monkeypatch.setattr(Gauge, "_work", lambda self: pace[0])
    gauge = Gauge(first=0.0)
    assert gauge() == pytest.approx(1.0)
    pace[0] = 3e-4
    assert gauge() == pytest.approx(1.5)
    pace[0] = 1e-4  # the first moments were slow ones
    looks = [gauge() for _ in range(200)]
    assert looks[0] == pytest.approx(0.5)
    assert looks[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_gauge_works_with_any_number_of_threads(threads: int) -> None:
    gauge = Gauge(threads, first=0.0)
    assert gauge() > 0
    assert gauge.full > 0


def test_operations_are_judged_by_the_passes_in_which_their_neighbours_were_quick() -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(5e-6, 5e-4, 40)
    pace = np.ones((40, 60))
    for column in range(60):  # slow stretches that begin and end within passes
        start = rng.integers(0, 40)
        pace[start : start + 25, column] = 1.5
    seen = true[:, None] * pace * rng.lognormal(0, 0.02, pace.shape)
    found = quiet_middles(seen.tolist())
    assert np.abs(found / true - 1).mean() < 0.02
    assert np.abs(np.median(seen, axis=1) / true - 1).mean() > 0.05


def test_ticks_of_a_clock_are_not_rounded_down() -> None:
    """Times of 3.4 ticks are shown as 3 or 4; on average they still are 3.4."""
    rng = np.random.default_rng(1)
    seen = np.floor(3.4 + rng.random((20, 90)))
    assert quiet_middles(seen.tolist()).mean() == pytest.approx(3.4, abs=0.1)


def test_rows_of_different_lengths_have_their_middles() -> None:
    assert quiet_middles([[1.0, 2.0, 3.0], [4.0]]).tolist() == [2.0, 4.0]
    assert quiet_middles([]).tolist() == []


def test_a_short_operation_may_wait_for_long() -> None:
    """Of work on the processor only the processor's time counts, were it a thousandth of what the clock says."""
    assert timing.settled(1.0, 0.001) == (0.001, True)
    assert timing.settled(0.010, 0.010) == (0.010, False)
    assert timing.settled(0.010, 0.019) == (0.010, False), "two threads"


def test_what_leaves_the_processor_idle_counts_by_the_clock() -> None:
    (found,) = time_interleaved([lambda: time.sleep(0.01)], rounds=2)
    assert found.ms >= 10
