"""Progress: bars on a terminal, plain lines elsewhere, nothing on stdout."""

from __future__ import annotations

import io

import pytest

from morphsearch.report.numbers import change, duration, exact, short
from morphsearch.report.progress import progress


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_every_few_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    with progress(stream, every=5.0, clock=clock) as listener:
        for step in range(101):
            clock.now = step * 1.0
            listener("progress", {"phase": "morph 1", "done": step, "total": 100, "unit": "steps", "loss": 0.5})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 21
    assert lines[0] == "[0:00] morph 1 0/100 steps (0%), loss 0.500"
    assert lines[10] == "[0:50] morph 1 50/100 steps (50%), 0:50 left, loss 0.500"
    assert lines[-1] == "[1:40] morph 1 100/100 steps (100%), loss 0.500"


def test_each_phase_begins_and_ends_with_a_line() -> None:
    stream, clock = io.StringIO(), Clock()
    with progress(stream, every=1e9, clock=clock) as listener:
        for phase in ("train", "judge"):
            for done in range(11):
                listener("progress", {"phase": phase, "done": done, "total": 10})
    assert [line.split("] ")[1] for line in stream.getvalue().splitlines()] == [
        "train 0/10 (0%)",
        "train 10/10 (100%)",
        "judge 0/10 (0%)",
        "judge 10/10 (100%)",
    ]


def test_a_phase_that_starts_again_is_told_apart() -> None:
    for stream in (io.StringIO(), Terminal()):
        with progress(stream, every=1e9) as listener:
            for seed in (0, 1):
                for done in (0, 50, 100):
                    event = {"phase": "retrain", "label": "uniform", "seed": seed, "done": done, "total": 100}
                    listener("progress", event)
            for _ in range(30):
                listener("progress", {"phase": "same", "done": 0, "total": 2})
                listener("progress", {"phase": "same", "done": 2, "total": 2})
        text = stream.getvalue()
        assert "retrain uniform seed 0" in text
        assert "retrain uniform seed 1" in text


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["log", "terminal"])
def test_warnings_and_notes_are_shown_and_nothing_goes_to_stdout(
    stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(stream) as listener:
        listener("start", {"text": "search resnet20"})
        listener(
            "progress",
            {"phase": "train", "done": 1, "total": 3, "cost": {"flops": 12e6}, "alive": 40, "strength": 1e-3},
        )
        listener("warning", {"text": "group stem is at its floor"})
        listener("unheard-of", {})
        listener("iteration", {"iteration": 1, "cost": 0.5, "accuracy": 0.91})
    text = stream.getvalue()
    for part in (
        "search resnet20",
        "group stem is at its floor",
        "flops 12.0M",
        "40 units alive",
        "strength 0.001",
        "91.0%",
    ):
        assert part in text
    assert not capsys.readouterr().out


def test_a_terminal_sees_elapsed_and_remaining_time() -> None:
    stream = Terminal()
    with progress(stream) as listener:
        listener("progress", {"phase": "train", "done": 1, "total": 3, "unit": "steps"})
    assert "1/3" in stream.getvalue()
    assert "0:00:00" in stream.getvalue()


def test_numbers_read_well() -> None:
    assert [short(value) for value in (0, 7, 999, 1234, 40_813_184, 4.1e9, 0.12345, None)] == [
        "0",
        "7",
        "999",
        "1.23k",
        "40.8M",
        "4.10G",
        "0.123",
        "-",
    ]
    assert [exact(value) for value in (1234567, 0.5, 12345.678, None)] == ["1,234,567", "0.5", "12,346", "-"]
    assert [duration(seconds) for seconds in (0, 59.6, 3723, None)] == ["0:00", "1:00", "1:02:03", "-"]
    assert (change(64, 37), change(64, 64)) == ("64 -> 37", "64")
