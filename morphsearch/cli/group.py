"""The root command: built-in commands are imported when used, plugin commands are looked up when asked for."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import click

from morphsearch.cli import errors, names, output
from morphsearch.cli.command import EpilogMixin
from morphsearch.cli.state import State
from morphsearch.errors import PluginError, UnknownName

PROGRAM = "morphsearch"
COMPLETE = "_MORPHSEARCH_COMPLETE"

BUILT_IN: dict[str, str] = {
    "inspect": "Show the layers, shapes, costs and width groups of a network.",
    "verify": "Prove on your own network that removing channels is exact.",
    "search": "Find better widths for a network within a budget.",
    "resume": "Go on with an interrupted search or sparsification.",
    "retrain": "Train the found architectures from scratch, beside baselines.",
    "sparsify": "Train a network while its least weights become zero.",
    "export": "Write a network as a file that needs nothing of morphsearch.",
    "profile": "Measure how long networks take on this device.",
    "compare": "Print the retrained architectures of a run in one table.",
    "report": "Write runs as one HTML page: verdict, tables, plots, widths.",
    "runs": "List the runs in a folder and how far they are.",
    "plugins": "List what is installed: strategies, costs, models, data, ...",
    "new-plugin": "Write a small plugin to begin with, with its tests.",
}
"""Command name -> summary; each lives in the module that :func:`module_of` names, as ``command``."""

EXAMPLES = (
    ("morphsearch inspect resnet20", "layers, parameters, FLOPs, width groups"),
    ("morphsearch search resnet20 --data digits --budget flops=50% --run-dir runs/a", "search within a budget"),
    ("morphsearch retrain runs/a --baselines uniform,random --seeds 3", "train what it found, beside baselines"),
    ("morphsearch compare runs/a", "one table"),
    ("morphsearch report runs/a", "one page to look at, and to pass on"),
)


def module_of(name: str) -> str:
    """The module of a built-in command."""
    return f"morphsearch.cli.commands.{name.replace('-', '_')}"


class RootGroup(EpilogMixin, click.Group):
    """A lazy group whose every failure is a message in three parts and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Built-in commands in the order of a user's work, then those of plugins by name."""
        extra = sorted(set(names.known("commands")) - set(BUILT_IN))
        return [*BUILT_IN, *extra]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a built-in command, or make a plugin's."""
        if cmd_name in BUILT_IN:
            module = importlib.import_module(module_of(cmd_name))
            command: click.Command = module.command
            return command
        record = names.known("commands").get(cmd_name)
        if record is None:
            return None
        made = record.factory()
        if not isinstance(made, click.Command):
            raise PluginError(
                f"the command {cmd_name!r} of {record.origin or 'a plugin'} is a {type(made).__name__}",
                "the factory of a CommandRecord returns a click.Command",
                "report it to the plugin's author, or uninstall the plugin",
            )
        return made

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but a misspelt command gets the nearest names."""
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            raise UnknownName.of("command", name, self.list_commands(ctx), remedy=f"see `{PROGRAM} --help`")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands by their summaries, so that no command module is imported for ``--help``."""
        plugins = names.known("commands")
        rows = [(name, BUILT_IN.get(name) or plugins[name].summary) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; with `standalone_mode` every outcome becomes a message and an exit code."""
        if not standalone_mode:
            return super().main(args, prog_name or PROGRAM, complete_var, standalone_mode=False, **extra)
        output.usable_streams()
        self._complete(complete_var or COMPLETE)
        arguments = list(sys.argv[1:] if args is None else args)
        options = arguments[: arguments.index("--")] if "--" in arguments else arguments
        state = State(line=shlex.join([PROGRAM, *arguments]), json="--json" in options)

        def work() -> None:
            with self.make_context(PROGRAM, arguments, obj=state, **extra) as ctx:
                self.invoke(ctx)

        sys.exit(errors.guard(work, state))

    def _complete(self, variable: str) -> None:
        instruction = os.environ.get(variable)
        if instruction:
            from click.shell_completion import shell_complete

            sys.exit(shell_complete(self, {}, PROGRAM, variable, instruction))


def _version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib import metadata

        try:
            version = metadata.version(PROGRAM)
        except metadata.PackageNotFoundError:
            version = "(not installed: running from its source)"
        click.echo(f"{PROGRAM} {version}")
        ctx.exit()


@click.group(
    cls=RootGroup,
    name=PROGRAM,
    examples=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=False,
    invoke_without_command=True,
    epilog=(
        "Data goes to stdout, progress and messages to stderr. Exit codes: 0 done, 2 usage, 3 budget impossible, "
        "4 plugin failed, 5 model, data or file unusable, 130 interrupted after saving. "
        f'Shell completion: eval "$({COMPLETE}=bash_source {PROGRAM})" (or zsh_source, fish_source).'
    ),
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Find better-shaped convolutional networks within a budget."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
