"""``morphsearch runs``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from morphsearch.cli import options
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.output import emit
from morphsearch.cli.running import find_runs


@morph_command(
    "runs",
    examples=[
        ("morphsearch runs", "the runs under runs/"),
        ("morphsearch runs experiments --json", "those of another folder, for programs"),
    ],
)
@click.argument(
    "folder",
    default="runs",
    type=options.PathText(path_type=Path),
    metavar="[FOLDER]",
    cls=options.About,
    about="Where to look, three folders deep; default: runs.",
)
@options.config
@options.as_json
def command(folder: Path, as_json: bool) -> None:
    """List the runs in a folder and how far they are."""
    found = find_runs(folder)
    rows = _states(found) if found else []
    if as_json:
        emit(rows)
        return
    from morphsearch.report import console, tables

    if rows:
        console.show(console.out(), tables.runs(rows))
    else:
        click.echo(f"no runs in {folder}; start one: morphsearch search resnet20 --run-dir {folder / 'a'}", err=True)


def _states(found: list[Path]) -> list[dict[str, Any]]:
    from morphsearch.loop.run import status

    return [status(path) for path in found]
