"""``morphsearch report`` as a command: where it writes, what it prints, what it says of runs that are not whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from morphsearch.cli import main
from tests.report import runs
from tests.report.runs import Page


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_one_run_gets_a_page_in_its_folder_and_the_path_is_all_of_stdout(tmp_path: Path) -> None:
    folder = runs.compared(runs.write(tmp_path / "a")).path
    for _ in range(2):  # an earlier report is replaced
        result = run("report", folder)
        assert result.exit_code == 0, result.output
        assert result.stdout == f"{folder / 'report.html'}\n"
        assert result.stderr == ""
    assert "beats uniform scaling" in Page((folder / "report.html").read_text()).words


def test_several_runs_share_a_page_and_two_names_of_one_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        runs.write(Path(name))
    assert run("report", "a", "./a/", "b").stdout == "report.html\n"
    page = Page(Path("report.html").read_text())
    assert "Report of 2 runs" in page.words
    assert len(page.all("article")) == 2


def test_json_is_the_same_as_data_and_writes_nothing_by_itself(tmp_path: Path) -> None:
    folder = runs.compared(runs.write(tmp_path / "a")).path
    found = json.loads(run("report", folder, "--json").stdout)
    assert found["output"] is None
    assert not (folder / "report.html").exists()
    (record,) = found["runs"]
    assert record["comparison"]["verdict"] == record["verdict"]
    assert record["architectures"][0]["budgets"][0]["used"] == pytest.approx(604_000 / 608_512)
    target = tmp_path / "x.html"
    assert json.loads(run("report", folder, "--json", "--output", target).stdout)["output"] == str(target)
    assert target.exists()


def test_a_damaged_run_is_shown_with_a_warning_and_no_traceback(tmp_path: Path) -> None:
    folder = runs.write(tmp_path / "a").path
    (folder / "iterations" / "002" / "architecture.json").write_text("{")
    (folder / "run.json").write_text("")
    result = run("report", folder)
    assert result.exit_code == 0, result.output
    assert "warning:" in result.stderr
    assert "Traceback" not in result.output
    page = Page((folder / "report.html").read_text())
    assert "Search" in page.words
    assert "damaged" in page.words
    assert "What could not be read" in page.words
    assert "001" in page.words


@pytest.mark.parametrize("arguments", [["report"], ["report", "{}/aa"], ["report", "{}/a", "--output", "{}/mine"]])
def test_what_cannot_be_done_is_said_in_three_parts_and_nothing_is_written(
    tmp_path: Path, arguments: list[str]
) -> None:
    runs.write(tmp_path / "a")
    (tmp_path / "mine").write_text("mine")
    result = run(*[argument.format(tmp_path) for argument in arguments])
    assert result.exit_code in (2, 5)
    assert [line.split(":")[0].strip() for line in result.stderr.splitlines()] == ["error", "rule", "try"]
    assert result.stdout == ""
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "a" / "report.html").exists()


def test_a_misspelt_run_gets_the_nearest(tmp_path: Path) -> None:
    runs.write(tmp_path / "digits")
    assert f"did you mean {tmp_path / 'digits'}?" in run("report", tmp_path / "digit").stderr


def test_plotly_is_imported_when_a_page_is_drawn_and_not_before(tmp_path: Path) -> None:
    folder = runs.write(tmp_path / "a").path
    script = (
        "import sys\nfrom morphsearch.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print(sorted({'plotly', 'torch'} & set(sys.modules)))\n"
    )
    for arguments, expected in (("--help", "[]"), ("report --help", "[]"), (f"report {folder}", "['plotly', 'torch']")):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments.split()], capture_output=True, text=True, check=True, timeout=120
        )
        assert done.stdout.splitlines()[-1] == expected, arguments
