"""A limit of seconds is kept, by a clock that the tests hold."""

from __future__ import annotations

import time
from typing import Any

import hardware_fakes as fakes
import pytest

from morphsearch.errors import InputError
from morphsearch.hardware import Settings, profile
from morphsearch.hardware.allowance import UNHURRIED, Allowance
from morphsearch.hardware.measure import Session
from morphsearch.hardware.predictor import NetworkSample


class Clock:
    """Stands still until somebody lets it go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def slow(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which every network takes three seconds to measure."""

    def sample(session: Session, chosen: Any) -> list[NetworkSample]:
        clock.now += 3.0 * len(chosen)
        return [fakes.sample(target, widths) for target, widths in chosen]

    monkeypatch.setattr(Session, "sample", sample)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(("limit", "count"), [(19.0, 6), (26.0, 8), (60.0, 20), (1000.0, 30)])
def test_nothing_is_begun_that_would_end_after_the_limit(limit: float, count: int) -> None:
    found = profile([fakes.target()], Settings(), limit=limit, networks=30)
    assert len(found.samples) == count
    assert found.seconds <= limit


@pytest.mark.usefixtures("slow")
def test_a_limit_that_is_too_short_is_told_with_one_that_does() -> None:
    with pytest.raises(InputError, match="4 networks were measured in 12 seconds") as caught:
        profile([fakes.target()], Settings(), limit=13)
    assert "raise --limit to 36 or more" in caught.value.repair
    assert len(profile([fakes.target()], Settings(), limit=36, networks=8).samples) == 8


def test_networks_that_there_is_no_time_for_are_left_out(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("morphsearch.hardware.measure.once", lambda run, waits=False: (0.1, False))
    session = Session(Settings())
    target = fakes.target()
    session.allowance = Allowance(2000.0)
    assert len(session._affordable([(target, {})] * 4)) == 4
    session.allowance = Allowance(20.0)
    assert 0 < len(session._affordable([(target, {})] * 4)) < 4
    session.allowance = Allowance(1.0)
    assert session.sample([(target, {})] * 4) == []


def test_short_limits_shorten_what_each_network_gets(clock: Clock) -> None:
    assert Allowance().brief == Allowance(UNHURRIED).brief == 1
    assert Allowance(UNHURRIED / 4).brief == 0.25
    assert Allowance(0.0 + 1e-9).room(4) == 4
    clock.now += 1
    assert Allowance(5.0).left == 5.0
