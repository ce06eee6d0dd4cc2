"""Options that commands share: each has one name, one meaning and one definition, here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from morphsearch.arguments import MOST_SEED
from morphsearch.cli import settings
from morphsearch.cli.names import label
from morphsearch.cli.params import (
    BudgetText,
    Device,
    KeyValue,
    NameList,
    Number,
    RegisteredName,
    Seeds,
    Shape,
    SourceSpec,
)
from morphsearch.cli.state import current
from morphsearch.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]


class About(click.Argument):
    """An argument with a sentence about it, for help and messages."""

    def __init__(self, *args: Any, about: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.about = about


SEED_ABOUT = (
    "The network: a built-in name, scheme:target, package.module:factory or file.py:factory; ?key=value for arguments."
)

seed_spec = click.argument("model", metavar="SEED", type=SourceSpec("models"), cls=About, about=SEED_ABOUT)


class PathText(click.Path):
    """``click.Path`` that takes text alone, and not an empty one (a shell variable that is not set)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A path."""
        if not isinstance(value, str | Path) or not str(value).strip():
            name = label(param)
            raise UsageError(
                f"{name} is empty" if value == "" else f"{name} {value!r}", f"{name} is a path", "write one as text"
            )
        return super().convert(value, param, ctx)


def output(default: str, *, metavar: str = "FILE", folders: bool = True) -> Callable[[Function], Function]:
    """``--output``; each command says where it writes by `default`. Without `folders` a folder is refused here."""
    return click.option(
        "--output",
        "-o",
        type=PathText(path_type=Path, dir_okay=folders),
        metavar=metavar,
        show_default=default,
        help="Where to write.",
    )


run = click.argument(
    "run_dir",
    metavar="RUN",
    type=PathText(path_type=Path),
    cls=About,
    about="A run directory, as --run-dir of search named it.",
)

runs = click.argument(
    "run_dirs",
    metavar="RUN...",
    type=PathText(path_type=Path),
    nargs=-1,
    required=True,
    cls=About,
    about="Run directories, of searches or sparsifications.",
)

data = click.option(
    "--data",
    type=SourceSpec("data", arguments=":"),
    default="digits",
    show_default=True,
    help="Data: digits, imagefolder:PATH, cifar10:PATH, npz:PATH or package.module:function.",
)

input_shape = click.option(
    "--input", "input_", type=Shape(), metavar="N,C,H,W", help="Shape of the example input, such as 1,3,224,224."
)
budget = click.option(
    "--budget",
    type=BudgetText(),
    multiple=True,
    metavar="METRIC=N%[,N%...]|METRIC<=N",
    default=("flops=50%",),
    show_default=True,
    help="What the network may cost: flops=50%, params<=1.2M, memory<=64MiB. Repeat it for several at once. A falling "
    "schedule, flops=80%,65%,50%, makes one morph for each.",
)
strategy = click.option(
    "--strategy",
    type=RegisteredName("strategies", "auto"),
    default="auto",
    show_default=True,
    help="How units, or for `sparsify` single weights, are judged; see `morphsearch plugins strategies`.",
)
strategy_option = click.option(
    "--strategy-option",
    "strategy_options",
    type=KeyValue(),
    multiple=True,
    callback=settings.merged,
    help="Option of the strategy. Repeatable.",
)
iterations = click.option(
    "--iterations",
    type=Number(int, least=1),
    show_default="2, trials 1, or one for each budget of a schedule",
    help="Number of morphs.",
)
epochs = click.option("--epochs", type=Number(float, above=0), help="Epochs of each training.")
steps = click.option(
    "--steps", type=Number(int, least=1), help="Length of the shrinking schedule in steps; default: it paces itself."
)
seed = click.option(
    "--seed", type=Number(int, least=0, most=MOST_SEED), default=0, show_default=True, help="Random seed."
)
seeds = click.option(
    "--seeds", type=Seeds(), default="3", show_default=True, metavar="N|A,B,C", help="How many random seeds, or which."
)
device = click.option(
    "--device", type=Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."
)
run_dir = click.option(
    "--run-dir", type=PathText(path_type=Path), help="Where the run is kept; default: a new folder under runs/."
)
recipe = click.option(
    "--set",
    "recipe",
    type=KeyValue(),
    multiple=True,
    callback=settings.merged,
    help="Field of the training recipe, as lr=0.05. Repeatable.",
)
round_to = click.option(
    "--round-to", type=Number(int, least=1), default=1, show_default=True, help="Widths become multiples of this."
)
strength = click.option(
    "--strength", type=Number(float, least=0), help="Fix the weight of the cost in the loss; default: it is steered."
)
threshold = click.option("--threshold", type=Number(float, least=0), help="A unit is alive above this score.")
expand = click.option(
    "--expand/--no-expand", default=True, show_default=True, help="Grow what was shrunk until the budget is used."
)
shrink_to = click.option(
    "--shrink-to",
    type=Number(float, above=0),
    help="Part of the budget that a morph shrinks to before it expands.",
)
live = click.option(
    "--live/--no-live",
    default=True,
    show_default=True,
    help="Let dead units leave while training goes on, which makes the search faster.",
)
val_fraction = click.option(
    "--val-fraction",
    type=Number(float, above=0, below=1),
    default=0.1,
    show_default=True,
    help="Part of the training data that is set apart for choices, where there is no validation split.",
)
hardware = click.option(
    "--hardware",
    metavar="NAME|FILE",
    help="For the cost latency: a hardware profile or known hardware; default: the newest profile of this device.",
)
allow_code = click.option(
    "--allow-code", is_flag=True, help="Let files (runs, architectures) name factories outside of morphsearch."
)


def _json(ctx: click.Context, parameter: click.Parameter, value: bool) -> bool:
    current().json |= value  # a configuration file may ask for it as well
    return value


as_json = click.option("--json", "as_json", is_flag=True, callback=_json, help="Print JSON on stdout.")
quiet = click.option("--quiet", "-q", is_flag=True, help="No progress.")
config = click.option(
    "--config",
    type=PathText(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=settings.load,
    help="TOML file with any of these options; the command line wins.",
)
costs = click.option(
    "--costs",
    "--cost",
    "costs",
    type=NameList(kind="cost_models"),
    default="params,flops",
    show_default=True,
    metavar="A,B",
    help="Costs to show.",
)
