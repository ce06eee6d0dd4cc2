"""Every failure ends here: three parts on stderr, with ``--json`` an object on stdout too, and the exit code."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import click

from morphsearch.cli.names import label
from morphsearch.cli.state import State
from morphsearch.cli.synonyms import meant
from morphsearch.errors import InputError, MorphError, PluginError, StoppedError, UsageError, nearest

DEBUG = "MORPHSEARCH_DEBUG"
_OURS = f"{os.sep}morphsearch{os.sep}"
DEFECT = 1
"""Exit code of a defect of morphsearch, the only failure that users cannot repair."""


def guard(work: Callable[[], None], state: State) -> int:
    """Run `work` and return the exit code; whatever goes wrong is shown, and no traceback unless asked for."""
    with _readable_warnings():
        try:
            try:
                work()
                sys.stdout.flush()
                return 0
            except click.exceptions.Exit as stop:
                sys.stdout.flush()
                return stop.exit_code
        except BrokenPipeError:
            return _close_pipe()
        except MorphError as error:
            return _fail(error, state, error)
        except click.ClickException as error:
            return _fail(from_click(error), state, error)
        except (KeyboardInterrupt, EOFError, click.Abort) as error:
            return _fail(interrupted(state), state, error)
        except MemoryError as error:
            return _fail(out_of_memory(), state, error)
        except OSError as error:
            return _fail(environment(error), state, error)
        except Exception as error:
            return _fail(unexpected(error), state, error)


def _fail(error: MorphError | str, state: State, cause: BaseException) -> int:
    """Show a failure; a string is that of a defect."""
    if os.environ.get(DEBUG):
        traceback.print_exception(cause, file=sys.stderr)
    code = error.exit_code if isinstance(error, MorphError) else DEFECT
    try:
        if isinstance(error, MorphError):
            click.echo(render(error), err=True)
        else:
            click.echo(error, err=True)
        if state.json:
            data = (
                error.to_dict()
                if isinstance(error, MorphError)
                else {"error": "Defect", "arrived": click.unstyle(error), "exit_code": code}
            )
            click.echo(json.dumps({**state.beside, **data}, indent=2))
        sys.stdout.flush()
    except OSError:
        _close_pipe()
    return code


def render(error: MorphError) -> str:
    """The three parts, their labels aligned; wrapped and coloured for a terminal, one line a part elsewhere."""
    stopped = isinstance(error, StoppedError)
    parts = (
        ("stopped", "yellow", error.arrived.removeprefix("stopped ")) if stopped else ("error", "red", error.arrived),
        ("note" if stopped else "rule", "blue", error.rule),
        ("resume" if stopped else "try", "green", error.repair),
    )
    shown = [(name, colour, text) for name, colour, text in parts if text]
    margin = max(len(name) for name, _, _ in shown) if shown else 0
    return "\n".join(
        f"{click.style(f'{name:>{margin}}:', fg=colour, bold=True)} {_indented(text, margin + 2)}"
        for name, colour, text in shown
    )


def _indented(text: str, margin: int) -> str:
    lines: list[str] = []
    wide = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
    for line in text.splitlines() or [""]:
        wrap = wide and len(line) + margin > wide > margin + 20 and not line.startswith(" ")
        lines += (
            textwrap.wrap(line, (wide or 0) - margin, break_long_words=False, break_on_hyphens=False)
            if wrap
            else [line]
        )
    return ("\n" + " " * margin).join(lines)


def from_click(error: click.ClickException) -> MorphError:
    """A usage error of click in our three parts, with the nearest names."""
    context: click.Context | None = getattr(error, "ctx", None)
    help_line = f"see `{context.command_path} --help`" if context else "see `morphsearch --help`"
    if isinstance(error, click.NoSuchOption):
        options = _options(context)
        close = meant(error.option_name, options, _argument(context)) or nearest(error.option_name, options)
        rule = f"options: {', '.join(options)}" if options else ""
        return UsageError(
            f"no such option {error.option_name}", rule, f"did you mean {' or '.join(close)}?" if close else help_line
        )
    if isinstance(error, click.MissingParameter):
        name = label(error.param)
        usage = " ".join(context.get_usage().split()) if context else ""
        examples = getattr(context.command, "examples", ()) if context else ()
        return UsageError(f"{name} is missing", usage, f"for example: {examples[0][0]}" if examples else help_line)
    if isinstance(error, click.BadParameter):
        about = getattr(error.param, "help", None) or getattr(error.param, "about", None) or ""
        name = error.param_hint if isinstance(error.param_hint, str) else label(error.param)
        return UsageError(f"{name}: {_plain(error.message)}", f"{name}: {about}" if about else "", help_line)
    if isinstance(error, click.BadOptionUsage) and context is not None and "requires an argument" in error.message:
        for one in context.command.get_params(context):
            if isinstance(one, click.Option) and error.option_name in one.opts:
                value = one.make_metavar(context)
                about = f"{error.option_name} {value}: {one.help or ''}"
                return UsageError(f"{error.option_name} has no value", about, f"write one after it, or {help_line}")
    usage = " ".join(context.get_usage().split()) if context else ""
    return UsageError(_plain(error.format_message()), usage, help_line)


def _plain(message: str) -> str:
    message = message.strip().removesuffix(".")
    return message[:1].lower() + message[1:]


def _argument(context: click.Context | None) -> str:
    """What the command calls its first argument; empty where it has none."""
    parameters = context.command.get_params(context) if context is not None else []
    return next((label(one) for one in parameters if isinstance(one, click.Argument)), "")


def _options(context: click.Context | None) -> list[str]:
    if context is None:
        return []
    flags = [
        flag
        for parameter in context.command.get_params(context)
        for flag in [*parameter.opts, *parameter.secondary_opts]
    ]
    return [flag for flag in flags if flag.startswith("--")]


def interrupted(state: State) -> StoppedError:
    """Ctrl-C outside of the loop, which saves and says so itself."""
    if state.run_dir is not None and (state.run_dir / "run.json").exists():
        return StoppedError(
            f"interrupted; {state.run_dir} keeps what was saved", "", f"morphsearch resume {state.run_dir}"
        )
    return StoppedError("interrupted before anything was written", "", "run the same command again")


def environment(error: OSError) -> MorphError | str:
    """A file, disk or device that refused; a plugin's is still the plugin's."""
    found = unexpected(error)
    if isinstance(found, MorphError):
        return found
    where = f"{error.filename}: " if error.filename else ""
    return InputError(
        f"{where}{error.strerror or error}",
        "files and folders must be there, be readable or writable, and the disk must have room",
        "check the path and its permissions, and free some space",
    )


def out_of_memory() -> MorphError:
    """Python's own MemoryError."""
    return InputError(
        "the machine ran out of memory",
        "the data, the network and a batch must fit",
        "take a smaller --input or --set batch_size=..., or stream the data from a folder",
    )


def unexpected(error: Exception) -> MorphError | str:
    """An exception that nobody foresaw: a plugin's (exit code 4) or a defect of morphsearch (exit code 1)."""
    what = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    origin = _plugin_of(error)
    if origin:
        return PluginError(
            f"the plugin {origin} failed: {what}",
            "a plugin raises a MorphError for what users can repair, and nothing else",
            f"report it to the plugin's author (set {DEBUG}=1 for the traceback), or uninstall {origin}",
        )
    return (
        f"{click.style('defect:', fg='red', bold=True)} this is a defect of morphsearch: {what}\n"
        f"        set {DEBUG}=1 for the traceback, and please report it"
    )


def _plugin_of(error: BaseException) -> str | None:
    """The origin of the plugin in whose code, or in code that it called, the exception arose; None if in ours."""
    from morphsearch import plugins

    try:
        owners = _owners(plugins)
    except Exception:
        return None
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    for module in reversed(frames):
        package = module.partition(".")[0]
        if module in owners or package in owners:
            return owners.get(module) or owners[package]
        if package == "morphsearch":
            return None
    return None


def _owners(plugins: Any) -> dict[str, str]:
    """Top-level package of each plugin that is not built in -> its origin."""
    owners: dict[str, str] = {}
    for kind in plugins.KINDS:
        for record in plugins.registry(kind).values():
            package = getattr(record.factory, "__module__", "").partition(".")[0]
            if package and package != "morphsearch":
                owners.setdefault(package, record.origin or package)
    return owners


def _close_pipe() -> int:
    """The reader of our output has had enough (`| head`): leave quietly, and let the interpreter flush in peace."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


@contextlib.contextmanager
def _readable_warnings() -> Iterator[None]:
    """Warnings as one line each on stderr; those of other libraries only with ``MORPHSEARCH_DEBUG``."""
    with warnings.catch_warnings():
        if not sys.warnoptions and not os.environ.get(DEBUG):
            warnings.simplefilter("default")
            warnings.showwarning = _show_warning
        yield


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    ours = category.__module__.partition(".")[0] == "morphsearch" or filename == "morphsearch" or _OURS in filename
    if ours:
        click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {message}", err=True)
