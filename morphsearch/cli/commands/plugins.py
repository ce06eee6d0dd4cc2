"""``morphsearch plugins``."""

from __future__ import annotations

import click

from morphsearch.cli import options
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.output import emit
from morphsearch.cli.params import NearChoice

KINDS = ("strategies", "cost_models", "models", "data", "operations", "exporters", "executors", "commands", "events")


@morph_command(
    "plugins",
    examples=[
        ("morphsearch plugins", "everything that is installed, and what is broken"),
        ("morphsearch plugins strategies", "the names that --strategy takes"),
        ("morphsearch plugins --json", "the same for programs"),
    ],
)
@click.argument(
    "kind",
    required=False,
    type=NearChoice(KINDS),
    metavar="[KIND]",
    cls=options.About,
    about=f"One of {', '.join(KINDS)}.",
)
@options.as_json
def command(kind: str | None, as_json: bool) -> None:
    """List what is installed: strategies, costs, models, data, ..."""
    from morphsearch import plugins

    rows = [row for row in plugins.listing() if kind is None or row.kind == kind]
    if as_json:
        emit([row.to_dict() for row in rows])
        return
    from morphsearch.report import console, tables

    console.show(console.out(), tables.plugins(rows))
