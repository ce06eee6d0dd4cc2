"""Checks of JSON files that this package wrote, or claims to have written: field and line of what is wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from morphsearch.errors import InputError
from morphsearch.files import read_json

REPAIR = "restore the file from a copy, or search again"


def read_checked(source: Path, schema: Mapping[str, Any], *, form: str, version: int, what: str) -> dict[str, Any]:
    """Read a file and check it.

    Args:
        source: the file.
        schema: a JSON schema (draft 2020-12).
        form: what its field `format` must be.
        version: the newest schema version that is understood.
        what: what it is, for messages ("an architecture").

    Raises:
        InputError: missing, damaged, foreign, newer or against the schema; the message names field and line.
    """
    import jsonschema

    data = read_json(source)
    if not isinstance(data, Mapping) or data.get("format") != form:
        raise InputError(
            f"{source} is not {what}: its field format is {data.get('format')!r}"
            if isinstance(data, Mapping)
            else f"{source} is not {what}: it holds a {type(data).__name__}",
            f'the file of {what} has "format": "{form}"',
            "check the path, or restore it from a copy",
        )
    found = data.get("schema_version")
    if isinstance(found, int | float) and found > version:
        raise InputError(
            f"{source}{line_of(source, 'schema_version')}: schema_version is {found}",
            f"this morphsearch reads versions up to {version}",
            "update morphsearch",
        )
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(data))
    if error is not None:
        raise wrong_field(source, [str(part) for part in error.absolute_path], _shortened(error.message))
    not_finite = _not_finite(data, [])
    if not_finite is not None:
        raise wrong_field(source, not_finite, "JSON has no NaN and no infinity")
    return dict(data)


def wrong_field(source: Path, path: list[str], message: str) -> InputError:
    """The error for a field of a file; `path` leads to it."""
    last = next((part for part in reversed(path) if not part.isdigit()), "")
    return InputError(
        f"{source}{line_of(source, last)}: {'.'.join(path) or 'the whole file'}: {message}",
        "the file follows the schema in docs/reference/files.md",
        REPAIR,
    )


def line_of(source: Path, key: str) -> str:
    """``, line N`` of the first mention of a field, for messages; empty where there is none."""
    if not key:
        return ""
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    pattern = re.compile(re.escape(json.dumps(key)) + r"\s*:")
    found = next((number for number, line in enumerate(lines, 1) if pattern.search(line)), None)
    return f", line {found}" if found else ""


def finite(value: Any) -> Any:
    """`value` with everything JSON can hold; NaN and infinity become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _shortened(message: str, most: int = 200) -> str:
    return message if len(message) <= most else f"{message[: most // 2]} ... {message[-most // 2 :]}"


def _not_finite(value: Any, path: list[str]) -> list[str] | None:
    """The way to the first number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return path
    items: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(str(index), item) for index, item in enumerate(value)]
    for key, item in items:
        found = _not_finite(item, [*path, key])
        if found is not None:
            return found
    return None
