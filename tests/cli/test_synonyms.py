"""Options by the names that other tools have for them."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from morphsearch.cli import main
from morphsearch.cli.synonyms import _MEANT


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("search digits_net --out x", "--run-dir"),
        ("search digits_net --lr 0.1", "--set lr=..."),
        ("search digits_net --batch_size 8", "--set batch_size=..."),
        ("search digits_net --max-flops 8", "--budget flops=..."),
        ("search --model digits_net", "SEED, without an option before it"),
        ("sparsify digits_net --sparsity 0.5", "--target"),
        ("export runs/a --out x", "--output"),
        ("profile digits_net --batch-size 8", "--batch"),
        ("retrain runs/a --learning-rate 8", "--set lr=..."),
        ("search digits_net --budgte flops=50%", "--budget"),
    ],
)
def test_the_option_that_is_meant_is_named_alone(line: str, meant: str) -> None:
    done = CliRunner().invoke(main, line.split())
    assert done.exit_code == 2
    assert f"no such option {next(word for word in line.split() if word.startswith('--'))}" in done.output
    assert f"did you mean {meant}?" in done.output


def test_a_name_that_nobody_knows_leads_to_the_help() -> None:
    done = CliRunner().invoke(main, ["search", "digits_net", "--xyzzy"])
    assert done.exit_code == 2
    assert "see `morphsearch search --help`" in done.output
    assert "did you mean" not in done.output


def _flags(command: click.Command | None) -> set[str]:
    assert command is not None
    here = click.Context(command)
    names = command.list_commands(here) if isinstance(command, click.Group) else []
    below = (_flags(command.get_command(here, name)) for name in names if isinstance(command, click.Group))
    return {flag for one in command.params for flag in one.opts}.union(*below)


def test_every_option_that_may_be_meant_is_there_somewhere() -> None:
    assert set(_MEANT) <= _flags(main)
