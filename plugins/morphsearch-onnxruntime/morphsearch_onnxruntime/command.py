"""``morphsearch onnx-check``: does the exported network compute the same?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from morphsearch.cli import options
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.params import Number, SeedOrPath


@morph_command(
    "onnx-check",
    examples=[
        ("morphsearch onnx-check resnet20", "a seed"),
        ("morphsearch onnx-check runs/a", "the architecture that a search found, with its weights"),
        ("morphsearch onnx-check torchvision:mobilenet_v2 --input 8,3,96,96 --threads 2", "at another batch size"),
    ],
)
@click.argument(
    "model",
    metavar="SEED|RUN|FILE",
    type=SeedOrPath("models"),
    cls=options.About,
    about=f"{options.SEED_ABOUT} Or a run directory, or an architecture.json.",
)
@options.input_shape
@click.option("--threads", type=Number(int, least=1), default=1, show_default=True, help="Of one operation.")
@options.allow_code
@options.as_json
def command(model: str | Path, input_: tuple[int, ...] | None, threads: int, allow_code: bool, as_json: bool) -> None:
    """Export a network to ONNX and compare its outputs in ONNX Runtime."""
    from morphsearch.cli import building
    from morphsearch_onnxruntime.checking import check

    if isinstance(model, Path):
        architecture = building.load_architecture(model)
        network = architecture.build(allow_code=allow_code)
        found = check(network, architecture.example_inputs(), threads=threads)
    else:
        built = building.seed(model, input_, allow_code=True)
        found = check(built.model, built.example, threads=threads)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
        return
    click.echo(
        f"{found.outputs} outputs, largest relative error {found.error:.2g} (at most {found.tolerance:.0e} is allowed)"
    )
