"""``morphsearch search``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from morphsearch.cli import options, settings
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.running import listening, new_run_dir, remember
from morphsearch.errors import BudgetError

if TYPE_CHECKING:
    from morphsearch.loop.run import Plan


@morph_command(
    "search",
    examples=[
        ("morphsearch search resnet20 --data digits --budget flops=50% --run-dir runs/a", "half the FLOPs"),
        ("morphsearch search resnet20 --budget flops=50% --dry-run", "what would happen, and what can be reached"),
        (
            "morphsearch search mobilenet_v1 --data cifar10:data/cifar10 --budget 'params<=1.2M' --epochs 20",
            "real images",
        ),
        (
            "morphsearch search my_net.py:build --data imagefolder:photos --input 1,3,96,96",
            "your own network and images",
        ),
        ("morphsearch search --config search.toml --set lr=0.05", "options from a file; the command line wins"),
    ],
)
@options.seed_spec
@options.data
@options.input_shape
@options.budget
@options.strategy
@options.strategy_option
@options.iterations
@options.epochs
@options.steps
@options.seed
@options.device
@options.run_dir
@options.recipe
@options.round_to
@options.strength
@options.threshold
@options.expand
@options.shrink_to
@options.val_fraction
@options.allow_code
@click.option("--dry-run", is_flag=True, help="Print the plan and stop; exit code 3 when the budget is impossible.")
@options.config
@options.quiet
@options.as_json
def command(**values: Any) -> None:
    """Find better widths for a network within a budget."""
    config = settings.search_config(values)
    from morphsearch.config import dumps
    from morphsearch.loop import run

    as_json: bool = values["as_json"]
    click.echo(f"# the configuration, as --config reads it\n{dumps(config.to_dict())}\n", err=True)
    plan = run.plan(config)
    if values["dry_run"]:
        _show_plan(plan, as_json)
        impossible = [row for row in plan.budgets if not row.satisfiable]
        if impossible:
            raise _impossible(impossible[0])
        return
    _show_plan(plan, as_json=False, err=True)
    run_dir: Path = values["run_dir"] or new_run_dir(config.model)
    remember(run_dir)
    with listening(quiet=values["quiet"]) as listener:
        result = run.start(config, run_dir, listener=listener)
    show_result(result, as_json)


def _show_plan(plan: Plan, as_json: bool, err: bool = False) -> None:
    if as_json:
        click.echo(json.dumps(plan.to_dict(), indent=2))
        return
    from morphsearch.report import console, tables

    console.show(console.err() if err else console.out(), tables.plan(plan))


def show_result(result: Any, as_json: bool) -> None:
    """Print what a search found and the command that comes next."""
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    from morphsearch.report import console, tables

    console.show(console.out(), tables.found(result))
    click.echo(f"next: morphsearch retrain {result.run_dir} --baselines uniform,random --seeds 3", err=True)


def _impossible(row: Any) -> BudgetError:
    return BudgetError(
        f"budget {row.text!r} cannot be met: {row.metric} would have to fall to {row.requested:,} {row.unit}",
        f"the lowest possible is {row.lowest:,} {row.unit}, the seed has {row.seed:,}",
        f"ask for {row.metric}<={row.lowest:,} or more".replace(",", ""),
    )
