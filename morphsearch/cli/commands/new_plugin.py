"""``morphsearch new-plugin``."""

from __future__ import annotations

from pathlib import Path

import click

from morphsearch.cli import options
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.output import emit
from morphsearch.cli.params import NearChoice

# By hand, so that the help of other commands does not import the templates; a test compares.
KINDS = (
    *("cost-model", "strategy", "operation", "model", "data", "exporter", "executor", "latency-backend", "command"),
)


@morph_command(
    "new-plugin",
    examples=[
        ("morphsearch new-plugin energy", "a cost model, as ./energy"),
        ("morphsearch new-plugin morphsearch-stripes --kind data --output plugins/stripes", "data, elsewhere"),
        ("morphsearch new-plugin greedy --kind strategy", "a strategy"),
    ],
)
@click.argument(
    "name",
    metavar="NAME",
    cls=options.About,
    about="What pip will call it: small letters, digits and -; morphsearch- may stand before it.",
)
@click.option(
    "--kind",
    type=NearChoice(KINDS),
    default="cost-model",
    show_default=True,
    metavar="KIND",
    help=f"What it brings: {', '.join(KINDS)}.",
)
@options.output("a folder called NAME, here", metavar="DIR")
@options.config
@options.as_json
def command(name: str, kind: str, output: Path | None, as_json: bool) -> None:
    """Write a small plugin to begin with, with its tests.

    A package with a hook, its entry point, tests and a README: it can be installed, and passes its tests, ruff and
    mypy as it is. A folder that holds something is left alone.
    """
    from morphsearch import scaffolding

    done = scaffolding.write(scaffolding.named(name, kind), kind, output or Path(name))
    if as_json:
        emit(done.to_dict())
        return
    for path in done.files:
        click.echo(str(done.folder / path))
    click.echo(f"next: pip install -e {done.folder} && morphsearch plugins && pytest {done.folder}", err=True)
