"""Tables say what the records hold, at any width of the screen."""

from __future__ import annotations

import io

import pytest

from morphsearch.cli.errors import render
from morphsearch.errors import StoppedError, UsageError
from morphsearch.loop.retraining import Comparison, Row
from morphsearch.report import console, layers, style, tables
from morphsearch.report.inspection import GroupRow, Inspection, LayerRow


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def printed(*parts: object, columns: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a terminal of that many columns is sent, without colours."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    console.show(console.make(stream), *parts)  # type: ignore[arg-type]
    return stream.getvalue()


def inspection() -> Inspection:
    path = "features.denseblock1.denselayer1.conv1"
    return Inspection(
        name="net",
        changed=True,
        units={"params": "parameters", "flops": "FLOPs"},
        modules={"features": "Sequential", path: "Conv2d"},
        layers=[
            LayerRow(
                path,
                "Conv2d",
                [1, 3, 8, 8],
                [1, 64, 8, 8],
                (64, 37),
                {"params": 999, "flops": 1234567},
                {"params": 1728, "flops": 2e6},
            ),
        ],
        groups=[GroupRow(path, 64, 37, 1, 1, None, [], [path] * 30)],
        totals={"params": 999, "flops": 1234567},
        totals_before={"params": 1728, "flops": 2000000},
    )


@pytest.mark.parametrize("columns", [30, 60, 80, 120, 300])
def test_no_screen_is_too_narrow_for_the_numbers(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = inspection()
    text = printed(layers.layers(found), layers.groups(found, width=columns), columns=columns, monkeypatch=monkeypatch)
    for part in ("conv1", "64 -> 37", "1,728 -> 999", "2,000,000 -> 1,234,567", "of the seed", "57.8%"):
        assert part in text


def test_a_compact_table_keeps_layers_channels_and_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(layers.layers(inspection(), compact=True), columns=80, monkeypatch=monkeypatch)
    for part in ("conv1", "64 -> 37", "2.00M -> 1.23M"):
        assert part in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_pipe_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = io.StringIO()
    console.show(console.make(stream), layers.groups(inspection()))
    assert "\x1b" not in stream.getvalue()
    assert "features.denseblock1.denselayer1.conv1   64 -> 37" in stream.getvalue()


def test_bars_are_paired_and_to_scale() -> None:
    assert style.bar(64, 64).plain == style.bar(64, 64, before=10).plain
    whole, less, none = (style.bar(width, 64, before=64).plain for width in (64, 32, 0))
    assert len(whole) == len(less) == len(none) == style.BAR
    assert less.count(less[0]) == style.BAR // 2
    assert style.bar(1, 4096).plain, "what is there is seen"


def test_the_comparison_has_mean_spread_and_number_of_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"flops": 608512.0, "params": 20719.0}
    record = Comparison(
        [
            Row("001", "found", costs, [0.95, 0.97], 0.96, 0.0141),
            Row("uniform", "baseline", {"flops": 605884.0}, [0.93], 0.93, None),
            Row("seed", "seed", {"flops": 1217024.0, "params": 44426.0}, [0.97, 0.97], 0.97, 0.0),
        ],
        "001 beats uniform scaling by 3.00 points.",
        {"flops": "FLOPs", "params": "parameters"},
        ["Mind the gap."],
    )
    text = printed(*tables.comparison(record), columns=120, monkeypatch=monkeypatch)
    for part in (
        "96.00 ± 1.41 %",
        "93.00 %",
        "97.00 ± 0.00 %",
        "608,512",
        "20,719",
        "001 beats uniform",
        "Mind the gap.",
    ):
        assert part in text
    assert "93.00 ±" not in text, "one seed has no spread"


def test_messages_are_aligned_and_say_how_to_go_on() -> None:
    text = render(UsageError("a\nb", "", "c"))
    assert text.replace("\x1b", "").count("\n") == 2
    stopped = render(StoppedError("stopped in morph 1", "everything is saved", "morphsearch resume x"))
    for part in ("stopped:", " in morph 1", "note:", "everything is saved", "resume:", " morphsearch resume x"):
        assert part in stopped
