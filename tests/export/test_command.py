"""``morphsearch export``: whole commands, and what slips in each argument get."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from morphsearch.cli import main
from morphsearch.files import read_tensors, write_tensors
from morphsearch.graph import record
from morphsearch.loop.architecture import Architecture, describe_inputs
from morphsearch.models import build_seed
from tests.export.exporting import construct

NET = """
from torch import nn


def build(width: int = 6):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with two architectures of digits_net."""
    inputs = torch.zeros(1, 1, 8, 8)
    graph = record(build_seed("digits_net").model, inputs)
    for number, width in (("001", 20), ("002", 9)):
        widths = {**graph.widths, "stem.conv": width}
        found = Architecture(
            number,
            "digits_net",
            describe_inputs(inputs),
            widths,
            graph.widths,
            {},
            floors=dict.fromkeys(graph.widths, 1),
        )
        found.save(tmp_path / "run" / "iterations" / number)
    return tmp_path / "run"


def test_the_last_architecture_or_the_one_that_is_asked_for(run_dir: Path, tmp_path: Path) -> None:
    for arguments, width in (((), 9), (("--iteration", 1), 20)):
        result = run(run_dir, *arguments, "--output", tmp_path / "net.py", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout) == {"path": str(tmp_path / "net.py"), "format": "python", "notes": []}
        assert construct((tmp_path / "net.py").read_text()).get_parameter("stem.conv.weight").shape[0] == width
    one = run_dir / "iterations" / "001" / "architecture.json"
    assert run(one, "--output", tmp_path / "one.py").stdout == f"{tmp_path / 'one.py'}\n"


def test_files_are_named_after_the_seed_and_the_architecture(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    assert run(run_dir, "--format", "widths").stdout == "digits_net_002.json\n"
    assert run("net.py:build?width=5", "--input", "1,3,9,9", "--output", "folder.d/built.py").exit_code == 0
    assert construct((tmp_path / "folder.d" / "built.py").read_text())[0].out_channels == 5


def test_another_input_size(run_dir: Path, tmp_path: Path) -> None:
    assert run(run_dir, "--input", "1,1,12,12", "--output", tmp_path / "net.py").exit_code == 0
    assert "Input: 1x1x12x12" in (tmp_path / "net.py").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message", "repair"),
    [
        (["--format", "pyton"], 2, "unknown exporter 'pyton'", "did you mean python"),
        (["--iteration", "7"], 2, "iteration 7 does not exist", "choose one of these"),
        (["--iteration", "0"], 2, "--iteration '0'", "--iteration 1"),
        (["--weights", "gone.safetensors"], 5, "gone.safetensors", "check the path"),
        (["--weights", "retraind"], 5, "weights 'retraind'", "did you mean retrained"),
        (["--weights", "retrained"], 5, "was not retrained", "morphsearch retrain"),
        (["--input", "1,3,8,8"], 2, "--input 1,3,8,8 does not fit", "height and width"),
        (["--input", "eight"], 2, "--input 'eight' is no shape", "1,3,224,224"),
    ],
)
def test_slips(run_dir: Path, arguments: list[str], code: int, message: str, repair: str) -> None:
    result = run(run_dir, *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert repair in result.stderr
    assert "Traceback" not in result.output


def test_places_without_an_architecture(tmp_path: Path) -> None:
    assert "holds no architecture" in run(tmp_path).stderr
    assert run(tmp_path / "gone.json").exit_code == 5
    assert "did you mean" in run("resnte20").stderr
    (tmp_path / "architecture.json").write_text("{")
    assert run(tmp_path / "architecture.json").exit_code == 5
    assert run("digits_net", "--iteration", "1").exit_code == 2


def test_foreign_code_in_a_file_needs_leave(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    inputs = torch.zeros(1, 3, 8, 8)
    spec = f"{tmp_path / 'net.py'}:build"
    graph = record(build_seed(spec, allow_code=True).model, inputs)
    found = Architecture(
        "001", spec, describe_inputs(inputs), graph.widths, graph.widths, {}, floors=dict.fromkeys(graph.widths, 1)
    )
    place = found.save(tmp_path / "a")
    refused = run(place, "--output", tmp_path / "out.py")
    assert refused.exit_code == 2
    assert "--allow-code" in refused.stderr
    assert run(place, "--allow-code", "--output", tmp_path / "out.py").exit_code == 0


def test_retrained_weights_are_found_in_the_run(run_dir: Path, tmp_path: Path) -> None:
    trained = Architecture.load(run_dir / "iterations" / "002").build().state_dict()
    write_tensors(run_dir / "retrained" / "002-seed0" / "weights.safetensors", trained)
    assert run(run_dir, "--weights", "retrained", "--output", tmp_path / "net.py").exit_code == 0
    written = read_tensors(tmp_path / "net.safetensors")
    assert all(torch.equal(written[name], value) for name, value in trained.items())


def test_weights_go_beside_the_source(run_dir: Path, tmp_path: Path) -> None:
    found = Architecture.load(run_dir / "iterations" / "002")
    write_tensors(tmp_path / "w.safetensors", found.build().state_dict())
    result = run(run_dir, "--weights", tmp_path / "w.safetensors", "--output", tmp_path / "net.py")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "net.safetensors").exists()
    assert '"net.safetensors"' in (tmp_path / "net.py").read_text()


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("mine.py", "python", "mine.py is there already"),
        ("mine.py", "onnx", "mine.py is there already"),
        ("run.json", "onnx", "run.json is there already"),
        ("run.json", "widths", "run.json is there already"),
        ("net.safetensors", "python", "a name for weights"),
    ],
)
def test_what_is_no_export_is_not_overwritten(
    run_dir: Path, tmp_path: Path, name: str, form: str, message: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.py").write_text(NET)
    (out / "run.json").write_text("{}")
    result = run(run_dir, "--format", form, "--output", out / name)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "--output" in result.stderr
    assert {path.name: path.read_text() for path in out.iterdir()} == {"mine.py": NET, "run.json": "{}"}


@pytest.mark.parametrize("form", ["python", "widths"])
def test_an_earlier_export_gives_way(run_dir: Path, tmp_path: Path, form: str) -> None:
    for _ in range(2):
        assert run(run_dir, "--format", form, "--output", tmp_path / "export").exit_code == 0


def test_source_and_its_weights_are_written_both_or_neither(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Architecture.load(run_dir / "iterations" / "002")
    write_tensors(tmp_path / "w.safetensors", found.build().state_dict())
    write_text = Path.write_text

    def full(path: Path, text: str, **options: Any) -> int:
        if path.name.startswith(".net.py"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_text(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    result = run(run_dir, "--weights", tmp_path / "w.safetensors", "--output", tmp_path / "net.py")
    assert result.exit_code == 5
    assert "No space left" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "w.safetensors"]
