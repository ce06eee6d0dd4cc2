"""Architectures and runs as files: shown against the seed; damaged, foreign, newer and hostile ones are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from morphsearch.cli import main

WIDTHS = {
    "stem.conv": 24,
    "residual1.conv1.conv": 24,
    "down.1.conv": 48,
    "residual2.conv1.conv": 32,
    "mix.1.conv": 64,
    "classifier": 10,
}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write(folder: Path, spec: str | None = "digits_net", **changed: int) -> Path:
    """An architecture of the digits network, in the folder of a first morph."""
    from morphsearch.loop.architecture import Architecture

    widths = WIDTHS | {name.replace("__", "."): width for name, width in changed.items()}
    inputs = [{"shape": [1, 1, 8, 8], "dtype": "float32", "name": None}]
    floors = dict.fromkeys(WIDTHS, 1)
    made = Architecture("001", spec, inputs, widths, dict(WIDTHS), costs={}, floors=floors)
    return made.save(folder / "iterations" / "001" / "architecture.json")


def test_an_architecture_is_shown_against_its_seed(tmp_path: Path) -> None:
    path = write(tmp_path, stem__conv=13, residual1__conv1__conv=30)
    for target in (path, tmp_path):
        text = run("inspect", target)
        assert text.exit_code == 0, text.output
        for part in ("24 -> 13", "24 -> 30", "of the seed"):
            assert part in text.stdout
    found = json.loads(run("inspect", path, "--json").stdout)
    assert found["changed"] is True
    assert found["totals"]["flops"] < found["totals_before"]["flops"]
    assert sum(layer["costs"]["flops"] for layer in found["layers"]) == found["totals"]["flops"]


def broken(data: dict[str, Any], how: str) -> str:
    """The text of a file with something wrong."""
    if how == "truncated":
        return json.dumps(data, indent=2)[:-40]
    if how == "empty":
        return ""
    if how == "a list":
        return "[]"
    if how == "foreign":
        return json.dumps({"name": "something else"})
    if how == "newer":
        return json.dumps({**data, "schema_version": 99}, indent=2)
    if how == "width is text":
        return json.dumps({**data, "widths": {**data["widths"], "stem.conv": "many"}}, indent=2)
    if how == "no such group":
        widths = {("no.such" if name == "stem.conv" else name): width for name, width in data["widths"].items()}
        return json.dumps({**data, "widths": widths, "seed_widths": widths, "floors": {}}, indent=2)
    if how == "missing widths":
        return json.dumps({key: value for key, value in data.items() if key != "widths"}, indent=2)
    if how == "frozen group":
        return json.dumps({**data, "widths": {**data["widths"], "classifier": 3}}, indent=2)
    raise AssertionError(how)


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ("truncated", "line"),
        ("empty", "line 1"),
        ("a list", "list"),
        ("foreign", "format"),
        ("newer", "99"),
        ("width is text", "stem.conv"),
        ("no such group", "architecture.json"),
        ("missing widths", "widths"),
        ("frozen group", "classifier"),
    ],
)
def test_a_bad_architecture_file_is_named_with_its_field(tmp_path: Path, how: str, part: str) -> None:
    path = write(tmp_path)
    path.write_text(broken(json.loads(path.read_text()), how))
    result = run("inspect", path)
    assert result.exit_code == 5, result.output
    assert part in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout


def test_a_binary_file_is_no_architecture(tmp_path: Path) -> None:
    path = tmp_path / "architecture.json"
    path.write_bytes(b"\x80\x04\x95\xff\x00")
    result = run("inspect", path)
    assert result.exit_code == 5
    assert "UTF-8" in result.stderr


def test_a_missing_file_and_a_folder_without_one(tmp_path: Path) -> None:
    assert run("inspect", tmp_path / "architecture.json").exit_code == 5
    result = run("inspect", tmp_path)
    assert result.exit_code == 5
    assert "holds no architecture" in result.stderr
    assert "resume" not in result.stderr  # it is no run
    (tmp_path / "run.json").write_text("{}")
    assert f"morphsearch resume {tmp_path}" in run("inspect", tmp_path).stderr
    (tmp_path / "run.json").write_text('{"kind": "sparsify"}')
    assert "it is a sparsification" in run("inspect", tmp_path).stderr


def test_a_file_that_names_code_needs_leave_to_run_it(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = tmp_path / "hostile.py"
    code.write_text(
        "from pathlib import Path\n"
        f"Path({str(trace)!r}).write_text('ran')\n"
        "from morphsearch.models import build_seed\n"
        "def make():\n    return build_seed('digits_net').model\n"
    )
    path = write(tmp_path, spec=f"{code}:make", stem__conv=13)
    result = run("inspect", path)
    assert result.exit_code == 2
    assert "--allow-code" in result.stderr
    assert not trace.exists()
    allowed = run("inspect", path, "--allow-code")
    assert allowed.exit_code == 0, allowed.output
    assert trace.exists()


def test_an_architecture_of_a_network_without_a_name(tmp_path: Path) -> None:
    result = run("inspect", write(tmp_path, spec=None))
    assert result.exit_code == 2
    assert "seed" in result.stderr
