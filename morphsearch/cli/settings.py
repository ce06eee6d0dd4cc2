"""From command line and configuration file to what the loop is asked for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from morphsearch.loop.config import SearchConfig

NOT_IN_FILES = ("config", "help", "dry-run")


def load(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    """Callback of ``--config``: what the file holds becomes the defaults of the command; the command line still wins.

    Raises:
        InputError: the file cannot be read or is no TOML.
        UsageError: a key is no option, or its value is of the wrong type.
    """
    if value is not None and not ctx.resilient_parsing:
        ctx.default_map = {**(ctx.default_map or {}), **defaults(value, ctx.command)}


def defaults(path: Path, command: click.Command) -> dict[str, Any]:
    """What a file sets for one command, by the names of Python's arguments.

    The subcommands of a group share its table: what is an option of another one of them is passed over there.
    """
    from morphsearch import config
    from morphsearch.cli.group import BUILT_IN

    names = file_names(command)
    table, siblings = str(command.name), set[str]()
    elsewhere: set[str] = set()
    for name in BUILT_IN:
        other = _command(name)
        members = [*other.commands.values()] if isinstance(other, click.Group) else [other]
        held = {option for member in members for option in file_names(member)}
        elsewhere |= held
        if isinstance(other, click.Group) and command in members:
            table, siblings = name, held
    found = config.options(
        config.read(path),
        dict.fromkeys(names),
        types={name: kind for name, parameter in names.items() if (kind := _type(parameter))},
        command=table,
        commands=tuple(BUILT_IN),
        elsewhere=elsewhere - set(names),
        siblings=siblings - set(names),
        aliases={name: main for name, parameter in names.items() if (main := _main(parameter, names)) != name},
        inner={"recipe": _recipe_fields()} if "recipe" in names else {},
        never=NOT_IN_FILES,
    )
    return {
        str(names[name].name): tuple(item.items()) if isinstance(item, Mapping) else item
        for name, item in found.items()
    }


def merged(ctx: click.Context, parameter: click.Parameter, value: tuple[Any, ...]) -> tuple[Any, ...]:
    """Callback of options that are tables in a file: the command line wins key by key, and the others stay."""
    if ctx.get_parameter_source(str(parameter.name)) is not ParameterSource.COMMANDLINE:
        return value
    return (*(ctx.default_map or {}).get(str(parameter.name), ()), *value)


def file_names(command: click.Command) -> dict[str, click.Parameter]:
    """How the parameters of a command are called in a file: by their long option, or by the name in a run's record."""
    found: dict[str, click.Parameter] = {}
    for parameter in command.params:
        flags = [flag.removeprefix("--") for flag in parameter.opts if flag.startswith("--")]
        own = (
            [str(parameter.name).strip("_")] if not isinstance(parameter, click.Option) or _is_table(parameter) else []
        )
        for name in [*flags, *own]:
            if name not in NOT_IN_FILES:
                found[name.replace("-", "_")] = parameter
    return found


def _main(parameter: click.Parameter, names: Mapping[str, click.Parameter]) -> str:
    """Of all names of an option in a file, the first."""
    return next(name for name, other in names.items() if other is parameter)


def _recipe_fields() -> list[str]:
    from dataclasses import fields

    from morphsearch.training.recipe import Recipe  # imports torch, which only commands that train need

    return [field.name for field in fields(Recipe)]


def _command(name: str) -> click.Command:
    from morphsearch.cli.group import module_of

    found: click.Command = importlib.import_module(module_of(name)).command
    return found


def _is_table(parameter: click.Parameter) -> bool:
    from morphsearch.cli.params import KeyValue

    return isinstance(parameter.type, KeyValue)


def _type(parameter: click.Parameter) -> type | None:
    """The type to check in a file; None where the option's own type does it."""
    if _is_table(parameter):
        return dict
    if getattr(parameter, "multiple", False):
        return list
    if getattr(parameter, "is_flag", False):
        return bool
    return None


def consent(ctx: click.Context) -> bool:
    """Whether code outside of morphsearch may run: by ``--allow-code``, or since the user named it on the command line.

    What a configuration file names is not what the user named, nor what an architecture or a run does whose path the
    user gave.
    """
    from morphsearch import plugins

    if ctx.params.get("allow_code"):
        return True
    named, listed = False, False
    for name, kind in (("model", "models"), ("data", "data")):
        given = ctx.params.get(name)
        spec = str(given or "")
        if isinstance(given, Path):
            listed = True
            continue
        if re.split("[:?]", spec)[0] in plugins.registry(kind):
            continue
        if ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP:
            listed = True
        else:
            named = True
    return named and not listed


def search_config(values: Mapping[str, Any]) -> SearchConfig:
    """The loop's configuration from the arguments of ``search``; what is None is left to the loop's defaults."""
    from dataclasses import fields

    from morphsearch.loop.config import SearchConfig

    named = {"input": values.get("input_"), **values}
    chosen = {field.name: named[field.name] for field in fields(SearchConfig) if named.get(field.name) is not None}
    for table in ("recipe", "strategy_options"):
        chosen[table] = dict(chosen.get(table, ()))
    return SearchConfig(**{**chosen, "budget": tuple(chosen.get("budget", ()))})
