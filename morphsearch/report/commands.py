"""The command that repeats a run, from the configuration that it recorded."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any

FLAGS = {"recipe": "--set", "strategy_options": "--strategy-option"}
"""Options whose name is not that of the field."""

ALLOW = "--allow-code"
LEAVE = f"{ALLOW} lets it run code that is not part of morphsearch, as this run did: read that code first."


def allows(command: str | None) -> bool:
    """Whether a command gives leave to run code that is not morphsearch's."""
    return command is not None and ALLOW in shlex.split(command)


def command_of(name: str, config: Any, run_dir: str, *, without: Collection[str] = ()) -> str:
    """``morphsearch NAME MODEL --...``: all that differs from the defaults.

    Args:
        name: the command. config: its dataclass, with a field `model`. run_dir: where the run is to be kept.
        without: fields that the command finds out for itself.

    Leave to run code is in it where the run had it; whoever shows the command says so (:data:`LEAVE`).
    """
    words = ["morphsearch", name, str(config.model)]
    for field in fields(config):
        value = getattr(config, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.name in ("model", *without) or value is None or value == default:
            continue
        words += _words(FLAGS.get(field.name, f"--{field.name.replace('_', '-')}"), value)
    return shlex.join([*words, "--run-dir", run_dir])


def _words(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, Mapping):
        return [word for key, item in value.items() for word in (flag, f"{key}={_value(item)}")]
    if isinstance(value, tuple | list) and all(isinstance(item, str) for item in value):
        return [word for item in value for word in (flag, item)]
    return [flag, _value(value)]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
