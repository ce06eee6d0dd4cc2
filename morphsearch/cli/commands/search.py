"""``morphsearch search``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from morphsearch.cli import options, settings
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.output import emit
from morphsearch.cli.running import listening, new_run_dir, refuse_existing, remember, resume_command, resuming_with
from morphsearch.cli.state import current

if TYPE_CHECKING:
    from morphsearch.loop.run import Plan, SearchResult


@morph_command(
    "search",
    examples=[
        ("morphsearch search resnet20 --data digits --budget flops=50% --run-dir runs/a", "half the FLOPs"),
        ("morphsearch search resnet20 --budget flops=50% --dry-run", "what would happen, and what can be reached"),
        (
            "morphsearch search resnet20 --budget flops=80%,65%,50% --run-dir runs/b",
            "a family: one morph for each budget, each from the one before",
        ),
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
@options.live
@options.val_fraction
@options.hardware
@options.allow_code
@click.option("--dry-run", is_flag=True, help="Print the plan and stop; exit code 3 when a budget is impossible.")
@options.config
@options.quiet
@options.as_json
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Find better widths for a network within a budget."""
    run_dir: Path | None = values["run_dir"]
    if run_dir is not None and not values["dry_run"]:
        refuse_existing(run_dir)
    config = settings.search_config({**values, "allow_code": settings.consent(ctx)})
    from morphsearch.config import dumps
    from morphsearch.loop import budget, deciding, run

    as_json: bool = values["as_json"]
    data = run.data_of(config)
    config = run.settled(config, data)
    chosen = {name: value for name, value in config.to_dict().items() if value not in (None, {})}
    click.echo(f"# as --config reads it\n{dumps(chosen)}", err=True)
    plan = run.plan(config, data=data)
    if values["strategy"] == deciding.AUTO:
        plan.notes.append(deciding.why(plan.strategy))
    possible = all(row.satisfiable for row in plan.budgets)
    if as_json and values["dry_run"] and not possible:
        current().beside = plan.to_dict()  # one document: the plan, and why it is impossible
    else:
        _show_plan(plan, as_json=as_json and values["dry_run"], err=not values["dry_run"])
    if not possible:
        raise budget.impossible(plan.budgets, config.round_to)
    if values["dry_run"]:
        return
    run_dir = run_dir or new_run_dir(config.model)
    remember(run_dir)
    going_on = resume_command(run_dir, allow_code=config.allow_code)
    with listening(quiet=values["quiet"]) as listener, resuming_with(going_on, run_dir):
        result = run.start(config, run_dir, listener=listener, data=data)
    show_result(result, as_json, allow_code=config.allow_code)


def _show_plan(plan: Plan, as_json: bool, err: bool) -> None:
    if as_json:
        emit(plan.to_dict())
        return
    from morphsearch.report import console, tables

    console.show(console.err() if err else console.out(), tables.plan(plan))


def show_result(result: SearchResult, as_json: bool, *, allow_code: bool = False) -> None:
    """Print what a search found and the command that comes next, with the leave to run code that it needs again."""
    leave = " --allow-code" if allow_code else ""
    following = f"morphsearch retrain {shlex.quote(str(result.run_dir))} --baselines uniform,random --seeds 3{leave}"
    if as_json:
        emit({"run_dir": str(result.run_dir), **result.summary, "next": following})
        return
    from morphsearch.report import console, tables

    console.show(console.out(), *tables.found(result))
    click.echo(f"next: {following}", err=True)
