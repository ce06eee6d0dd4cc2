"""Options from a TOML file: checked with their line, and merged between the defaults and the command line.

A file holds options by their long names (``run-dir`` and ``run_dir`` are the same), any of them at the top level, and
those meant for one command in a table of its name::

    budget = ["flops=50%"]
    seed = 1

    [recipe]            # an option that is itself a table
    lr = 0.05

    [search]            # for `morphsearch search` alone; wins over the top level
    iterations = 3
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from morphsearch import files
from morphsearch.errors import InputError, UnknownName, UsageError, nearest

_HEADER = re.compile(r"^\s*\[{1,2}\s*([^\[\]]+?)\s*\]{1,2}\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes", list: "a list"}
_WORDS |= {tuple: "a list", dict: "a table"}


@dataclass(frozen=True)
class Document:
    """A parsed TOML file. `lines` has the line, from 1, of every key path whose line could be told."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def place(self, *keys: str) -> str:
        """Where a key stands, for messages: ``file.toml, line 3``."""
        line = self.lines.get(keys)
        return f"{self.path}, line {line}" if line else str(self.path)


def read(path: Path | str) -> Document:
    """Parse a TOML file.

    Raises:
        InputError: it cannot be read, is not UTF-8 or not TOML; the message names line and column.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark of its byte order
        return Document(path, tomllib.loads(text), _lines(text))
    except OSError as error:
        reason, repair = error.strerror or str(error), "check the path"
    except UnicodeDecodeError:
        reason, repair = "it is not UTF-8 text", "save it as UTF-8"
    except tomllib.TOMLDecodeError as error:
        reason, repair = str(error), 'text stands in quotes, lists in brackets: budget = ["flops=50%"]'
        if "overwrite" in reason or "twice" in reason:
            repair = "give every option and every table once"
    raise InputError(f"cannot read the configuration {path}: {reason}", "a configuration is a TOML file", repair)


def options(
    document: Document,
    defaults: Mapping[str, Any],
    *,
    types: Mapping[str, type] | None = None,
    command: str = "",
    commands: Collection[str] = (),
    elsewhere: Collection[str] = (),
    siblings: Collection[str] = (),
    aliases: Mapping[str, str] | None = None,
    inner: Mapping[str, Collection[str]] | None = None,
    never: Collection[str] = (),
) -> dict[str, Any]:
    """The options in a file that concern one command, by the names that `defaults` has.

    Args:
        document: what :func:`read` gave.
        defaults: every option of the command with its default, whose type is checked against (None: any type).
        types: the types of options whose default does not tell.
        command: the command; its own table wins over the top level.
        commands: names of all commands; the tables of the others are passed over.
        elsewhere: options of other commands, which may stand at the top level and are passed over.
        siblings: options of commands that share the table of this one, passed over in it.
        aliases: further names of options -> the name that the result has.
        inner: options that are tables -> names that belong into them, for those who forget the table.
        never: options that only the command line has.

    Raises:
        UsageError: an unknown name (with the nearest ones), a wrong type, or one option by two names; the message has
            the line.
    """
    expected = {name: _expected(value) for name, value in defaults.items()} | dict(types or {})
    found: dict[str, Any] = {}
    own: Mapping[str, Any] = {}
    own_table = command
    tables = {_name(name) for name in commands} - {_name(command)}
    passed_over = {_name(name) for name in elsewhere}
    tabled = {name: table for table, names in (inner or {}).items() if table in expected for name in names}
    _once(document, (), document.values, aliases or {})
    for key, value in document.values.items():
        name = _name(key)
        if name == _name(command) and isinstance(value, dict):
            own, own_table = value, key
        elif name in expected:
            found[(aliases or {}).get(name, name)] = _checked(document, (key,), value, expected[name])
        elif not (name in passed_over or (name in tables and isinstance(value, dict))):
            _misplaced(document, (key,), value, {*tables, _name(command)}, tabled, never)
            headed = isinstance(value, dict)  # a misspelt table is rather a command's than a plain option's name
            tabular = [option for option, kind in expected.items() if kind is dict]
            known = [*tables, _name(command), *tabular] if headed else [*expected, *passed_over]
            raise _unknown(document, (key,), known)
    _once(document, (own_table,), own, aliases or {})
    for key, value in own.items():
        name = _name(key)
        if name in siblings:
            continue
        if name not in expected:
            _misplaced(document, (own_table, key), value, (), tabled, never)
            raise _unknown(document, (own_table, key), [*expected, *siblings])
        main = (aliases or {}).get(name, name)
        checked = _checked(document, (own_table, key), value, expected[name])
        before = found.get(main)
        found[main] = {**before, **checked} if isinstance(before, dict) and isinstance(checked, dict) else checked
    return found


def resolve(
    command_defaults: Mapping[str, Any],
    file: Document | Path | str | None,
    cli_values: Mapping[str, Any],
    **arguments: Any,
) -> dict[str, Any]:
    """Merge options: defaults, then the file, then the command line. Tables (``[recipe]``) merge key by key.

    Args:
        command_defaults: every option of the command with its default.
        file: a TOML file, read already or not, or None.
        cli_values: only what the user wrote on the command line.
        **arguments: passed on to :func:`options`.

    Raises:
        InputError: the file is not TOML.
        UsageError: an unknown name or a wrong type in the file.
    """
    document = read(file) if isinstance(file, str | Path) else file
    layers = [options(document, command_defaults, **arguments)] if document else []
    resolved = dict(command_defaults)
    for layer in [*layers, cli_values]:
        for name, value in layer.items():
            before = resolved.get(name)
            both = isinstance(before, Mapping) and isinstance(value, Mapping)
            resolved[name] = {**before, **value} if both else value  # type: ignore[dict-item]
    return resolved


def dumps(values: Mapping[str, Any]) -> str:
    """The options as TOML that :func:`read` takes back. TOML has no null: what is None is left out."""
    return tomli_w.dumps(_plain(values))


def write(path: Path | str, values: Mapping[str, Any]) -> None:
    """Write the options as a TOML file, whole or not at all.

    Raises:
        InputError: the folder cannot be written to.
    """
    files.write_text(Path(path), dumps(values))


def _name(key: str) -> str:
    return key.replace("-", "_")


def _expected(default: Any) -> type:
    known = (bool, int, float, str, tuple, list, dict)
    return object if default is None else next((kind for kind in known if isinstance(default, kind)), object)


def _checked(document: Document, keys: tuple[str, ...], value: Any, expected: type) -> Any:
    """`value` as `expected`: a whole number serves as a number, a single value as a list of one."""
    number = isinstance(value, int) and not isinstance(value, bool)
    if expected in (list, tuple):
        return expected(value) if isinstance(value, list) else expected([value])
    if expected is float and number:
        return float(value)
    if expected is object or (number if expected is int else isinstance(value, expected)):
        return value
    raise UsageError(
        f"{document.place(*keys)}: {'.'.join(keys)} = {value!r}",
        f"{keys[-1]} is {_WORDS.get(expected, expected.__name__)}",
        f"write {keys[-1]} as {_WORDS.get(expected, expected.__name__)}",
    )


def _once(document: Document, table: tuple[str, ...], values: Mapping[str, Any], aliases: Mapping[str, str]) -> None:
    """Refuse one option by two names (``round-to`` and ``round_to``), of which only one could hold."""
    names: dict[str, str] = {}
    for key in values:
        name = aliases.get(_name(key), _name(key))
        if name in names:
            raise UsageError(
                f"{document.place(*table, key)}: {'.'.join((*table, key))}, and {names[name]} before it",
                "both are names of one option",
                "give one of them",
            )
        names[name] = key


def _misplaced(
    document: Document,
    keys: tuple[str, ...],
    value: Any,
    commands: Collection[str],
    tabled: Mapping[str, str],
    never: Collection[str],
) -> None:
    """Refuse what is known, but in the wrong place: a field outside of its table, a command's table in a list."""
    where, name = document.place(*keys), _name(keys[-1])
    if name in map(_name, never):
        raise UsageError(f"{where}: {keys[-1]} stands in a file", "only the command line has it", "write it there")
    if name in tabled:
        table = ".".join((*keys[:-1], tabled[name]))
        raise UsageError(
            f"{where}: {'.'.join(keys)} is no option",
            f"{name} is a field of {table}",
            f"write it below a line [{table}]",
        )
    if name in commands and isinstance(value, list):
        raise UsageError(
            f"{where}: {keys[-1]} is a list", "a command has one table", f"write [{keys[-1]}], in single brackets"
        )


def _unknown(document: Document, keys: tuple[str, ...], known: Collection[str]) -> UsageError:
    names = sorted({name for name in known if name})
    close = nearest(_name(keys[-1]), names)
    repair = f"did you mean {' or '.join(close)}?" if close else f"the options are {', '.join(names)}"
    where = document.place(*keys)
    return UnknownName(
        f"{where}: unknown option {'.'.join(keys)!r}", "a file holds options by their long names", repair
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """The line of every key, by a scan that knows headers, keys and multi-line strings (tomllib keeps no lines)."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    inside = ""  # the quotes of the multi-line string that we are in
    for number, line in enumerate(text.splitlines(), 1):
        started_inside = bool(inside)
        for quotes in re.findall(r'"""|\'\'\'', line):
            inside = quotes if not inside else "" if quotes == inside else inside
        if started_inside:
            continue
        if header := _HEADER.match(line):
            table = _split(header.group(1))
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            path = table
            for part in _split(key.group(1)):
                path = (*path, part)
                lines.setdefault(path, number)
    return lines


def _split(dotted: str) -> tuple[str, ...]:
    parts = re.findall(r'"[^"]*"|\'[^\']*\'|[\w-]+', dotted)
    return tuple(part.strip("\"'") for part in parts)
