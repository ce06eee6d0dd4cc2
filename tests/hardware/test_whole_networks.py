"""What whole networks say beyond their operations: the cost of watching, the machine's pace, a bend of the fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import hardware_fakes as fakes
import numpy as np
import pytest

from morphsearch.hardware.pace import drift, even_pace, suffered
from morphsearch.hardware.predictor import NetworkSample, errors, fit, steadied, watching

CLOCK = 7e-6  # seconds that a clock adds to each operation


@pytest.fixture(scope="module")
def samples() -> list[NetworkSample]:
    return fakes.samples(fakes.target())


def off(samples: Sequence[NetworkSample], of: Sequence[NetworkSample]) -> dict[str, float]:
    """Errors of a fit to `samples` on others."""
    predictor = fit(samples)
    return errors(np.array([predictor.network(s.families, s.rows, s.steps) / s.ms for s in of]))


def test_what_a_clock_adds_is_told_from_whole_networks(samples: list[NetworkSample]) -> None:
    watched = [replace(s, seen=(*s.seen[:2], s.seen[2] + CLOCK)) for s in samples]
    for place, sample in enumerate(watched):  # networks of other lengths, so that operations and time can be told apart
        half = len(sample.seen[0]) // (1 + place % 3)
        seen = (sample.seen[0][:half], sample.seen[1][:half], sample.seen[2][:half])
        watched[place] = replace(sample, seen=seen, ms=1e3 * float((seen[2] - CLOCK).sum()))
    share, added = watching(watched)
    assert added == pytest.approx(1e3 * CLOCK, rel=0.02)
    assert share == pytest.approx(1.0, rel=0.02)
    for plain, sample in zip(steadied(watched, share, added)[0], watched, strict=True):
        assert 1e3 * plain.seen[2].sum() == pytest.approx(sample.ms, rel=0.03)


def test_an_observed_time_counts_without_the_clock(samples: list[NetworkSample]) -> None:
    watched = [replace(s, seen=(*s.seen[:2], s.seen[2] + CLOCK)) for s in samples]
    fresh = fakes.samples(fakes.target(), count=20, seed=7)
    assert off(watched, fresh)["mape"] < 0.03


def test_a_change_of_pace_is_taken_out(samples: list[NetworkSample]) -> None:
    rng = np.random.default_rng(0)
    slowed = []
    for sample in samples:
        factor = float(rng.uniform(0.7, 1.4))
        seen = (*sample.seen[:2], sample.seen[2] * factor)
        slowed.append(replace(sample, seen=seen, ms=sample.ms * factor, pace=2.0 * factor))
    assert drift(np.array([s.pace for s in slowed])) > 0.1
    even = even_pace(slowed)
    ratios = np.array([one.ms / other.ms for one, other in zip(even, samples, strict=True)])
    assert ratios.std() < 1e-9
    fresh = [replace(s, ms=s.ms * ratios[0]) for s in fakes.samples(fakes.target(), count=20, seed=7)]
    assert off(even, fresh)["mape"] < 0.03 < off(slowed, fresh)["mape"]


def test_samples_without_a_pace_stay_as_they_are(samples: list[NetworkSample]) -> None:
    assert even_pace(samples) == samples
    assert drift(np.array([s.pace for s in samples])) == 0.0


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_networks_are_freed_of_what_they_suffer_from_a_slow_machine(samples: list[NetworkSample], power: float) -> None:
    """The reference may change its pace for reasons of its own: then scaling by it would add errors, not take them."""
    rng = np.random.default_rng(1)
    swaying = []
    for sample in samples:
        pace = float(rng.uniform(0.85, 1.2))
        seen = (*sample.seen[:2], sample.seen[2] * pace**power)
        swaying.append(replace(sample, seen=seen, ms=sample.ms * pace**power, pace=2.0 * pace))
    assert suffered(swaying) == pytest.approx(power, abs=0.1)
    assert suffered([replace(sample, pace=2.0) for sample in samples]) == 1.0


def test_a_network_that_was_watched_in_a_slow_moment_spoils_no_fit(samples: list[NetworkSample]) -> None:
    told = list(samples)
    for place in (2, 9, 15):  # where something else ran meanwhile, which fell on convolutions
        families, rows, seconds = told[place].seen
        slow = np.array([30.0 if name == "conv" else 1.0 for name in families])
        told[place] = replace(told[place], seen=(families, rows, seconds * slow))
    fresh = fakes.samples(fakes.target(), count=20, seed=7)
    assert off(told, fresh)["mape"] < 0.03


def test_views_cost_nothing(samples: list[NetworkSample]) -> None:
    """A runtime reports one view of a network and leaves out the others: what the one took says nothing of them."""
    view = np.zeros((1, samples[0].rows.shape[1]))
    told = [
        replace(s, seen=([*s.seen[0], "view"], np.concatenate([s.seen[1], view]), np.append(s.seen[2], 3e-6)))
        for s in samples
    ]
    predictor = fit(told)
    one = samples[0]
    rows = np.concatenate([one.rows, np.repeat(view + 1e5, 60, axis=0)])
    many = predictor.running([*one.families, *["view"] * 60], rows)
    assert many.sum() == pytest.approx(predictor.running(one.families, one.rows).sum())


def dearer(sample: NetworkSample) -> NetworkSample:
    """Wide depthwise convolutions take longer in whole networks than where they are watched."""
    total = sample.ms
    for name, row, seconds in zip(*sample.seen, strict=True):
        if name == "conv_depthwise":
            total += 1e3 * seconds * 8 * np.sqrt(row[0] / 64)
    return replace(sample, ms=float(total))


def test_whole_networks_bend_the_fits(samples: list[NetworkSample], monkeypatch: pytest.MonkeyPatch) -> None:
    told = [dearer(s) for s in samples]
    fresh = [dearer(s) for s in fakes.samples(fakes.target(), count=20, seed=7)]
    bent = off(told, fresh)["mape"]
    monkeypatch.setattr("morphsearch.hardware.predictor.bend", lambda predictor, samples: predictor)
    assert bent < off(told, fresh)["mape"]


def test_fits_that_are_right_stay_as_they_are(samples: list[NetworkSample]) -> None:
    families = fit(samples).families
    assert all(np.abs(f.bend).max() < 0.05 for f in families.values() if f.bend.size)
