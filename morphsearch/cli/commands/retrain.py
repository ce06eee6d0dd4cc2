"""``morphsearch retrain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from morphsearch.cli import options
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.output import emit
from morphsearch.cli.params import NameList, Number, RegisteredName
from morphsearch.cli.running import listening, resuming_with, searched_run
from morphsearch.cli.state import current
from morphsearch.errors import UsageError

if TYPE_CHECKING:
    from morphsearch.loop.retraining import Comparison

BASELINES = ("uniform", "random", "seed")


@morph_command(
    "retrain",
    examples=[
        ("morphsearch retrain runs/a --baselines uniform,random --seeds 3", "the last architecture, beside equal cost"),
        ("morphsearch retrain runs/a --all --seeds 0,1,2 --epochs 30", "every architecture, these seeds"),
        ("morphsearch retrain runs/a --iteration 1 --set lr=0.05", "the first, with another learning rate"),
    ],
)
@options.run
@click.option("--iteration", type=Number(int, least=1), multiple=True, help="Which architecture; default: the last.")
@click.option("--all", "every", is_flag=True, help="Every architecture of the run.")
@click.option(
    "--baselines",
    type=NameList(BASELINES),
    default="",
    metavar="A,B",
    help=f"Also train, at equal cost: {', '.join(BASELINES)} (seed: the network as it was).",
)
@click.option("--distill", is_flag=True, help="Also train each with the trained seed as teacher, as rows of their own.")
@options.seeds
@options.epochs
@options.recipe
@click.option("--executor", type=RegisteredName("executors"), default="local", show_default=True, help="Who runs them.")
@options.allow_code
@options.config
@options.quiet
@options.as_json
def command(
    run_dir: Path,
    iteration: tuple[int, ...],
    every: bool,
    baselines: list[str],
    distill: bool,
    seeds: list[int],
    epochs: float | None,
    recipe: tuple[tuple[str, Any], ...],
    executor: str,
    allow_code: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train the found architectures from scratch, beside baselines."""
    if every and iteration:
        raise UsageError("--iteration and --all", "they exclude each other", "leave one of them out")
    searched_run(run_dir)
    from morphsearch.loop import retraining

    with listening(quiet=quiet) as listener, resuming_with(current().line, run_dir):
        comparison = retraining.retrain_run(
            run_dir,
            iterations="all" if every else list(iteration) or None,
            baselines=baselines,
            distill=distill,
            seeds=seeds,
            epochs=epochs,
            recipe=dict(recipe),
            executor=executor,
            listener=listener,
            allow_code=allow_code,
        )
    show_comparison(comparison, as_json)


def show_comparison(comparison: Comparison, as_json: bool) -> None:
    """Print the table of retrained architectures and the verdict."""
    if as_json:
        emit(comparison.to_dict())
        return
    from morphsearch.report import console, tables

    console.show(console.out(), *tables.comparison(comparison))
