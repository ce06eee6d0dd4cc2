"""Writes a plugin: a folder that can be installed, tested and published as it is."""

from __future__ import annotations

import os
import shutil
import string
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from morphsearch import plugins
from morphsearch.errors import InputError, UsageError
from morphsearch.files import unwritable
from morphsearch.scaffolding.kinds import KINDS
from morphsearch.scaffolding.names import Names

_TEMPLATES = files("morphsearch.scaffolding").joinpath("templates")
VERSION = "0.1"
"""The first version of morphsearch that has what templates use."""


@dataclass(frozen=True)
class Written:
    """A plugin that was written: its folder, and its files in it."""

    folder: Path
    names: Names
    kind: str
    files: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        named = {"distribution": self.names.distribution, "module": self.names.module, "name": self.names.name}
        return {"folder": str(self.folder), "kind": self.kind, **named, "files": self.files}


def write(names: Names, kind: str, folder: str | Path) -> Written:
    """Write a plugin into `folder`, the whole of it or nothing.

    Raises:
        UsageError: `folder` is a file, or is not empty. InputError: it cannot be written.
    """
    target = Path(folder)
    _refuse_taken(target)
    texts = sources(names, kind)
    temporary: Path | None = None
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.absolute().parent))
        for name, text in texts.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        os.chmod(temporary, 0o777 & ~_umask())
        os.replace(temporary, target)  # an empty folder there gives way
        temporary = None
    except OSError as error:
        raise unwritable(target, error, option="--output") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return Written(target, names, kind, list(texts))


def sources(names: Names, kind: str) -> dict[str, str]:
    """The files of a plugin by their paths in its folder."""
    entry = KINDS[kind]
    values = {
        "distribution": names.distribution,
        "module": names.module,
        "name": names.name,
        "class_name": names.class_name,
        "summary": entry.summary,
        "file": entry.file,
        "noun": plugins.KINDS[entry.registry].noun,
        "example": entry.example.format(name=names.name),
        "version": VERSION,
    }
    return {
        "pyproject.toml": _filled("pyproject.toml", values),
        "README.md": _filled("README.md", values),
        f"{names.module}/__init__.py": _filled(f"{kind}/hooks.py", values),
        f"{names.module}/{entry.file}.py": _filled(f"{kind}/code.py", values),
        f"{names.module}/py.typed": "",
        f"tests/test_{names.module}.py": _filled(f"{kind}/tests.py", values),
    }


def _filled(template: str, values: Mapping[str, str]) -> str:
    text = _TEMPLATES.joinpath(f"{template}.template").read_text(encoding="utf-8")
    return string.Template(text).substitute(values)


def _refuse_taken(folder: Path) -> None:
    repair = "choose another name or another --output"
    if folder.is_dir():
        try:
            held = sorted(path.name for path in folder.iterdir())
        except OSError as error:
            raise InputError(
                f"cannot read {folder}: {error.strerror or error}", "the folder must be readable", repair
            ) from error
        if held:
            raise UsageError(f"{folder} is not empty: it holds {held[0]}", "a plugin gets a folder of its own", repair)
    elif folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} is a file", "a plugin gets a folder of its own", repair)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
