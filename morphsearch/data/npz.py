"""Arrays in a NumPy archive: ``npz:PATH``.

Keys: ``x_train y_train x_test y_test`` (and ``x_val y_val``), or ``train_images train_labels ...``, or one ``images
    labels`` of which validation and test are carved out; ``classes`` may name the classes.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from morphsearch.data.assemble import Arrays, from_arrays
from morphsearch.data.base import GIB, DataOptions, DataSplits
from morphsearch.data.splitting import carve, describe_carving
from morphsearch.errors import InputError, UsageError, nearest

_LAYOUTS = (
    {"train": ("x_train", "y_train"), "val": ("x_val", "y_val"), "test": ("x_test", "y_test")},
    {
        "train": ("train_images", "train_labels"),
        "val": ("val_images", "val_labels"),
        "test": ("test_images", "test_labels"),
    },
    {"train": ("images", "labels")},
)
_RULE = "keys are x_train, y_train, x_test, y_test (and x_val, y_val), or images and labels"

Array = np.ndarray[Any, Any]


def load(argument: str | None, options: DataOptions) -> DataSplits:
    """Images of `n c h w`, `n h w c` or `n h w`, uint8 or float, and labels (numbers or names).

    Which dimension holds the channels is told by size: the smaller one of the second and the last.

    Raises:
        UsageError: no path.
        InputError: not an archive, damaged, larger than the memory limit, keys or shapes that do not fit, objects in
            it.
    """
    if not argument:
        raise UsageError("data 'npz' without a file", "it reads npz:PATH", "give the path of the .npz file")
    path = Path(argument).expanduser()
    arrays = _read(path, options.memory_limit_bytes)
    layout = next((item for item in _LAYOUTS if all(key in arrays for key in item["train"])), None)
    if layout is None:
        known = [key for item in _LAYOUTS for pair in item.values() for key in pair]
        close = [f"{key} -> {near[0]}" for key in arrays if key not in known and (near := nearest(key, known))]
        raise InputError(
            f"{path} has the keys {', '.join(arrays) or '(none)'}",
            _RULE,
            f"rename: {', '.join(close)}" if close else "save the arrays under those names",
        )
    notes: list[str] = []
    parts = {
        part: (_images(arrays[x], x, path), _labels(arrays[y], y, path))
        for part, (x, y) in layout.items()
        if x in arrays and y in arrays
    }
    lonely = [key for pair in layout.values() for key in pair if (pair[0] in arrays) != (pair[1] in arrays)]
    lonely = [key for key in lonely if key in arrays]
    if lonely:
        raise InputError(f"{path} has {', '.join(lonely)} alone", "images and labels come in pairs", _RULE)
    for part, (x, y) in parts.items():
        if len(x) != len(y):
            raise InputError(
                f"{path}: {len(x)} images and {len(y)} labels for {part}", "there is one label an image", "check both"
            )
    classes, numbers = _classes(arrays, {part: labels for part, (_, labels) in parts.items()}, path)
    ready: dict[str, Arrays] = {part: (parts[part][0], numbers[part]) for part in parts}
    record: dict[str, Any] = {"source": "npz", "path": str(path), "keys": list(arrays), "parts": {}}
    if layout is _LAYOUTS[-1]:
        images, labels = ready["train"]
        stay, out = carve(labels.numpy(), options.val_fraction, options.seed)
        if len(out):
            ready["train"] = (images[torch.from_numpy(stay)], labels[torch.from_numpy(stay)])
            ready["test"] = (images[torch.from_numpy(out)], labels[torch.from_numpy(out)])
            record["parts"]["test"] = describe_carving("all images", out, options.val_fraction, options.seed)
            notes.append(f"There is one part only: {len(out):,} images are kept for the test (seed {options.seed}).")
    return from_arrays(
        f"npz:{argument}",
        ready["train"],
        ready.get("val"),
        ready.get("test"),
        classes,
        options,
        notes=notes,
        record=record,
    )


def _read(path: Path, limit: int) -> dict[str, Array]:
    """The arrays that matter, by key; checked against `limit` (bytes) before anything is unpacked."""
    wanted = {key for item in _LAYOUTS for pair in item.values() for key in pair} | {"classes"}
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            total = sum(info.file_size for key, info in members.items() if key in wanted)
            if total > limit:
                raise InputError(
                    f"{path} unpacks to {total / GIB:.1f} GiB",
                    f"the arrays must fit in {limit / GIB:.1f} GiB of memory",
                    "raise the limit, or save the images as files and use imagefolder:PATH, which streams them",
                )
            found: dict[str, Array] = {}
            for key, info in members.items():
                with archive.open(info) as stream:
                    # Others are listed, so that a message can name them, and not read.
                    found[key] = _array(stream, info, key, path) if key in wanted else np.empty(0)
            return found
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}", "npz:PATH needs a file", "check the path"
        ) from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,
        NotImplementedError,
        MemoryError,
        RuntimeError,
    ) as error:
        raise InputError(
            f"{path} is damaged, or no .npz file: {error}",
            "an .npz file is what numpy.savez writes",
            "write it again, with numpy.savez or numpy.savez_compressed",
        ) from error


def _array(stream: Any, info: zipfile.ZipInfo, key: str, path: Path) -> Array:
    """One array; its header must agree with the size of the member, so that no header can ask for more memory."""
    shape, order, kind = _header(stream)
    if kind.hasobject:
        raise InputError(
            f"{key} in {path} holds Python objects",
            "objects are stored as a pickle, which can run any program, so they are not read",
            "save an array of numbers (labels as whole numbers or as a fixed-width string array)",
        )
    count = math.prod(shape)
    if count * kind.itemsize != info.file_size - stream.tell():
        raise ValueError(f"{key} has shape {shape} {kind} in {info.file_size - stream.tell():,} bytes")
    data = stream.read()
    if len(data) != count * kind.itemsize:
        raise ValueError(f"{key} is cut off")
    return np.frombuffer(data, kind).reshape(shape, order="F" if order else "C")


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _images(array: Array, key: str, path: Path) -> Tensor:
    """`n c h w`, uint8 or float32."""
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or not array.size or array.dtype.kind not in "uifb":
        raise InputError(
            f"{key} in {path} is {array.shape} {array.dtype}",
            "images are n x c x h x w, n x h x w x c or n x h x w, uint8 or float",
            "reshape the array",
        )
    if array.shape[3] < array.shape[1]:
        array = array.transpose(0, 3, 1, 2)
    if array.dtype.kind in "uib":
        whole = array.dtype == np.uint8 or (array.min() >= 0 and array.max() <= 255)
        return torch.from_numpy(np.array(array, dtype=np.uint8 if whole else np.float32, order="C"))
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, which is refused
        values = np.array(array, dtype=np.float32, order="C")
    if not np.isfinite(values).all():
        raise InputError(
            f"{key} in {path} has values that are not finite",
            "pixels are numbers",
            "find where NaN or infinity came in",
        )
    return torch.from_numpy(values)


def _labels(array: Array, key: str, path: Path) -> Array:
    """`n`, whole numbers or texts."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "f" and array.ndim == 1 and np.isfinite(array).all() and (array == np.rint(array)).all():
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "uibUS":
        hint = "numpy.argmax(labels, axis=1) undoes one-hot" if array.ndim == 2 else "save whole numbers"
        raise InputError(f"{key} in {path} is {array.shape} {array.dtype}", "labels are n whole numbers or names", hint)
    return array.astype(np.int64) if array.dtype.kind in "uib" else array.astype(np.str_)


def _classes(arrays: dict[str, Array], labels: dict[str, Array], path: Path) -> tuple[list[str], dict[str, Tensor]]:
    """Names of the classes, and labels as 0..k-1."""
    train = labels["train"]
    values = np.unique(train)
    numeric = train.dtype.kind == "i"
    if "classes" in arrays and arrays["classes"].ndim == 1 and numeric:
        names = [
            item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in arrays["classes"]
        ]
        values = np.arange(len(names))
    else:
        names = [str(value) for value in values.tolist()]
    numbers = {}
    for part, found in labels.items():
        places = np.searchsorted(values, found).clip(0, len(values) - 1)
        strange = np.unique(found[values[places] != found])
        if len(strange):
            raise InputError(
                f"{part} labels of {path} have {', '.join(map(str, strange[:5].tolist()))}",
                f"labels are among the {len(values)} classes of the training images",
                "check that all parts number the classes alike",
            )
        numbers[part] = torch.from_numpy(places.astype(np.int64))
    return names, numbers
