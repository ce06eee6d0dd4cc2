"""Built-in commands. The command line knows them anyhow; here they take their names, so that no plugin can."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from morphsearch.hookspecs import hookimpl
from morphsearch.types import CommandRecord


def _late(name: str) -> Callable[[], Any]:
    """A factory that imports the command's module when it is called."""

    def factory() -> Any:
        module: str = importlib.import_module("morphsearch.cli.group").module_of(name)
        return importlib.import_module(module).command

    return factory


@hookimpl
def morphsearch_commands() -> list[CommandRecord]:
    """Every command of :mod:`morphsearch.cli`."""
    # By name, since the command line imports plugins, and not the other way round.
    summaries: dict[str, str] = importlib.import_module("morphsearch.cli.group").BUILT_IN
    return [CommandRecord(name, summary, _late(name)) for name, summary in summaries.items()]
