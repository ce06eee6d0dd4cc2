"""``morphsearch inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from morphsearch.cli import options
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.output import emit
from morphsearch.cli.params import Number, SeedOrPath
from morphsearch.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from morphsearch.report.inspection import Inspection


@morph_command(
    "inspect",
    examples=[
        ("morphsearch inspect resnet20", "a built-in network"),
        ("morphsearch inspect resnet50 --input 1,3,224,224 --depth 2", "its larger parts only"),
        ("morphsearch inspect torchvision:densenet121 --groups", "which layers share their widths, and what is frozen"),
        ("morphsearch inspect my_net.py:build --input 1,3,64,64 --json", "your own network, for programs"),
        ("morphsearch inspect resnet50 --input 1,3,224,224 --cost latency --hardware v100", "what binds each layer"),
        ("morphsearch inspect runs/a", "what a search found, against its seed"),
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
@options.costs
@options.hardware
@click.option("--depth", type=Number(int, least=1), help="Show modules down to this depth; deeper ones are added up.")
@click.option("--groups", "only_groups", is_flag=True, help="Only the groups of widths.")
@click.option("--layers", "only_layers", is_flag=True, help="Only the layers.")
@click.option("--explain", metavar="LAYER", help="Why the units of a layer or group change together.")
@options.allow_code
@options.config
@options.as_json
def command(
    model: str | Path,
    input_: tuple[int, ...] | None,
    costs: list[str],
    hardware: str | None,
    depth: int | None,
    only_groups: bool,
    only_layers: bool,
    explain: str | None,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Show the layers, shapes, costs and width groups of a network."""
    if only_groups and only_layers:
        raise UsageError("--groups and --layers", "they exclude each other", "leave both out to see both")
    if depth is not None and (only_groups or as_json):
        raise UsageError(
            f"--depth with {'--groups' if only_groups else '--json'}",
            "--depth adds up the layers of the table",
            "leave one of them out",
        )
    if explain is not None:
        others = {"--groups": only_groups, "--layers": only_layers, "--depth": depth, "--hardware": hardware}
        for option, value in others.items():
            if value:
                raise UsageError(f"--explain and {option}", "--explain prints no table", "leave one of them out")
    from morphsearch.cli import building

    if explain is not None:
        graph = building.graph(model, input_, allow_code=allow_code).graph
        text = building.explain(graph, explain)
        if as_json:
            emit({"layer": explain, "explanation": text})
        else:
            click.echo(text)
        return
    found: Inspection = building.inspection(model, input_, costs, allow_code=allow_code, hardware=hardware)
    if as_json:
        hidden = "layers" if only_groups else "groups" if only_layers else None
        emit({key: value for key, value in found.to_dict().items() if key != hidden})
        return
    from rich.text import Text

    from morphsearch.report import console, layers

    terminal = console.out()
    parts: list[RenderableType] = []
    if not only_groups:
        table = layers.layers(found, depth=depth)
        parts.append(table if console.fits(terminal, table) else layers.layers(found, depth=depth, compact=True))
    if not only_layers:
        parts.append(layers.groups(found, width=terminal.width))
    if found.notes:
        parts.append(Text("\n".join(found.notes), style="yellow"))
    console.show(terminal, *parts)
