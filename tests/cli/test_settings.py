"""A TOML file holds any option; the command line wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from morphsearch.cli import main, settings
from morphsearch.cli.commands.retrain import command as retrain
from morphsearch.cli.commands.search import command as search
from morphsearch.cli.group import BUILT_IN, module_of
from morphsearch.errors import UnknownName


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `search` and `retrain` are called with, instead of calling them."""
    values: dict[str, Any] = {}
    for command in (search, retrain):
        monkeypatch.setattr(command, "callback", lambda **found: values.update(found))
    return values


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write(folder: Path, text: str) -> Path:
    path = folder / "options.toml"
    path.write_text(text)
    return path


def test_a_file_holds_options_arguments_and_tables(tmp_path: Path, parsed: dict[str, Any]) -> None:
    path = write(
        tmp_path,
        """
        model = "resnet20"
        data = "digits"
        budget = ["flops=40%", "params<=100k"]
        round-to = 8
        run_dir = "runs/x"
        expand = false
        input = [1, 3, 32, 32]
        seeds = [4, 5]
        baselines = ["uniform"]
        [recipe]
        lr = 0.05
        [strategy-option]
        kind = "x"
        [search]
        iterations = 3
        [retrain]
        epochs = 7
        """,
    )
    result = run("search", "--config", path, "--set", "lr=0.1", "--round-to", "4")
    assert result.exit_code == 0, result.output
    assert parsed["model"] == "resnet20"
    assert parsed["budget"] == ("flops=40%", "params<=100k")
    assert parsed["round_to"] == 4
    assert parsed["run_dir"] == Path("runs/x")
    assert parsed["expand"] is False
    assert parsed["input_"] == (1, 3, 32, 32)
    assert dict(parsed["recipe"]) == {"lr": 0.1}
    assert dict(parsed["strategy_options"]) == {"kind": "x"}
    assert parsed["iterations"] == 3
    assert parsed["epochs"] is None
    parsed.clear()
    assert run("retrain", "r", "--config", path).exit_code == 0
    assert (parsed["seeds"], parsed["baselines"], parsed["epochs"]) == ([4, 5], ["uniform"], 7)


def test_the_command_line_adds_to_a_table_of_the_file_key_by_key(tmp_path: Path, parsed: dict[str, Any]) -> None:
    path = write(tmp_path, "[recipe]\nlr = 0.5\nbatch_size = 32\n[strategy_options]\nkind = 'x'\n")
    asked = run("search", "resnet20", "--config", path, "--set", "lr=0.1", "--strategy-option", "other=1")
    assert asked.exit_code == 0, asked.output
    assert dict(parsed["recipe"]) == {"lr": 0.1, "batch_size": 32}
    assert dict(parsed["strategy_options"]) == {"kind": "x", "other": 1}


def test_the_table_of_a_command_adds_to_the_one_that_all_commands_share(tmp_path: Path, parsed: dict[str, Any]) -> None:
    path = write(tmp_path, "[set]\nlr = 0.5\nmomentum = 0.5\n[search.recipe]\nlr = 0.1\n")
    assert run("search", "resnet20", "--config", path).exit_code == 0
    assert dict(parsed["recipe"]) == {"lr": 0.1, "momentum": 0.5}


def test_a_file_may_begin_with_the_mark_that_some_editors_write(tmp_path: Path, parsed: dict[str, Any]) -> None:
    path = tmp_path / "options.toml"
    path.write_text("seed = 3\n", encoding="utf-8-sig")
    assert run("search", "resnet20", "--config", path).exit_code == 0
    assert parsed["seed"] == 3


def test_subcommands_share_the_table_of_their_group(tmp_path: Path) -> None:
    from morphsearch.cli.commands.profile import command as profile
    from morphsearch.cli.settings import defaults

    path = write(tmp_path, "threads = 4\n[profile]\nbatch = 8\nnetworks = 7\n")
    assert defaults(path, profile.commands["measure"]) == {"threads": 4, "batch": 8, "networks": 7}
    assert defaults(path, profile.commands["verify"]) == {"networks": 7}
    assert defaults(path, profile.commands["list"]) == {}
    with pytest.raises(UnknownName, match="batch"):
        defaults(write(tmp_path, "[profile]\nbatsh = 8\n"), profile.commands["verify"])


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("budgte = 'flops=50%'", 2, "did you mean budget"),
        ("[search]\nepoch = 3", 2, "did you mean epochs"),
        ("epochs = 'many'", 2, "--epochs 'many'"),
        ("iterations = 1.5", 2, "--iterations 1.5"),
        ("strategy = 'gamma'", 2, "unknown strategy 'gamma'"),
        ("recipe = 3", 2, "recipe"),
        ("expand = 'no'", 2, "expand"),
        ("run-dir = ['a']", 2, "--run-dir ['a']"),
        ("seed = 1\nround-to = 4\nround_to = 8", 2, "line 3: round_to, and round-to before it"),
        ("[search]\nset.lr = 0.1\nrecipe.lr = 0.2", 2, "line 3: search.recipe, and set before it"),
        ("seed = 1\nseed = 2", 5, "every option and every table once"),
        ("\nlr = 0.05", 2, "write it below a line [recipe]"),
        ("[search]\nlr = 0.05", 2, "write it below a line [search.recipe]"),
        ("[[search]]\nseed = 1", 2, "write [search], in single brackets"),
        ("dry-run = true", 2, "only the command line has it"),
        ("epochs = \nseed = 1", 5, "line 1"),
        ("\xff", 5, "options.toml"),
    ],
)
def test_a_bad_file_is_told_where(tmp_path: Path, text: str, code: int, message: str) -> None:
    path = tmp_path / "options.toml"
    path.write_bytes(text.encode("latin-1"))
    result = run("search", "resnet20", "--config", path)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    result = run("search", "resnet20", "--config", tmp_path / "none.toml")
    assert result.exit_code == 5
    assert "none.toml" in result.stderr


def test_every_option_of_every_command_may_stand_in_a_file() -> None:
    import importlib

    for name in set(BUILT_IN) - {"plugins"}:
        command = importlib.import_module(module_of(name)).command
        command = command.commands["measure"] if name == "profile" else command  # a group: the others ask and show
        flags = {flag for parameter in command.params for flag in parameter.opts if isinstance(parameter, click.Option)}
        assert "--config" in flags, name
        named = settings.file_names(command)
        for parameter in command.params:
            if parameter.name not in ("config", "dry_run"):
                assert parameter in named.values(), (name, parameter.name)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--seeds", "2"], [0, 1]),
        (["--seeds", "3,9"], [3, 9]),
        ([], [0, 1, 2]),
    ],
)
def test_seeds_are_a_number_or_a_list(parsed: dict[str, Any], given: list[str], expected: list[int]) -> None:
    assert run("retrain", "r", *given).exit_code == 0
    assert parsed["seeds"] == expected


@pytest.mark.parametrize("given", ["0", "999999999", "1,4294967296", "1,,2", "-1", "1.5", "99999999999999"])
def test_seeds_that_are_none(parsed: dict[str, Any], given: str) -> None:
    result = run("retrain", "r", "--seeds", given)
    assert result.exit_code == 2
    assert "write 3, or 0,1,2" in result.stderr
    assert not parsed


@pytest.mark.parametrize(
    ("option", "given", "repair"),
    [
        ("--set", "strategy.pont=[0.5]", "write --strategy-option point=[0.5]"),
        ("--set", "strategy_options.point=[0.5]", "write --strategy-option point=[0.5]"),
        ("--set", "recipe.lrr=0.1", "write --set lr=0.1"),
        ("--strategy-option", "strategy.pont=[0.5]", "write --strategy-option point=[0.5]"),
        ("--strategy-option", "recipe.momentum=0", "write --set momentum=0"),
        ("--set", "strategy.qwxyz=1", "none of these is like 'qwxyz': balance,"),
        ("--set", "some.thing=1", "write for example --set thing=1"),
    ],
)
def test_keys_with_a_dot_are_led_to_the_option_and_the_name_that_is_meant(
    parsed: dict[str, Any], option: str, given: str, repair: str
) -> None:
    result = run("search", "resnet20", option, given)
    assert result.exit_code == 2
    assert repair in " ".join(result.stderr.split())
    assert not parsed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-0.5", -0.5),
        ("1e-3", 1e-3),
        ("true", True),
        ("off", False),
        ("none", None),
        ("cosine", "cosine"),
        ("'3'", "3"),
    ],
)
def test_values_of_set_are_read_as_what_they_look_like(parsed: dict[str, Any], text: str, value: object) -> None:
    assert run("search", "resnet20", "--set", f"key={text}").exit_code == 0
    assert dict(parsed["recipe"]) == {"key": value}


def test_shapes(parsed: dict[str, Any]) -> None:
    assert run("search", "resnet20", "--input", "1,3,224,224").exit_code == 0
    assert parsed["input_"] == (1, 3, 224, 224)
