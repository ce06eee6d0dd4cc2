"""What one invocation remembers for the moment when something goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import click


@dataclass
class State:
    """Facts about the running command that an error message may need.

    `line`: the command as it was typed. `json`: errors go to stdout as JSON too. `run_dir`: the run that an interrupt
    leaves behind. `beside`: what the JSON of a failure holds besides. `stdout`: where JSON goes while ``sys.stdout``
    is kept free for it.
    """

    line: str = ""

    json: bool = False
    run_dir: Path | None = None
    beside: dict[str, Any] = field(default_factory=dict)
    stdout: IO[str] | None = None


def current() -> State:
    """The state of the running command; a fresh one outside of any command."""
    context = click.get_current_context(silent=True)
    state = context.find_object(State) if context else None
    return state or State()
