"""``morphsearch verify``."""

from __future__ import annotations

import json

import click

from morphsearch.cli import options
from morphsearch.cli.command import command as morph_command
from morphsearch.errors import GraphError


@morph_command(
    "verify",
    examples=[
        ("morphsearch verify resnet20", "random channels removed, against the same channels at zero"),
        ("morphsearch verify torchvision:googlenet --input 1,3,224,224", "any network"),
        ("morphsearch verify my_net.py:build --input 1,3,64,64 --json", "your own, for programs"),
    ],
)
@options.seed_spec
@options.input_shape
@options.seed
@options.config
@options.as_json
def command(model: str, input_: tuple[int, ...] | None, seed: int, as_json: bool) -> None:
    """Prove on your own network that removing channels is exact."""
    from morphsearch.cli import building
    from morphsearch.report import verification

    built = building.seed(model, input_, allow_code=True)
    found = verification.record(building.verify(built, seed), model)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        from morphsearch.report import console, tables

        console.show(console.out(), tables.verification(found))
    if not found.exact:
        raise GraphError(
            f"{model} cannot be rewritten exactly: the largest relative error is {found.max_error:.2g}",
            "a shrunk network gives the outputs of the seed with the dropped units at zero",
            "report it with the network; a rule for the operation may help (hook morphsearch_operations)",
        )
