"""Commands whose help leads with examples that run as they are printed."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import click

from morphsearch.cli import output
from morphsearch.cli.state import current

Example = tuple[str, str]
"""A command line and what it does."""


class EpilogMixin(click.Command):
    """Help in the order in which it is needed: what it does, examples, usage, options.

    Args:
        examples: command lines, each with what it does.
    """

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; what is wrong with an option knows of which command it is."""
        try:
            return super().parse_args(ctx, args)
        except click.BadOptionUsage as error:
            error.ctx = error.ctx or ctx
            raise

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summary and the examples first."""
        summary, _, rest = inspect.cleandoc(self.help or "").partition("\n")
        formatter.write_text(summary)
        if self.examples:
            with formatter.section("Examples"):
                for line, purpose in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}# {purpose}\n")
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        formatter.write_paragraph()
        self.format_usage(ctx, formatter)
        if rest.strip():
            formatter.write_paragraph()
            formatter.write_text(rest.strip())
        arguments = [
            (parameter.make_metavar(ctx), about)
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Argument) and (about := getattr(parameter, "about", ""))
        ]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        self.format_options(ctx, formatter)
        self.format_epilog(ctx, formatter)


class MorphCommand(EpilogMixin):
    """A command of morphsearch; with ``--json`` nothing but its JSON comes out of stdout."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        # A plugin's command may print its JSON as it likes; ours go through `emit`.
        ours = str(getattr(self.callback, "__module__", "")).startswith("morphsearch.cli.")
        with output.reserved(current()) if ours else contextlib.nullcontext():
            return super().invoke(ctx)


def command(name: str, *, examples: Sequence[Example]) -> Callable[[Callable[..., None]], click.Command]:
    """Like ``click.command``, with `examples` that lead the help."""
    settings = {"help_option_names": ["-h", "--help"]}
    return click.command(name, cls=MorphCommand, examples=examples, context_settings=settings)
