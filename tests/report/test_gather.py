"""What a report reads of a run: whole, unfinished, damaged; curves, fronts, sparsifications, the command again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from morphsearch.errors import InputError
from morphsearch.report.gather import gather
from morphsearch.report.records import Front, Point
from morphsearch.report.trajectory import thin, trajectory
from tests.report import runs


def test_curves_are_shares_of_the_seed_and_morphs_and_cuts_are_marked() -> None:
    found = trajectory(runs.events(), runs.COSTS, [runs.BUDGET])
    assert [panel.title.split(" of ")[0] for panel in found.panels] == ["Loss", "Accuracy", "Cost", "Strength"]
    cost = {curve.name: curve for curve in found.panels[2].curves}
    assert cost["flops"].steps == [40, 80, 80]
    assert cost["flops"].values == pytest.approx([1.0, 0.5, 604_000 / 1_217_024])
    assert found.panels[2].limits == {"flops=50%": 0.5}
    assert [(mark.step, mark.kind) for mark in found.marks] == [(60, "cut"), (80, "morph")]
    assert found.marks[0].cost == pytest.approx(0.75)


def test_lines_that_hold_no_numbers_are_passed_over() -> None:
    lines: list[dict[str, Any]] = [
        {"event": "epoch", "step": "many", "loss": [], "costs": 3},
        {"event": "epoch", "step": 10**400, "loss": 1.0},
        {"event": ["epoch"], "step": 5},
        {"event": "trial", "accuracy": "high"},
        {"event": "shrunk", "costs": None},
        {},
        *runs.events(),
    ]
    found = trajectory(lines, runs.COSTS, [{"text": 5}])
    assert found.panels[0].curves[0].values == [2.0, 1.0]
    assert found.trials[0].accuracy is None


def test_long_curves_are_thinned_out_but_keep_their_ends() -> None:
    kept = thin(list(range(10_000)), 100)
    assert len(kept) == 100
    assert (kept[0], kept[-1]) == (0, 9_999)


def test_the_front_is_those_that_no_other_beats() -> None:
    points = [
        Point("cheap", "baseline", {"flops": 1}, 0.5),
        Point("beaten", "found", {"flops": 2}, 0.4),
        Point("good", "found", {"flops": 2}, 0.8),
        Point("taught", "distilled", {"flops": 1}, 0.9),
        Point("dear", "seed", {"flops": 9}, 0.8),
        Point("unpriced", "seed", {}, 1.0),
    ]
    assert [point.label for point in Front("test", {"flops": "FLOPs"}, points).best("flops")] == ["cheap", "good"]


def test_before_any_retraining_the_next_command_is_named(tmp_path: Path) -> None:
    record = gather(runs.write(tmp_path / "a").path)
    assert f"morphsearch retrain {tmp_path / 'a'}" in record.verdict
    assert not record.settled
    assert record.front is not None
    assert record.front.judged == "validation, inherited weights"
    assert [one.best for one in record.architectures] == [True, False]


def test_an_interrupted_run_says_how_it_goes_on(tmp_path: Path) -> None:
    lines = [*runs.events(), {"event": "interrupted", "iteration": 2, "step": 95}]
    record = gather(runs.write(tmp_path / "a", lines=lines, complete=False).path)
    assert record.state == "interrupted"
    assert record.resume == f"morphsearch resume {tmp_path / 'a'}"
    assert ("interrupted", "At step 95: interrupted here, after saving") in [(n.kind, n.text) for n in record.notes]
    killed = gather(runs.write(tmp_path / "b", complete=False).path)
    assert killed.state == "running"
    assert killed.resume


def test_recoveries_warnings_and_notes_are_told(tmp_path: Path) -> None:
    lines = [
        *runs.events(),
        {"event": "recovered", "step": 40, "iteration": 2, "reason": "the loss is not finite", "lr": 0.016, "tries": 1},
        {"event": "warning", "step": 80, "text": "No unit has died by the end of the schedule."},
    ]
    note = "There is no gap in the scores."
    record = gather(runs.write(tmp_path / "a", found=(runs.architecture("001", notes=(note,)),), lines=lines).path)
    assert {note.text for note in record.notes} == {
        "At step 40: recovered: the loss is not finite; went on at lr=0.016",
        "At step 80: No unit has died by the end of the schedule.",
        f"001: {note}",
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", '{"format": "morphsearch-run", "schema_vers'),
        ("run.json", "[]"),
        ("run.json", json.dumps({"format": "morphsearch-run", "schema_version": 1, "config": {"model": 3}})),
        (
            "run.json",
            json.dumps(
                {"format": "morphsearch-run", "schema_version": 1, "kind": "sparsify", "sparsify": {"model": 3}}
            ),
        ),
        ("iterations/001/architecture.json", '{"format": "morphsearch-architecture"'),
        ("iterations/002/architecture.json", "\x00\x01"),
        ("result.json", "7"),
        ("result.json", '{"best": 3}'),
        ("retrained/001-seed0/result.json", '{"label": "001"}'),
        ("retrained/001-seed0/result.json", "[" * 100_000),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_is_shown(tmp_path: Path, name: str, text: str) -> None:
    run = runs.compared(runs.write(tmp_path / "a"))
    (run.path / name).write_text(text)
    record = gather(run.path)
    assert record.faults
    assert all(fault.arrived and fault.rule and fault.repair for fault in record.faults)
    assert any(Path(name).name in fault.arrived for fault in record.faults)
    if name.startswith("iterations"):
        assert len(record.architectures) == 1
        assert record.state == "damaged"
    if name.startswith("retrained"):
        assert record.comparison is not None
        rows = {row["label"]: row for row in record.comparison["rows"]}
        assert len(rows["001"]["accuracies"]) == 1
        assert "damaged" in {one.state for one in record.trainings}
    if "sparsify" not in text:
        assert record.trajectory.panels, "the log is whole"


@pytest.mark.parametrize(
    "lines", [b"\xff\xfe\x00garbage", b'{"event": "epoch", "step": 1' * 3, b"[" * 100_000 + b"\n7\n"]
)
def test_a_log_that_cannot_be_read_costs_the_curves_alone(tmp_path: Path, lines: bytes) -> None:
    run = runs.compared(runs.write(tmp_path / "a"))
    run.metrics.write_bytes(lines)
    record = gather(run.path)
    assert record.trajectory.panels == []
    assert record.settled


def test_a_log_that_is_a_folder(tmp_path: Path) -> None:
    run = runs.write(tmp_path / "a")
    run.metrics.unlink()
    run.metrics.mkdir()
    record = gather(run.path)
    assert record.faults
    assert len(record.architectures) == 2


def test_an_unfinished_retraining_is_left_out_and_named(tmp_path: Path) -> None:
    run = runs.compared(runs.write(tmp_path / "a"))
    folder = run.path / "retrained" / "002-seed0"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    record = gather(run.path)
    assert [(one.label, one.state, one.epochs) for one in record.trainings if one.label == "002"] == [
        ("002", "not finished", 2)
    ]
    assert any("002 seed 0" in note.text for note in record.notes)
    assert record.settled


def test_no_run_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        gather(tmp_path / "none")
    with pytest.raises(InputError, match="holds no run"):
        gather(tmp_path)


def sparsified(path: Path, model: str) -> None:
    """A finished sparsification of `model`."""
    path.mkdir(parents=True)
    row = {"name": "stem.conv.weight", "layer": "stem.conv", "kind": "Conv2d", "shape": [24, 1, 3, 3], "weights": 216}
    sizes = {"parameters": 300, "nonzeros": 150, "file": 1200, "gzip": 700, "zip": 720}
    report = {
        "rows": [{**row, "nonzeros": 65, "asked": 0.7, "reached": 0.699, "kept": None}],
        "asked": 0.7,
        "reached": 0.699,
        "network": 0.5,
        "after": sizes,
        "before": {**sizes, "nonzeros": 300},
        "schema_version": 1,
    }
    from morphsearch.sparsity import SparsifyConfig

    config = SparsifyConfig(model, target="70%", weights="retrained", data_seed=0, epochs=2.0)
    asked = {
        "kind": "sparsify",
        "sparsify": config.to_dict(),
        "budgets": [{"text": "sparsity=70%", "metric": "sparsity"}],
    }
    (path / "run.json").write_text(json.dumps({"format": "morphsearch-run", "schema_version": 1, **asked}))
    (path / "metrics.jsonl").write_text(
        "".join(
            f'{{"event": "epoch", "step": {s}, "loss": 1.0, "sparsity": 0.{s}, "sparsity_asked": 0.7}}\n'
            for s in (4, 7)
        )
    )
    result = {"best": "sparsified", "metrics": {"val_accuracy": 0.9, "test_accuracy": 0.88}, "sparsity": report}
    (path / "result.json").write_text(json.dumps(result))


def test_sparsifications_of_what_was_found_belong_to_the_search(tmp_path: Path) -> None:
    run = runs.write(tmp_path / "runs" / "a")
    sparsified(tmp_path / "runs" / "s", str(run.path))
    sparsified(tmp_path / "runs" / "elsewhere", "runs/a/iterations/001/architecture.json")  # from another folder
    sparsified(tmp_path / "runs" / "other", "resnet20")
    record = gather(run.path)
    assert [one.name for one in record.sparsified] == ["elsewhere", "s"]
    one = record.sparsified[1]
    assert "69.90% of the prunable weights" in one.verdict
    assert "test 88.00%" in one.verdict
    assert [panel.title for panel in one.trajectory.panels] == ["Loss", "Sparsity"]
    options = "--target 70% --weights retrained --epochs 2 --run-dir".split()
    assert one.command == shlex.join(["morphsearch", "sparsify", str(run.path), *options, f"{one.path}-again"])


def test_the_command_asks_for_the_same_again(tmp_path: Path) -> None:
    """As the command line reads it."""
    from morphsearch.cli import settings
    from morphsearch.cli.commands.search import command
    from morphsearch.loop.config import SearchConfig

    config = SearchConfig(
        "digits_net?width=2",
        budget=("flops=50%", "params<=1.2M"),
        strategy="gamma-l1",
        strategy_options={"warmup": 0.5},
        iterations=3,
        epochs=0.5,
        steps=70,
        seed=7,
        input=(1, 1, 8, 8),
        recipe={"lr": 0.05, "augment": False, "optimizer": "adamw"},
        round_to=8,
        expand=False,
        live=False,
        shrink_to=0.8,
        allow_code=True,
    )
    record = gather(runs.write(tmp_path / "a", config=config.to_dict()).path)
    assert record.command is not None
    words = shlex.split(record.command)
    assert words[:2] == ["morphsearch", "search"]
    context = command.make_context("search", words[2:])
    assert settings.search_config(context.params).to_dict() == config.to_dict()


@pytest.mark.parametrize("needed", [True, False])
def test_commands_have_the_leave_to_run_code_that_the_run_had(tmp_path: Path, needed: bool) -> None:
    from morphsearch.loop.config import SearchConfig

    config = SearchConfig("net.py:build", allow_code=needed)
    run = runs.write(tmp_path / "a", config=config.to_dict(), complete=False)
    record = gather(run.path)
    assert record.command is not None
    assert record.resume is not None
    assert ("--allow-code" in shlex.split(record.command)) is needed
    assert ("--allow-code" in shlex.split(record.resume)) is needed
    assert ("--allow-code" in record.verdict) is needed


def test_a_run_from_python_has_no_command(tmp_path: Path) -> None:
    record = gather(runs.write(tmp_path / "a", config=None, seed_spec=None).path)
    assert record.command is None
    assert record.faults == []
    assert record.asked["seed"] == "a network handed over in Python"


def test_a_loop_of_ones_own_may_name_its_data_by_a_word(tmp_path: Path) -> None:
    run = runs.write(tmp_path / "a")
    asked = json.loads(run.record.read_text())
    asked.pop("config", None)
    run.record.write_text(json.dumps({**asked, "data": "my photos"}))
    record = gather(run.path)
    assert not record.faults
    assert record.asked["data"] == "my photos"
    assert "my photos" in record.summary
