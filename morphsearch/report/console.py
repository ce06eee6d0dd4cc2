"""Where tables go: stdout for data, stderr for the rest. Nothing is ever cropped."""

from __future__ import annotations

import sys
from typing import IO

from rich.console import Console, RenderableType
from rich.measure import Measurement

PIPE_WIDTH, PIPE_HEIGHT = 400, 100


def out() -> Console:
    """The console of stdout."""
    return make(sys.stdout)


def err() -> Console:
    """The console of stderr."""
    return make(sys.stderr)


def make(stream: IO[str]) -> Console:
    """A console of the terminal's width; a pipe gets whole lines."""
    if stream.isatty():
        return Console(file=stream, highlight=False)
    # With a height too, or else rich takes TERM=dumb for a screen of 80 columns.
    return Console(file=stream, width=PIPE_WIDTH, height=PIPE_HEIGHT, highlight=False)


def needs(console: Console, what: RenderableType) -> int:
    """How many columns the narrowest way to draw something takes."""
    unbounded = console.options.update(width=PIPE_WIDTH)
    return Measurement.get(console, unbounded, what).minimum


def fits(console: Console, what: RenderableType) -> bool:
    """Whether the narrowest way to draw something is narrow enough."""
    return needs(console, what) <= console.width


def show(console: Console, *parts: RenderableType) -> None:
    """Print with an empty line between parts; what is too wide for a terminal is left to the terminal to wrap."""
    for index, part in enumerate(parts):
        if index:
            console.print()
        if fits(console, part):
            console.print(part)
        else:
            wide = Console(
                file=console.file,
                width=needs(console, part),
                height=PIPE_HEIGHT,
                highlight=False,
                force_terminal=console.is_terminal,
            )
            wide.print(part)
