"""What commands give to other programs: JSON alone on stdout, whatever a network or a plugin prints beside it."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from typing import IO, Any

import click

from morphsearch.cli.state import State, current

_PLAIN = {"±": "+-", "–": "-", "—": "-", "…": "...", "×": "x", "≤": "<=", "≥": ">="}
_PLAIN_ERRORS = "morphsearch-plain"


def emit(data: Any) -> None:
    """Print `data` as JSON on stdout."""
    click.echo(json.dumps(data, indent=2), file=current().stdout)


@contextlib.contextmanager
def reserved(state: State) -> Iterator[None]:
    """With ``--json``, keep stdout for :func:`emit`; what else is printed within the block goes to stderr."""
    if not state.json:
        yield
        return
    state.stdout = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        state.stdout = None


def usable_streams() -> None:
    """Let every text be printed: a closed stream swallows it, and an encoding without a character gets a plain one."""
    for name in ("stdout", "stderr"):
        stream: IO[str] | None = getattr(sys, name)
        if stream is None:  # closed by the shell (`>&-`)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors=_PLAIN_ERRORS)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error(_PLAIN_ERRORS, _plain)
