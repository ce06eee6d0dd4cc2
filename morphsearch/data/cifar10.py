"""The standard batches of CIFAR-10 (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

``cifar10:PATH``, where PATH holds the binary batches (``data_batch_1.bin`` ...: a label byte, then 3,072 bytes of
red, green and blue) or the python ones (``data_batch_1`` ...: pickles, read by :mod:`morphsearch.data.unpickle`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from morphsearch.data import unpickle
from morphsearch.data.assemble import Arrays, from_arrays
from morphsearch.data.base import DataOptions, DataSplits
from morphsearch.errors import InputError, UsageError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PIXELS = 3 * 32 * 32
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
_REPAIR = "unpack the archive of the data set again (tar xf cifar-10-binary.tar.gz)"


def load(argument: str | None, options: DataOptions) -> DataSplits:
    """50,000 training and 10,000 test images in ten classes, 3 x 32 x 32; validation is carved out of training.

    Raises:
        UsageError: no path.
        InputError: no batches there, or a batch is damaged.
    """
    if not argument:
        raise UsageError("data 'cifar10' without a folder", "it reads cifar10:PATH", "give the folder of the batches")
    root = Path(argument).expanduser()
    folder, suffix = _find(root)
    names = [name for name in _TRAIN if (folder / f"{name}{suffix}").is_file()]
    notes = []
    if len(names) < len(_TRAIN):
        missing = ", ".join(name for name in _TRAIN if name not in names)
        notes.append(f"Only {len(names)} of the five training batches are there; {missing} missing.")
    read = _read_binary if suffix else _read_python
    train = _join([read(folder / f"{name}{suffix}") for name in names])
    test_file = folder / f"test_batch{suffix}"
    test = read(test_file) if test_file.is_file() else None
    record = {"source": "cifar10", "path": str(folder), "format": "binary" if suffix else "python", "batches": names}
    return from_arrays(
        f"cifar10:{argument}", train, None, test, _classes(folder, suffix), options, notes=notes, record=record
    )


def _find(root: Path) -> tuple[Path, str]:
    for inner in _FOLDERS:
        for suffix in (".bin", ""):
            if any((root / inner / f"{name}{suffix}").is_file() for name in _TRAIN):
                return root / inner, suffix
    if root.is_file():
        raise InputError(
            f"{root} is a file", "cifar10:PATH needs the folder of the batches", f"unpack it: tar xf {root}"
        )
    raise InputError(
        f"{root} holds no batches" if root.is_dir() else f"{root} is not there",
        "the folder holds data_batch_1.bin to data_batch_5.bin and test_batch.bin, or the same without .bin",
        "check the path; image folders are read with imagefolder:PATH",
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "the file must be readable", _REPAIR) from error


def _read_binary(path: Path) -> Arrays:
    data = np.frombuffer(_read(path), np.uint8)
    if not data.size or data.size % (_PIXELS + 1):
        raise InputError(
            f"{path} has {data.size:,} bytes",
            f"a binary batch is a whole number of images of {_PIXELS + 1:,} bytes each",
            f"it was cut off, or it is CIFAR-100: {_REPAIR}",
        )
    rows = data.reshape(-1, _PIXELS + 1)
    return _arrays(rows[:, 1:], rows[:, 0], path)


def _read_python(path: Path) -> Arrays:
    found = unpickle.loads(_read(path), str(path))
    table = {_text(key): value for key, value in found.items()} if isinstance(found, dict) else {}
    pixels, labels = table.get("data"), table.get("labels")
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, list):
        raise InputError(
            f"{path} has {', '.join(map(str, table)) or 'no keys'}",
            "a python batch is a dict with the array 'data' and the list 'labels'",
            _REPAIR,
        )
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _PIXELS or len(pixels) != len(labels):
        raise InputError(
            f"{path}: data {pixels.shape} {pixels.dtype}, {len(labels)} labels",
            f"data is n x {_PIXELS} uint8, with n labels",
            _REPAIR,
        )
    if not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise InputError(f"{path}: labels other than 0 to 9", "CIFAR-10 has ten classes", _REPAIR)
    return _arrays(pixels, np.asarray(labels), path)


def _arrays(pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], path: Path) -> Arrays:
    if not len(labels) or labels.max() > 9:
        raise InputError(
            f"{path}: {f'label {labels.max()}' if len(labels) else 'no images'}",
            "labels of CIFAR-10 are 0 to 9",
            f"the file is damaged, or another data set: {_REPAIR}",
        )
    x = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())
    return x, torch.from_numpy(labels.astype(np.int64))


def _join(parts: list[Arrays]) -> Arrays:
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def _classes(folder: Path, suffix: str) -> list[str]:
    """The names in the set's own list; the usual ones where that is missing."""
    if suffix and (folder / "batches.meta.txt").is_file():
        names = _read(folder / "batches.meta.txt").decode("utf-8", "replace").split()
    elif not suffix and (folder / "batches.meta").is_file():
        path = folder / "batches.meta"
        found = unpickle.loads(_read(path), str(path))
        table = {_text(key): value for key, value in found.items()} if isinstance(found, dict) else {}
        listed = table.get("label_names")
        names = [str(_text(name)) for name in listed] if isinstance(listed, list) else []
    else:
        names = []
    return names if len(set(names)) == 10 else list(CLASSES)


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
