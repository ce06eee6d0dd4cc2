"""Several budgets from the command line: the plan, what binds, what is refused; `inspect` of costs that tell more."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from morphsearch.cli import main


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


SEARCH = ("search", "digits_net", "--data", "digits")
SEVERAL = ("--budget", "memory=60%", "--budget", "params<=30K", "--budget", "flops=50%")


def test_the_plan_says_which_budget_binds() -> None:
    result = run(*SEARCH, *SEVERAL, "--dry-run")
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if "%" in line or "<=" in line}
    assert "scaled evenly" in result.stdout
    assert [name for name, line in lines.items() if "binds" in line] == ["flops=50%"]
    record = json.loads(run(*SEARCH, *SEVERAL, "--dry-run", "--json").stdout)
    rows = {row["text"]: row for row in record["budgets"]}
    assert all(row["uniform"] <= row["requested"] for row in rows.values())
    assert rows["memory=60%"]["unit"] == "MiB"
    assert any("batch of 1 image" in note for note in record["notes"])


def test_one_budget_needs_no_word_on_what_binds() -> None:
    result = run(*SEARCH, "--budget", "flops=50%", "--dry-run")
    assert "binds" not in result.stdout


def test_what_cannot_be_met_together_is_refused_with_all_of_it() -> None:
    asked = ("--budget", "memory<=1KiB", "--budget", "params<=5", "--budget", "flops=50%")
    for more in ([], ["--dry-run"]):
        result = run(*SEARCH, *asked, *more)
        assert result.exit_code == 3, result.output
        for text in ("memory<=1KiB", "params<=5", "the others can be met: flops=50%", "dearest layers"):
            assert text in result.stderr
    wanted = run(*SEARCH, *asked, "--dry-run").stderr.partition("ask for ")[2].partition(" or more")[0].split(" and ")
    again = [part for text in wanted for part in ("--budget", text)]
    assert run(*SEARCH, *again, "--budget", "flops=50%", "--dry-run").exit_code == 0


def test_a_unit_cut_short_is_asked_for() -> None:
    result = run(*SEARCH, "--budget", "memory<=64M", "--dry-run")
    assert result.exit_code == 2
    assert "memory<=64MiB" in result.stderr


def test_a_search_reports_how_full_each_budget_is(tmp_path: Path) -> None:
    where = tmp_path / "run"
    result = run(*SEARCH, *SEVERAL, "--strategy", "uniform", "--iterations", "1", "--epochs", "0.1", "--run-dir", where)
    assert result.exit_code == 0, result.output
    assert "budgets of 001" in result.stdout
    architecture = json.loads((where / "iterations" / "001" / "architecture.json").read_text())
    for budget in architecture["budgets"]:
        assert architecture["costs"][budget["metric"]]["total"] <= budget["limit"]
    shown = run("inspect", where, "--costs", "memory,memory-training", "--layers")
    assert shown.exit_code == 0, shown.output
    assert "memory (MiB)" in shown.stdout
    assert "memory-training (MiB)" in shown.stdout


def test_inspect_says_what_binds_each_layer() -> None:
    arguments = ("inspect", "digits_net", "--cost", "latency", "--hardware", "raspberry-pi-5")
    shown = run(*arguments)
    assert shown.exit_code == 0, shown.output
    for text in ("computing", "moving data", "bound by", "a lower bound, not a measurement"):
        assert text in shown.stdout
    record = json.loads(run(*arguments, "--json").stdout)
    details = [layer["details"]["latency"] for layer in record["layers"] if layer["details"]]
    assert {detail["bound"] for detail in details} <= {"compute", "memory", "launch"}
    assert sum(max(d["compute"], d["memory"]) + d["launch"] for d in details) >= record["totals"]["latency"] * 0.999
    unknown = run("inspect", "digits_net", "--cost", "latency", "--hardware", "h1000")
    assert unknown.exit_code == 2
    assert "h100" in unknown.stderr
