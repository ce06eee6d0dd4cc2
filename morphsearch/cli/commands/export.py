"""``morphsearch export``."""

from __future__ import annotations

from pathlib import Path

import click

from morphsearch.cli import options
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.output import emit
from morphsearch.cli.params import Number, RegisteredName, SeedOrPath
from morphsearch.errors import UsageError


@morph_command(
    "export",
    examples=[
        ("morphsearch export runs/a --output net.py", "the last architecture as source that needs only torch"),
        ("morphsearch export runs/a --format onnx --weights retrained", "with its weights, for ONNX Runtime"),
        ("morphsearch export runs/s --output sparse.onnx", "what a sparsification made, with its weights"),
        ("morphsearch export runs/a/iterations/001/architecture.json --format pt2", "for torch.export.load"),
        ("morphsearch export resnet20 --format widths --output widths.json", "of a seed as it is"),
    ],
)
@click.argument(
    "architecture",
    metavar="RUN|FILE|SEED",
    type=SeedOrPath("models"),
    cls=options.About,
    about="A run directory (its last architecture, or the sparse network), an architecture.json, or a seed.",
)
@click.option(
    "--format",
    "format_",
    type=RegisteredName("exporters"),
    help="python, onnx, pt2, widths, or what a plugin brings; default: by the name of --output, else python.",
)
@click.option("--iteration", type=Number(int, least=1), help="Which architecture; default: the last.")
@click.option(
    "--weights",
    show_default="fresh; of a sparsification its own",
    metavar="WORD|FILE",
    help="Weights: fresh, of a run inherited or retrained, or a safetensors file.",
)
@options.output("named after the seed and the architecture, such as resnet20_001.py")
@options.input_shape
@options.allow_code
@options.config
@options.as_json
def command(
    architecture: str | Path,
    format_: str | None,
    iteration: int | None,
    weights: str | None,
    output: Path | None,
    input_: tuple[int, ...] | None,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Write a network as a file that needs nothing of morphsearch.

    It is run and compared before it is written. Weights go beside source as safetensors, into other formats.
    """
    if iteration is not None and not isinstance(architecture, Path):
        raise UsageError("--iteration with a seed", "iterations are those of a run", "leave it out")
    from morphsearch.cli import building
    from morphsearch.exporting import api
    from morphsearch.exporting.source import Source

    if isinstance(architecture, Path):
        done = api.export(
            architecture if iteration is None else api.find(architecture, iteration),
            format=format_,
            path=output,
            weights=weights,
            input_shape=input_,
            allow_code=allow_code,
        )
    else:
        built = building.seed(architecture, input_, allow_code=True)
        source = Source.given(built.model, built.example, "seed")
        source.seed_spec = built.spec
        done = api.export(source, format=format_, path=output, weights=weights, allow_code=allow_code)
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        emit(done.to_dict())
    else:
        click.echo(str(done.path))
