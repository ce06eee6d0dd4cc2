"""Files that are either whole or absent: write to a temporary file, fsync, rename."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphsearch.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed over `path`, on failure removed.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
        _fsync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError, *, option: str = "place") -> InputError:
    """The answer to a file (or folder) that cannot be written; `option` is what another one is chosen by."""
    for folder in path.parents:
        with contextlib.suppress(OSError):
            if folder.exists() and not folder.is_dir():
                return InputError(
                    f"cannot write {path}: {folder} is a file",
                    "what is written goes into a folder",
                    f"choose another {option}, or move that file away",
                )
    return InputError(
        f"cannot write {path}: {error.strerror or error}",
        "the folder must be writable and the disk must have room",
        f"free some space or choose another {option}; nothing half-written was left behind",
    )


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON, atomically; NaN and infinity are refused, as JSON has neither."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors, atomically. Tensors that share memory are written apart.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        try:
            save_file(own, str(temporary), metadata=dict(metadata) if metadata else None)
        except SafetensorError as error:
            raise _system_error(error) from error


def _system_error(error: Exception) -> OSError:
    """What the system said, out of the text that safetensors wraps it in (``... (os error 28)``)."""
    code = re.search(r"os error (\d+)", str(error))
    return OSError(int(code[1]), os.strerror(int(code[1]))) if code else OSError(str(error))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        InputError: the file is missing, truncated or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (OSError, SafetensorError, ValueError) as error:
        if _pickled(path):
            raise InputError(
                f"{path} looks like a file of torch.save or pickle, and was not read",
                "weights are safetensors files; reading a pickle can run whatever code it holds",
                "if you trust it, convert it: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')",
            ) from None
        raise InputError(
            f"cannot read the tensors in {path}: {error}",
            "weights are safetensors files",
            "write the file again (retrain or resume the run), or take a copy that is whole",
        ) from error


def _pickled(path: Path) -> bool:
    """Whether a file begins as those of ``torch.save`` (zip archives, which .npz files are too) or ``pickle`` do."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(4)
    except OSError:
        return False
    return start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] <= b"\x05")


def require_values(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights, whose names and shapes fit, that no network can go on from.

    Args:
        own: what the network holds, by name; where that is infinite itself (a mask), the weights may be.
        where: what they are called in messages.

    Raises:
        InputError: a tensor is not finite, or holds whole or complex numbers where the network has real ones.
    """
    import torch

    problems = []
    for name, value in own.items():
        given = tensors[name]
        if value.is_floating_point() and not given.is_floating_point():
            problems.append(f"{name} holds {str(given.dtype).removeprefix('torch.')} instead of real numbers")
        elif value.is_floating_point() and not value.is_meta:
            there = given.to(value.dtype).cpu()  # what the network computes in may hold less, or more
            if bool((~torch.isfinite(there) & torch.isfinite(value.detach().cpu())).any()):
                problems.append(f"{name} is not finite")
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise InputError(
            f"{where}: {'; '.join(problems[:3])}{more}",
            "weights are finite real numbers",
            "save them as numbers with a point: {name: tensor.float() ...}, dequantised if they were quantised"
            if "instead of" in problems[0]
            else "take the weights of an earlier epoch, or train again with a lower learning rate",
        )


def prefixed(own: Collection[str], given: Collection[str]) -> str:
    """The repair for names that are all behind one prefix, as wrappers (``module.``) leave it; empty for others."""
    first = next(iter(own), "")
    for name in given:
        prefix = name.removesuffix(first)
        if name.endswith(f".{first}") and {f"{prefix}{one}" for one in own} == set(given):
            return f"all names begin with {prefix!r}: save the state of the network within, model.{prefix}state_dict()"
    return ""


def load_into(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load every parameter and buffer of `model`, by names that are known to fit.

    Files hold no versions of modules, which some ask for (torchvision's MNASNet): they are those of `model`.

    Raises:
        RuntimeError: names or shapes differ.
    """
    state = OrderedDict(tensors)
    state._metadata = getattr(model.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    model.load_state_dict(state)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or damaged; the message names the line and column.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}", "the file must exist and be readable", "check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text", "this file is JSON in UTF-8", "check the path") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: {error.msg}",
            "the file must be whole JSON",
            "it was truncated or edited by hand: restore it from a copy",
        ) from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists in lists in lists
        raise InputError(
            f"{path}: {str(error).splitlines()[0]}", "the file must be JSON as morphsearch writes it", "check the path"
        ) from error


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line in a single write, so that a crash leaves at most one torn last line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(record, allow_nan=False) + "\n").encode()
    with open(path, "ab+") as stream:
        if stream.tell() and not _ends_with_newline(stream):
            line = b"\n" + line
        stream.write(line)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file; a torn line (a crash while writing) and what is no object are left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):  # torn, numbers of thousands of digits, lists in lists
            record = json.loads(line)
            if isinstance(record, dict):
                records.append(record)
    return records


def _ends_with_newline(stream: Any) -> bool:
    stream.seek(-1, os.SEEK_END)
    return bool(stream.read(1) == b"\n")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
