"""Checkpoints that a crash at any moment cannot spoil.

A checkpoint is a folder with ``state.json`` and the tensor file that it names, ``tensors-<step>.safetensors``. The
tensor file is written first, under a name not in use; then ``state.json`` is replaced atomically; then older tensor
files go. Whatever moment the process dies at, ``state.json`` names a whole tensor file, and leftovers are ignored.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from morphsearch.errors import InputError
from morphsearch.files import read_json, read_tensors, write_json, write_tensors

SCHEMA_VERSION = 1
STATE_FILE = "state.json"


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Replace the checkpoint in `folder` by `tensors` and the JSON-ready `state`, all or nothing.

    ``state["step"]``, where there is one, goes into the name of the tensor file.

    Raises:
        InputError: the folder cannot be written to or the disk is full; the former checkpoint is still whole.
        ValueError: `state` holds NaN or infinity.
    """
    folder = Path(folder)
    path = _unused_name(folder, int(state.get("step", 0)))
    write_tensors(path, tensors)
    record = {
        "schema_version": SCHEMA_VERSION,
        "tensors": path.name,
        "bytes": path.stat().st_size,
        "crc32": _crc32(path),
        "state": dict(state),
    }
    try:
        write_json(folder / STATE_FILE, record)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    for other in [*folder.glob("tensors-*.safetensors"), *folder.glob(".*.tmp")]:
        if other != path:
            with contextlib.suppress(OSError):
                other.unlink()


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors (on the CPU) and state of the checkpoint in `folder`, or None where there is none.

    Raises:
        InputError: damaged, or written by a newer version; the message names the file and what is wrong with it.
    """
    folder = Path(folder)
    path = folder / STATE_FILE
    if not path.exists():
        return None
    record = read_json(path)
    if not isinstance(record, dict):
        raise _damaged(path, f"holds a {type(record).__name__}, not an object", folder)
    version = record.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise _damaged(path, f"has schema_version {version!r}", folder)
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema_version is {version}",
            f"this version of morphsearch reads checkpoints up to schema_version {SCHEMA_VERSION}",
            "upgrade morphsearch, or resume with the version that wrote it",
        )
    name, state = record.get("tensors"), record.get("state")
    if not isinstance(name, str) or Path(name).name != name:
        raise _damaged(path, f"names the tensor file {name!r}", folder)
    if not isinstance(state, dict):
        raise _damaged(path, "has no 'state' object", folder)
    file = folder / name
    if not file.is_file():
        raise _damaged(path, f"names {name}, which is missing", folder)
    if file.stat().st_size != record.get("bytes"):
        raise _damaged(file, f"has {file.stat().st_size} bytes instead of {record.get('bytes')}", folder)
    if _crc32(file) != record.get("crc32"):
        raise _damaged(file, "does not match the checksum in state.json", folder)
    return read_tensors(file), state


def _unused_name(folder: Path, step: int) -> Path:
    path = folder / f"tensors-{step}.safetensors"
    attempt = 1
    while path.exists():
        path = folder / f"tensors-{step}-{attempt}.safetensors"
        attempt += 1
    return path


def _crc32(path: Path) -> int:
    value = 0
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            value = zlib.crc32(chunk, value)
    return value


def _damaged(path: Path, what: str, folder: Path) -> InputError:
    return InputError(
        f"{path} {what}",
        "a checkpoint is state.json and the whole tensor file that it names",
        f"restore it from a copy, or delete {folder} to start again without it",
    )
