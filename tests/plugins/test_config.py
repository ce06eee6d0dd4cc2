"""Options from a file: merged in order, and every mistake named with its line and the nearest name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from morphsearch import config
from morphsearch.errors import InputError, UsageError

DEFAULTS: dict[str, Any] = {
    "budget": ("flops=50%",),
    "iterations": 2,
    "epochs": 10.0,
    "expand": True,
    "run_dir": None,
    "strategy": "gamma-l1",
    "recipe": {"lr": 0.1, "momentum": 0.9},
}


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "morph.toml"
    path.write_text(text)
    return path


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = _file(tmp_path, 'iterations = 3\nepochs = 4\nrun-dir = "runs/a"\n\n[recipe]\nlr = 0.5\n')
    resolved = config.resolve(DEFAULTS, path, {"epochs": 7.0})
    assert resolved == DEFAULTS | {
        "iterations": 3,
        "epochs": 7.0,
        "run_dir": "runs/a",
        "recipe": {"lr": 0.5, "momentum": 0.9},
    }
    assert config.resolve(DEFAULTS, None, {}) == DEFAULTS


def test_a_table_of_the_command_wins_and_those_of_others_are_passed_over(tmp_path: Path) -> None:
    path = _file(tmp_path, "iterations = 3\nseeds = 5\n[search]\niterations = 4\n[retrain]\nanything = 1\n")
    arguments = {"command": "search", "commands": ["search", "retrain"], "elsewhere": ["seeds"]}
    assert config.resolve(DEFAULTS, path, {}, **arguments)["iterations"] == 4


def test_values_take_the_type_of_the_option(tmp_path: Path) -> None:
    path = _file(tmp_path, 'epochs = 3\nbudget = "params=50%"\n')
    resolved = config.resolve(DEFAULTS, path, {})
    assert resolved["epochs"] == 3.0
    assert isinstance(resolved["epochs"], float)
    assert resolved["budget"] == ("params=50%",)


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("# a comment\niterations = 2\nepoch = 3\n", 3, "did you mean epochs?"),
        ("[search]\n\nstratgy = 'uniform'\n", 3, "did you mean strategy?"),
        ("[serach]\niterations = 1\n", 1, "did you mean search?"),
        ('text = """\nepoch = 1\n"""\n', 1, "'text'"),
        ("zzz = 1\n", 1, "the options are"),
        ("iterations = 2.5\n", 1, "iterations is a whole number"),
        ("\niterations = true\n", 2, "iterations is a whole number"),
        ("expand = 1\n", 1, "expand is true or false"),
        ("epochs = 'ten'\n", 1, "epochs is a number"),
        ("strategy = 3\n", 1, "strategy is text in quotes"),
        ("recipe = 3\n", 1, "recipe is a table"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, text: str, line: int, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        config.resolve(DEFAULTS, _file(tmp_path, text), {}, command="search", commands=["search", "retrain"])
    assert f"morph.toml, line {line}:" in str(caught.value)
    assert expected in str(caught.value)
    assert caught.value.exit_code == 2


def test_types_can_be_given_where_the_default_does_not_tell(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run_dir is text in quotes"):
        config.resolve(DEFAULTS, _file(tmp_path, "run_dir = 3\n"), {}, types={"run_dir": str})


@pytest.mark.parametrize(
    ("text", "expected"), [("budget = [\n", "end of document"), ("budget = flops=50%\n", "line 1")]
)
def test_a_file_that_is_not_toml_is_refused_with_the_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InputError, match=r"morph\.toml") as caught:
        config.read(_file(tmp_path, text))
    assert expected in str(caught.value)
    assert "in quotes" in caught.value.repair


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        config.read(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        config.read(tmp_path / "binary.toml")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    values = DEFAULTS | {"strategy": 'quotes " and \\ and\nlines', "data": Path("a b"), "input": (1, 3, 32, 32)}
    path = tmp_path / "deep" / "resolved.toml"
    config.write(path, values)
    expected = {key: value for key, value in values.items() if value is not None}
    assert config.read(path).values == expected | {
        "data": "a b",
        "budget": ["flops=50%"],
        "input": [1, 3, 32, 32],
    }
