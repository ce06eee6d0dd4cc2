"""``morphsearch sparsify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from morphsearch.cli import options, settings
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.output import emit
from morphsearch.cli.params import NearChoice, Number, RegisteredName, SeedOrPath
from morphsearch.cli.running import listening, new_run_dir, refuse_existing, remember, resume_command, resuming_with

if TYPE_CHECKING:
    from morphsearch.sparsity import SparsifyConfig, SparsifyResult

FRACTION = "10%, or a step such as 200"


@morph_command(
    "sparsify",
    examples=[
        ("morphsearch sparsify resnet20 --data digits --target 70% --run-dir runs/s", "train to 70% zeros"),
        ("morphsearch sparsify resnet20 --target 70% --dry-run", "which weights, and when"),
        ("morphsearch sparsify runs/a --weights retrained --target 80%", "what a search found, from its weights"),
        ("morphsearch sparsify resnet20 --nm 2:4 --exclude stem --exclude classifier", "2 of 4 along input channels"),
        (
            "morphsearch sparsify mobilenet_v1 --data cifar10:data/cifar10 --target 70% --of network",
            "of all parameters",
        ),
    ],
)
@click.argument(
    "model",
    metavar="SEED|ARCH|RUN",
    type=SeedOrPath("models"),
    cls=options.About,
    about=f"{options.SEED_ABOUT} Or an architecture.json, or the run directory of a search (its last architecture).",
)
@options.data
@options.input_shape
@click.option("--target", metavar="N%", help="Share of the weights that become zero, such as 70% or 0.7.")
@click.option(
    "--schedule",
    type=NearChoice(["polynomial", "constant"]),
    default="polynomial",
    show_default=True,
    help="How it gets there: growing ever more slowly, or at once.",
)
@click.option("--initial", metavar="N%", help="Sparsity at the beginning of the schedule.  [default: 0%]")
@click.option("--begin", metavar="N%|STEP", help=f"When it begins: {FRACTION}.  [default: 10%; constant: 0]")
@click.option(
    "--end", metavar="N%|STEP", help="When the target is reached.  [default: 70%; constant: at the beginning]"
)
@click.option("--frequency", type=Number(int, least=1), help="Steps between updates; default: a hundred updates.")
@click.option("--power", type=Number(float, above=0), help="Of the polynomial.  [default: 3]")
@click.option(
    "--scope",
    type=NearChoice(["layer", "tensor", "global"]),
    default="layer",
    show_default=True,
    help="Each layer or tensor to the target, or all together.",
)
@click.option(
    "--of",
    type=NearChoice(["prunable", "network"]),
    default="prunable",
    show_default=True,
    help="What the target is a share of: the weights that can be pruned, or all parameters.",
)
@click.option("--block", metavar="R,C", help="Weights leave in blocks of R outputs by C inputs.")
@click.option(
    "--pool",
    type=NearChoice(["mean", "max"]),
    default="mean",
    show_default=True,
    help="Which weight speaks for a block.",
)
@click.option("--nm", metavar="N:M", help="Keep N of every M weights along input channels, such as 2:4.")
@click.option("--include", multiple=True, metavar="PATTERN", help="Only these layers, such as 'blocks.*'. Repeatable.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Not these layers. Repeatable.")
@click.option("--depthwise", is_flag=True, help="Depthwise kernels too; biases and norms never are.")
@click.option(
    "--weights",
    default="fresh",
    show_default=True,
    metavar="WORD|FILE",
    help="Weights: fresh, of a run inherited or retrained, or a safetensors file.",
)
@click.option(
    "--strategy",
    type=RegisteredName("strategies"),
    default="magnitude-sparsity",
    show_default=True,
    help="How units, or for `sparsify` single weights, are judged; see `morphsearch plugins strategies`.",
)
@options.strategy_option
@options.epochs
@options.seed
@options.device
@options.run_dir
@options.recipe
@options.val_fraction
@options.allow_code
@click.option("--dry-run", is_flag=True, help="Print the plan and stop; exit code 3 when a budget is impossible.")
@options.config
@options.quiet
@options.as_json
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Train a network while its least weights become zero."""
    run_dir: Path | None = values["run_dir"]
    if run_dir is not None and not values["dry_run"]:
        refuse_existing(run_dir)
    config = _config(ctx, values)
    from morphsearch.config import dumps
    from morphsearch.sparsity import run

    chosen = {name: value for name, value in config.to_dict().items() if value not in (None, {}, (), [])}
    click.echo(f"# as --config reads it\n{dumps(chosen)}", err=True)
    data = run.load_data(config)
    if values["dry_run"]:
        _show_plan(run.plan(config, data=data), as_json=values["as_json"])
        return
    run_dir = run_dir or new_run_dir(config.model)
    remember(run_dir)
    going_on = resume_command(run_dir, allow_code=config.allow_code)
    with listening(quiet=values["quiet"]) as listener, resuming_with(going_on, run_dir):
        result = run.start(config, run_dir, listener=listener, data=data)
    show_result(result, values["as_json"])


def show_result(result: SparsifyResult, as_json: bool) -> None:
    """Print what became of the network, and how its file is loaded."""
    if as_json:
        emit({"run_dir": str(result.run_dir), **result.to_dict()})
        return
    from morphsearch.report import console, sparsity

    console.show(console.out(), *sparsity.result(result))
    click.echo(f"weights: {result.run_dir}/weights.safetensors", err=True)


def _show_plan(plan: Any, *, as_json: bool) -> None:
    if as_json:
        emit(plan.to_dict())
        return
    from morphsearch.report import console, sparsity

    console.show(console.out(), *sparsity.plan(plan))


def _config(ctx: click.Context, values: dict[str, Any]) -> SparsifyConfig:
    """The configuration; a run's data and splits are those of its search, unless the user names others."""
    from dataclasses import fields

    from morphsearch.sparsity import SparsifyConfig
    from morphsearch.sparsity.source import recorded_data

    named = {**values, "input": values["input_"], "model": str(values["model"]), "allow_code": settings.consent(ctx)}
    chosen = {field.name: named[field.name] for field in fields(SparsifyConfig) if named.get(field.name) is not None}
    for table in ("recipe", "strategy_options"):
        chosen[table] = dict(chosen.get(table, ()))
    recorded = recorded_data(chosen["model"])
    if not recorded or ctx.get_parameter_source("data") is not ParameterSource.DEFAULT:
        return SparsifyConfig(**chosen)
    if ctx.get_parameter_source("val_fraction") is not ParameterSource.DEFAULT:
        recorded.pop("val_fraction", None)
    return SparsifyConfig(**{**chosen, **recorded})
