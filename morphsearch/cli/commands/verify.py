"""``morphsearch verify``."""

from __future__ import annotations

import click

from morphsearch.cli import options
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.output import emit
from morphsearch.cli.params import Number
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
@click.option("--trials", type=Number(int, least=1), default=3, show_default=True, help="How many random keep sets.")
@options.seed
@options.config
@options.as_json
def command(model: str, input_: tuple[int, ...] | None, trials: int, seed: int, as_json: bool) -> None:
    """Prove on your own network that removing channels is exact."""
    from morphsearch.cli import building
    from morphsearch.loop.verification import verify

    built = building.seed(model, input_, allow_code=True)
    found = verify(built.model, built.example, trials=trials, seed=seed)
    record = {"model": built.spec, **found.to_dict()}
    if as_json:
        emit(record)
    else:
        from morphsearch.report import console, tables

        console.show(console.out(), *tables.verification(record))
    if not found.exact:
        raise GraphError(
            f"{model} cannot be rewritten exactly: the largest relative error is {found.max_error:.2g}",
            "a shrunk network gives the outputs of the seed with the dropped units at zero",
            "report it with the network; a rule for the operation may help (hook morphsearch_operations)",
        )
