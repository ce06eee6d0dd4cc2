"""When masks are updated, and that the last update lands on the final sparsity whatever the numbers are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphsearch.errors import MorphError, UnknownName, UsageError
from morphsearch.sparsity import Schedule


def updates(schedule: Schedule, steps: int) -> dict[int, float]:
    times = schedule.timetable(steps)
    return {step: times.sparsity(step) for step in range(steps + 1) if times.fires(step)}


def test_the_curve_of_zhu_and_gupta() -> None:
    times = Schedule.polynomial(0.8, initial=0.5, begin=100, end=500, frequency=100).timetable()
    found = [round(times.sparsity(step), 3) for step in (100, 200, 300, 400, 500)]
    assert found == [0.5, 0.673, 0.763, 0.795, 0.8]
    assert times.sparsity(99) == 0.0
    assert times.sparsity(10_000) == 0.8


@given(
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(1, 400),
    st.floats(0, 0.99),
    st.floats(0, 1),
    st.floats(0.5, 5),
)
def test_the_last_update_lands_on_the_target(
    begin: int, length: int, frequency: int, final: float, part: float, power: float
) -> None:
    schedule = Schedule(final, final * part, begin, begin + length, frequency, power)
    found = updates(schedule, begin + length + 50)
    assert max(found) == begin + length
    assert found[begin + length] == final
    assert min(found) == begin
    assert len(found) == schedule.timetable().updates
    sparsities = [found[step] for step in sorted(found)]
    assert sparsities == sorted(sparsities)
    assert all(0 <= one <= final + 1e-12 for one in sparsities)


@given(st.integers(1, 500), st.floats(0, 1), st.floats(0, 1))
def test_shares_of_any_training_fire_and_end_within_it(steps: int, one: float, other: float) -> None:
    found = updates(Schedule(0.5, begin=min(one, other), end=max(one, other)), steps)
    assert found
    assert max(found) <= steps
    assert found[max(found)] == 0.5


def test_short_runs_prune_by_default() -> None:
    assert updates(Schedule.polynomial(0.9), 1)[1] == 0.9
    assert updates(Schedule.polynomial(0.9), 20)[14] == 0.9
    assert len(updates(Schedule.polynomial(0.9), 50_000)) <= 101


def test_constant_is_there_at_once() -> None:
    assert updates(Schedule.constant(0.5), 100) == {0: 0.5}
    assert updates(Schedule.constant("50%", begin=10, end=30, frequency=8), 100) == dict.fromkeys((10, 18, 26, 30), 0.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"final": 1.0}, "target=1.0"),
        ({"final": -0.1}, "target=-0.1"),
        ({"final": "100%"}, "99%"),
        ({"final": 70}, "did you mean 70%?"),
        ({"final": "lots"}, "'lots'"),
        ({"final": float("nan")}, "nan"),
        ({"final": True}, "True"),
        ({"final": 0.5, "initial": 0.6}, "initial sparsity 60%"),
        ({"final": 0.5, "begin": 20, "end": 10}, "ends at 10"),
        ({"final": 0.5, "begin": 0.9}, "ends at 0.7"),
        ({"final": 0.5, "begin": -1}, "begin=-1"),
        ({"final": 0.5, "begin": 1.5}, "begin=1.5"),
        ({"final": 0.5, "begin": "soon"}, "begin='soon'"),
        ({"final": 0.5, "frequency": 0}, "frequency=0"),
        ({"final": 0.5, "power": 0}, "power=0"),
        ({"final": 0.5, "kind": "polynomal"}, "did you mean polynomial?"),
    ],
)
def test_schedules_that_make_no_sense(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Schedule(**arguments)
    complete(caught.value, words)


@pytest.mark.parametrize(
    ("schedule", "steps", "words"),
    [
        (Schedule(0.5, begin=200, end=300), 100, "begins at step 200, and training has 100"),
        (Schedule(0.5, begin=50, end=300), 100, "ends at step 300"),
        (Schedule(0.5, begin=90, end=0.5), 100, "begins at step 90 and ends at step 50"),
        (Schedule(0.5), None, "length is not known"),
    ],
)
def test_schedules_that_do_not_fit_the_training(schedule: Schedule, steps: int | None, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        schedule.timetable(steps)
    complete(caught.value, words)


def test_misspelt_kind_is_an_unknown_name() -> None:
    with pytest.raises(UnknownName):
        Schedule(0.5, kind="linear")


def complete(error: MorphError, words: str) -> None:
    """Three parts, and the words in one of them."""
    assert error.arrived
    assert error.rule
    assert error.repair
    assert words in str(error)
