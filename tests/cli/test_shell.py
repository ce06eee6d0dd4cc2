"""The shell itself: help, misspelt names, exit codes, completion, where output goes."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from morphsearch import plugins
from morphsearch.cli import main, options, output
from morphsearch.cli.command import command
from morphsearch.cli.group import BUILT_IN, module_of
from morphsearch.hookspecs import hookimpl
from morphsearch.types import CommandRecord


def run(*arguments: str) -> Result:
    """The command line in this process."""
    return CliRunner().invoke(main, list(arguments))


def shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "morphsearch.cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1", **environment},
        timeout=120,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["plugins"], ["search", "resnet2"], ["serch"]])
def test_what_needs_no_network_imports_no_torch(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from morphsearch.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_help_of_the_program_imports_neither_commands_nor_rich() -> None:
    script = (
        "import sys\nfrom morphsearch.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'rich' not in sys.modules\n"
        "assert 'morphsearch.cli.commands.search' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_help_leads_with_examples_that_parse(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == BUILT_IN[name], "the summary in the list of commands is that of the command"
    assert lines[2] == "Examples:"
    assert result.stdout.index("Examples:") < result.stdout.index("Usage:")
    command = importlib.import_module(module_of(name)).command
    assert command.examples
    for line, purpose in command.examples:
        assert line in result.stdout
        assert purpose in result.stdout


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_two_commands_give_one_option_two_meanings(name: str) -> None:
    shared: dict[str, click.Option] = {}
    for other in BUILT_IN:
        for parameter in importlib.import_module(module_of(other)).command.params:
            if isinstance(parameter, click.Option):
                for flag in parameter.opts:
                    first = shared.setdefault(flag, parameter)
                    assert first.help == parameter.help, flag


def test_no_arguments_shows_the_help() -> None:
    assert run().exit_code == 0
    assert "morphsearch search resnet20" in run().stdout


def test_version() -> None:
    assert run("--version").stdout.startswith("morphsearch ")


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["serch"], "search"),
        (["insepct", "resnet20"], "inspect"),
        (["search", "resnet2"], "resnet20"),
        (["search", "resnet20", "--budgte", "flops=50%"], "--budget"),
        (["search", "resnet20", "--no-expnd"], "--no-expand"),
        (["search", "resnet20", "--strategy", "gamma-11"], "gamma-l1"),
        (["search", "resnet20", "--data", "digts"], "digits"),
        (["search", "resnet20", "--budget", "flop=50%"], "flops"),
        (["search", "resnet20", "--device", "cudda"], "cuda"),
        (["search", "resnet20", "--device", "gpu"], "cuda"),
        (["inspect", "resnet20", "--costs", "param"], "params"),
        (["retrain", "x", "--baselines", "unifrom"], "uniform"),
        (["retrain", "x", "--executor", "locl"], "local"),
        (["plugins", "strategy"], "strategies"),
    ],
)
def test_a_misspelt_name_gets_the_nearest(arguments: list[str], nearest: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert f"did you mean {nearest}" in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["search"], "SEED is missing"),
        (["search", "resnet20", "extra"], "extra"),
        (["search", "resnet20", "--iterations", "0"], "--iterations '0'"),
        (["search", "resnet20", "--iterations", "1.5"], "--iterations '1.5'"),
        (["search", "resnet20", "--epochs", "-1"], "--epochs '-1'"),
        (["search", "resnet20", "--epochs", "nan"], "--epochs 'nan'"),
        (["search", "resnet20", "--seed", "x"], "--seed 'x'"),
        (["search", "resnet20", "--steps", "0"], "--steps '0'"),
        (["search", "resnet20", "--round-to", "0"], "--round-to '0'"),
        (["search", "resnet20", "--strength", "-1"], "--strength '-1'"),
        (["search", "resnet20", "--threshold", "much"], "--threshold 'much'"),
        (["search", "resnet20", "--val-fraction", "1"], "--val-fraction '1'"),
        (["search", "resnet20", "--input", "3;32"], "--input '3;32'"),
        (["search", "resnet20", "--input", "1,3,0,32"], "--input '1,3,0,32'"),
        (["search", "resnet20", "--set", "lr"], "--set 'lr'"),
        (["search", "resnet20", "--strategy-option", "=3"], "--strategy-option '=3'"),
        (["search", "resnet20", "--data"], "--data"),
        (["search", ""], "SEED is empty"),
        (["retrain", "x", "--seeds", "0"], "--seeds '0'"),
        (["retrain", "x", "--seeds", "a,b"], "--seeds 'a,b'"),
        (["retrain", "x", "--all", "--iteration", "1"], "--all"),
        (["inspect", "resnet20", "--depth", "0"], "--depth '0'"),
        (["verify", "resnet20", "--seed", "4294967296"], "--seed '4294967296'"),
        (["search", "resnet20", "--seed", "9" * 400], "--seed '999"),
        (["search", "resnet20", "--dry-run", "--run-dir", ""], "--run-dir is empty"),
        (["runs", ""], "[FOLDER] is empty"),
        (["inspect", ""], "SEED|RUN|FILE is empty"),
    ],
)
def test_a_bad_value_is_named_with_the_rule_and_the_repair(arguments: list[str], named: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert named in result.stderr.splitlines()[0]
    assert "try:" in result.stderr
    assert not result.stdout


def test_an_option_without_its_value_says_what_it_takes() -> None:
    done = CliRunner().invoke(main, ["export", "runs/a", "--format"])
    assert done.exit_code == 2
    assert "--format has no value" in done.output
    assert "onnx" in done.output
    assert "see `morphsearch export --help`" in done.output


def test_an_argument_too_many_is_told_with_the_usage() -> None:
    result = run("compare", "runs/a", "runs/b")
    assert result.exit_code == 2
    assert "unexpected extra argument (runs/b)" in result.stderr
    assert "compare [OPTIONS] RUN" in result.stderr
    assert "--help" in result.stderr


def test_errors_are_json_on_stdout_and_text_on_stderr() -> None:
    result = run("search", "resnet2", "--json")
    data = json.loads(result.stdout)
    assert data["error"] == "UnknownName"
    assert data["exit_code"] == result.exit_code == 2
    assert "did you mean resnet20" in data["repair"]
    assert result.stderr.startswith("error: unknown model 'resnet2'")


def test_json_after_two_dashes_is_an_argument() -> None:
    result = run("search", "--", "--json")
    assert result.exit_code == 2
    assert not result.stdout


def test_labels_of_the_three_parts_are_aligned() -> None:
    lines = run("search", "resnet2").stderr.splitlines()
    assert [line[:7] for line in lines] == ["error: ", " rule: ", "  try: "]


def test_plugins_are_listed_for_people_and_for_programs() -> None:
    text = run("plugins")
    assert text.exit_code == 0
    assert "gamma-l1" in text.stdout
    rows = json.loads(run("plugins", "--json").stdout)
    assert {row["name"] for row in rows if row["kind"] == "strategies"} >= {"gamma-l1", "uniform", "random"}
    only = json.loads(run("plugins", "data", "--json").stdout)
    assert {row["kind"] for row in only} == {"data"}


class Greeting:
    """A plugin with a command that works, one in JSON, one that raises and one that is none."""

    @hookimpl
    def morphsearch_commands(self) -> list[CommandRecord]:
        """Four commands."""

        def greet() -> click.Command:
            return click.Command("greet", callback=lambda: click.echo("hello"))

        def shout() -> click.Command:
            def callback(as_json: bool) -> None:
                click.echo(json.dumps("hello"))

            return command("shout", examples=())(options.as_json(callback))

        def fall() -> click.Command:
            return click.Command("fall", callback=lambda: int("x"))

        return [
            CommandRecord("greet", "Say hello.", greet),
            CommandRecord("shout", "Say hello in JSON.", shout),
            CommandRecord("fall", "Raise.", fall),
            CommandRecord("nothing", "No command.", lambda: "text"),
        ]


@pytest.fixture
def greeting() -> object:
    plugin = Greeting()
    plugins.register(plugin)
    yield plugin
    plugins.unregister(plugin)


def test_commands_of_plugins_are_listed_and_run(greeting: object) -> None:
    assert "Say hello." in run("--help").stdout
    assert run("greet").stdout == "hello\n"
    assert "did you mean greet" in run("gret").stderr


def test_a_plugins_command_prints_its_own_json(greeting: object) -> None:
    assert json.loads(run("shout", "--json").stdout) == "hello"


def test_a_plugins_command_that_fails_is_the_plugins_failure(greeting: object) -> None:
    for name in ("fall", "nothing"):
        result = run(name)
        assert result.exit_code == 4, result.output
        assert "Traceback" not in result.output


def test_a_defect_has_its_own_exit_code_and_a_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(plugins, "listing", broken)
    result = run("plugins")
    assert result.exit_code == 1
    assert "this is a defect of morphsearch: ZeroDivisionError" in result.stderr
    assert "Traceback" not in result.stderr
    found = json.loads(CliRunner().invoke(main, ["plugins", "--json"], color=True).stdout)
    assert found["error"] == "Defect"
    assert found["arrived"].startswith("defect: this is")
    monkeypatch.setenv("MORPHSEARCH_DEBUG", "1")
    assert "Traceback" in run("plugins").stderr


def test_an_interrupt_leaves_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plugins, "listing", interrupted)
    result = run("plugins", "--json")
    assert result.exit_code == 130
    assert result.stderr.lstrip().startswith("stopped: interrupted before anything was written")
    assert json.loads(result.stdout)["error"] == "StoppedError"


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m morphsearch.cli plugins --json | head -c 1; echo ${{PIPESTATUS[0]}} >&2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[", "0\n")


@pytest.mark.parametrize("arguments", ["plugins --json", "plugins", "inspect nope"])
def test_a_closed_stdout_is_no_error_of_its_own(arguments: str) -> None:
    command = f"{sys.executable} -m morphsearch {arguments} >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == (2 if "nope" in arguments else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr


def test_a_terminal_without_a_character_gets_a_plain_one() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with contextlib.redirect_stdout(stream):
        output.usable_streams()
        sys.stdout.write("97.68 ± 0.32 % \u2713\n")
    stream.flush()
    assert raw.getvalue() == b"97.68 +- 0.32 % ?\n"


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "morphsearch", "--version"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.split()[:1]) == (0, ["morphsearch"]), done.stderr


def test_a_full_disk_is_named() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = f"{sys.executable} -m morphsearch.cli plugins --json > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 5
    assert "space" in done.stderr.lower()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("morphsearch insp", "inspect"),
        ("morphsearch search resnet5", "resnet56"),
        ("morphsearch search resnet20 --strategy gam", "gamma-l1"),
        ("morphsearch search resnet20 --data dig", "digits"),
        ("morphsearch search resnet20 --budget fl", "flops="),
        ("morphsearch inspect resnet20 --costs params,fl", "params,flops"),
        ("morphsearch retrain x --baselines uniform,ra", "uniform,random"),
        ("morphsearch search resnet20 --device cu", "cuda"),
    ],
)
def test_the_shell_completes_names_of_plugins(words: str, expected: str) -> None:
    done = shell(_MORPHSEARCH_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))
    assert done.returncode == 0, done.stderr
    assert expected in [line.partition(",")[2] for line in done.stdout.splitlines()]
