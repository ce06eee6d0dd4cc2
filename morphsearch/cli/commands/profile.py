"""``morphsearch profile``: measure this device, and see what was measured."""

from __future__ import annotations

import difflib
import shlex
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from morphsearch.cli import options
from morphsearch.cli.command import EpilogMixin
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.output import emit
from morphsearch.cli.params import NearChoice, Number, RegisteredName, SourceSpec
from morphsearch.errors import StoppedError, UnknownName, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from morphsearch.hardware.sampling import Target

DEFAULT = "measure"
INTERRUPTED = StoppedError.exit_code
DTYPES = ("float32", "bfloat16", "float16")


class ProfileGroup(EpilogMixin, click.Group):
    """Subcommands, and without the name of one the measurement itself."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the default subcommand where none is named."""
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            if args and difflib.get_close_matches(args[0], self.commands, cutoff=0.75):  # no seed is called like that
                raise UnknownName.of("profile command", args[0], [*self.commands])
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


@click.group(
    "profile",
    cls=ProfileGroup,
    examples=[
        ("morphsearch profile resnet20", "measure this CPU with networks like resnet20, in two minutes or less"),
        ("morphsearch profile --backend onnxruntime --threads 2", "a general sweep, with a plugin's backend"),
        ("morphsearch profile list", "what was measured, and hardware that is known by its figures"),
        ("morphsearch profile verify cpu-eager-b1-t1 mobilenet_v1", "predicted and measured, on networks never seen"),
        ("morphsearch search resnet20 --budget latency=50%", "search for latency, by the newest profile"),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
def command() -> None:
    """Measure how long networks take on this device.

    Without a subcommand: measure. `latency` is then a cost like any other, predicted from the profile.
    """


class BackendName(RegisteredName):
    """A latency backend; one that is known to live in a plugin is left to the message that says what to install."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name against the registry."""
        text = str(value).strip()
        known_plugin = text.lower().replace("_", "") in ("onnxruntime", "ort", "onnx")
        return text if known_plugin else super().convert(text, param, ctx)


backend = click.option(
    "--backend",
    type=BackendName("latency_backends"),
    default="eager",
    show_default=True,
    help="What runs the networks; see `morphsearch plugins`.",
)
device = click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1.")
dtype = click.option("--dtype", type=NearChoice(DTYPES), default="float32", show_default=True, help="Of all numbers.")
batch = click.option("--batch", type=Number(int, least=1), default=1, show_default=True, help="Images in one pass.")
threads = click.option("--threads", type=Number(int, least=1), default=1, show_default=True, help="Of one operation.")


@morph_command(
    DEFAULT,
    examples=[
        ("morphsearch profile resnet20 mobilenet_v1", "for networks like these two"),
        ("morphsearch profile", "a general sweep"),
        ("morphsearch profile resnet20 --batch 16 --threads 2 --limit 300", "longer, for batches"),
    ],
)
@click.argument(
    "models",
    nargs=-1,
    metavar="[SEED]...",
    type=SourceSpec("models"),
    cls=options.About,
    about=f"Networks at hand, whose random variants are measured; none: a general sweep. {options.SEED_ABOUT}",
)
@options.input_shape
@backend
@device
@dtype
@batch
@threads
@click.option("--name", help="Name of the profile; default: made of the settings.")
@options.output("in the folder of your profiles", folders=False)
@click.option(
    "--limit", type=Number(float, above=0), default=120.0, show_default=True, help="Seconds to measure for, at most."
)
@click.option(
    "--networks", type=Number(int, least=6), default=48, show_default=True, help="Networks to measure, at most."
)
@options.seed
@options.config
@options.quiet
@options.as_json
def measure(
    models: tuple[str, ...],
    input_: tuple[int, ...] | None,
    backend: str,
    device: str,
    dtype: str,
    batch: int,
    threads: int,
    name: str | None,
    output: Path | None,
    limit: float,
    networks: int,
    seed: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure this device and save a hardware profile.

    Networks of random widths run in turns, each operation is timed in place, and a predictor is fitted. Its error on
    networks that the fit had not seen is told. Ctrl-C ends the measurement early: what was measured is fitted, saved.
    """
    from morphsearch.hardware import Settings, profiles
    from morphsearch.hardware import profile as measured

    settings = Settings(backend, device, dtype, batch, threads)
    _writable(output or profiles.folder() / "x.json")
    targets = _targets(models, input_, batch)
    interrupted: list[int] = []
    with _bar(networks, quiet, interrupted) as listener:
        found = measured(
            targets, settings, name=name or "", limit=limit, networks=networks, seed=seed, listener=listener
        )
    path = found.save(output)
    if as_json:
        emit({"path": str(path), **_summary(found)})
        raise click.exceptions.Exit(INTERRUPTED if interrupted else 0)
    from morphsearch.report import console, hardware

    console.show(console.out(), hardware.profile(_summary(found)))
    for note in found.notes:
        click.echo(f"warning: {note}", err=True)
    click.echo(f"saved: {path}", err=True)
    if interrupted:
        raise click.exceptions.Exit(INTERRUPTED)
    known = path.stem if path.parent == profiles.folder() else shlex.quote(str(path))
    click.echo(f"next: morphsearch search SEED --budget latency=50% --hardware {known}", err=True)


def _writable(path: Path) -> None:
    """Find out before measuring that the result can be saved."""
    from morphsearch.files import atomic_path

    probe = path.parent / f".{path.name}.probe"
    with atomic_path(probe):
        pass
    probe.unlink()


def _targets(models: tuple[str, ...], shape: tuple[int, ...] | None, batch: int) -> list[Target]:
    """What is measured: the networks of these names, or a general sweep.

    Raises:
        UsageError: an input of another batch than is measured, or for the sweep one of its own shape.
    """
    given = ",".join(map(str, shape or ()))
    if shape and shape[0] not in (1, batch):
        raise UsageError(
            f"--input {given} with a batch of {batch}",
            "how many images a pass has is a setting of the profile (--batch)",
            f"write --input {','.join(map(str, (1, *shape[1:])))}, and --batch {shape[0]} to measure such batches",
        )
    if shape and not models and (len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]):
        raise UsageError(
            f"--input {given} without a network",
            "the general sweep runs on square colour images",
            f"write --input 1,3,{shape[-1]},{shape[-1]}, or name the networks that take this input",
        )
    from morphsearch.cli import building
    from morphsearch.hardware.sampling import Target, sweep

    if not models:
        return sweep(size=shape[-1] if shape else 96)
    found = []
    for spec in models:
        built = building.seed(spec, (1, *shape[1:]) if shape else None, allow_code=True)
        found.append(Target.of(spec, built.model, built.example[:1]))
    return found


@contextmanager
def _bar(total: int, quiet: bool, interrupted: list[int]) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """A progress bar on stderr that hears of measured networks; of an interruption the number goes into a list."""

    def note(kind: str, payload: dict[str, Any]) -> bool:
        if kind == "interrupted":
            interrupted.append(payload["done"])
        return kind == "progress"

    if quiet:

        def silent(kind: str, payload: dict[str, Any]) -> None:
            note(kind, payload)

        yield silent
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from morphsearch.report import console

    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TextColumn("networks"), TimeElapsedColumn())
    with Progress(*columns, console=console.err(), transient=True) as bar:
        task = bar.add_task("", total=total)

        def hear(kind: str, payload: dict[str, Any]) -> None:
            if note(kind, payload):
                bar.update(task, completed=payload["done"], total=payload["total"])

        yield hear


def _summary(profile: Any) -> dict[str, Any]:
    """What is told of a profile, JSON-ready."""
    data = profile.to_dict()
    if data["kind"] != "measured":
        return dict(data)
    families = {
        name: {"samples": fit["samples"], "error": fit["error"]} for name, fit in data["fit"]["families"].items()
    }
    kept = ("kind", "name", "created", "device", "settings", "versions", "seconds", "error", "noise", "notes")
    return {**{key: data[key] for key in kept}, "families": families}


@morph_command("list", examples=[("morphsearch profile list", "profiles of yours, and hardware known by its figures")])
@options.config
@options.as_json
def list_(as_json: bool) -> None:
    """List the hardware that can be searched for."""
    from morphsearch.errors import MorphError
    from morphsearch.hardware import profiles

    rows: list[dict[str, Any]] = []
    for name, path in profiles.saved().items():
        try:
            rows.append({"hardware": name, "path": str(path), **_summary(profiles.read(path))})
        except MorphError as error:
            rows.append({"hardware": name, "path": str(path), "kind": "damaged", "problem": error.arrived})
    rows += [{"hardware": name, "kind": "roofline", "path": None} for name in profiles.rooflines()]
    if as_json:
        emit(rows)
        return
    from morphsearch.report import console, hardware

    console.show(console.out(), hardware.listing(rows))


@morph_command(
    "show",
    examples=[("morphsearch profile show cpu-eager-b1-t1", "settings, versions, error, and what it has seen")],
)
@click.argument("hardware", metavar="NAME|FILE", cls=options.About, about="A profile's name or file.")
@options.config
@options.as_json
def show(hardware: str, as_json: bool) -> None:
    """Show one profile."""
    from morphsearch.hardware import profiles

    summary = _summary(profiles.load(hardware))
    if as_json:
        emit(summary)
        return
    from morphsearch.report import console
    from morphsearch.report import hardware as tables

    console.show(console.out(), tables.profile(summary))


@morph_command(
    "verify",
    examples=[
        ("morphsearch profile verify cpu-eager-b1-t1 resnet20", "ten networks of random widths, never seen by the fit"),
        ("morphsearch profile verify profile.json mobilenet_v1 --networks 30 --json", "more of them, for programs"),
    ],
)
@click.argument("hardware", metavar="NAME|FILE", cls=options.About, about="A profile that was measured on this device.")
@click.argument("models", nargs=-1, required=True, metavar="SEED...", type=SourceSpec("models"))
@options.input_shape
@click.option("--networks", type=Number(int, least=1), default=10, show_default=True, help="Networks to measure.")
@options.seed
@options.config
@options.as_json
def verify(
    hardware: str,
    models: tuple[str, ...],
    input_: tuple[int, ...] | None,
    networks: int,
    seed: int,
    as_json: bool,
) -> None:
    """Compare a profile's predictions with measurements, on networks that it has not seen."""
    from morphsearch.hardware import profiles, verifying

    profile = profiles.load(hardware)
    if not isinstance(profile, profiles.MeasuredProfile):
        raise UsageError(
            f"{hardware} is a roofline", "only what was measured can be measured again", "name a measured profile"
        )
    result = verifying.verify(profile, _targets(models, input_, profile.settings.batch), networks=networks, seed=seed)
    if as_json:
        emit(result.to_dict())
        return
    from morphsearch.report import console
    from morphsearch.report import hardware as tables

    console.show(console.out(), *tables.verification(result.to_dict()))
    for note in result.notes:
        click.echo(f"warning: {note}", err=True)


for _sub in (measure, list_, show, verify):
    command.add_command(_sub)
