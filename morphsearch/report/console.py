"""Where tables go: stdout for data, stderr for the rest; a pipe gets whole lines instead of cropped ones."""

from __future__ import annotations

import os
import sys
from typing import IO

from rich.console import Console

PIPE_WIDTH, PIPE_HEIGHT = 400, 100


def out() -> Console:
    """The console of stdout."""
    return make(sys.stdout)


def err() -> Console:
    """The console of stderr."""
    return make(sys.stderr)


def make(stream: IO[str]) -> Console:
    """A console that crops nothing in a pipe; ``COLUMNS`` sets the width all the same."""
    terminal = stream.isatty()
    if terminal or os.environ.get("COLUMNS"):
        return Console(file=stream, highlight=False)
    # With a height too, or else rich takes TERM=dumb for a screen of 80 columns.
    return Console(file=stream, width=PIPE_WIDTH, height=PIPE_HEIGHT, highlight=False)
