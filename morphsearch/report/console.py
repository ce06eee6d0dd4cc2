"""Where tables go: stdout for data, stderr for the rest; a pipe gets whole lines instead of cropped ones."""

from __future__ import annotations

import os
import sys
from typing import IO

from rich.console import Console

PIPE_WIDTH = 400


def out() -> Console:
    """The console of stdout."""
    return make(sys.stdout)


def err() -> Console:
    """The console of stderr."""
    return make(sys.stderr)


def make(stream: IO[str]) -> Console:
    """A console that crops nothing in a pipe; ``COLUMNS`` sets the width all the same."""
    terminal = stream.isatty()
    width = None if terminal or os.environ.get("COLUMNS") else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def plain(console: Console) -> bool:
    """Whether the stream cannot take block characters."""
    return not (console.encoding or "").lower().startswith("utf")
