"""Folders of images, one folder a class: ``imagefolder:PATH``.

PATH holds ``train`` and ``val`` and perhaps ``test``; or ``train`` and ``test`` (validation is carved out of train);
or the class folders themselves (validation and test are carved out).
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from morphsearch.data import images
from morphsearch.data.arrays import channel_statistics
from morphsearch.data.assemble import Arrays, describe, from_arrays
from morphsearch.data.augment import Augmentation
from morphsearch.data.base import GIB, DataOptions, DataSplits, check_classes
from morphsearch.data.splitting import carve, describe_carving
from morphsearch.data.streams import ImageFiles, StreamSplit
from morphsearch.errors import InputError, UsageError

_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
MIN_SAMPLE = 100
"""How many images are looked at before streaming, however small the memory limit."""
NAMED = 20
"""How many unreadable files the record names."""


@dataclass
class _Part:
    """Files and labels of one split."""

    paths: list[str]
    labels: list[int]

    def pick(self, indices: np.ndarray[Any, Any]) -> _Part:
        return _Part([self.paths[i] for i in indices], [self.labels[i] for i in indices])


def load(argument: str | None, options: DataOptions) -> DataSplits:
    """Read a folder of images; in memory where they fit in `options.memory_limit_bytes`, streamed otherwise.

    All images get one size: `options.image_size`, or the most common one of the training images (on a draw the
    smallest). They are grey where all training images are, in colour otherwise, unless `options.channels` says which.

    Raises:
        UsageError: no path.
        InputError: no such folder, no images, fewer than two classes, an empty class folder, a class that training
            lacks,
            or more than 1% of unreadable images.
    """
    if not argument:
        raise UsageError("data 'imagefolder' without a folder", "it reads imagefolder:PATH", "give the path")
    root = Path(argument).expanduser()
    name, notes = f"imagefolder:{argument}", list[str]()
    record: dict[str, Any] = {"source": "imagefolder", "path": str(root), "parts": {}}
    parts, classes = _scan(root, notes)
    if "test" not in parts and set(parts) == {"train"} and not _split_folders(root):
        train = parts["train"]
        stay, out = carve(train.labels, options.val_fraction, options.seed)
        parts |= {"train": train.pick(stay), "test": train.pick(out)}
        record["parts"]["test"] = describe_carving("all images", out, options.val_fraction, options.seed)
        notes.append(f"There are no split folders: {len(out):,} images are kept for the test (seed {options.seed}).")
    sizes, grey = images.survey(parts["train"].paths)
    if not sizes:
        images.check_unreadable(_probe(parts["train"].paths), min(len(parts["train"].paths), 100), name)
    size = options.image_size or _common_size(sizes, notes)
    channels = options.channels or (1 if grey else 3)
    total = sum(len(part.paths) for part in parts.values())
    need = total * channels * size[0] * size[1]
    record |= {"files": total, "resized": len(sizes) > 1 or size not in sizes}
    if need <= options.memory_limit_bytes:
        return _in_memory(name, parts, classes, size, channels, options, notes, record)
    notes.append(
        f"Decoded, the images take {need / GIB:.1f} GiB, more than the limit of "
        f"{options.memory_limit_bytes / GIB:.1f} GiB: they are streamed."
    )
    return _streamed(name, parts, classes, size, channels, options, notes, record)


def _in_memory(
    name: str,
    parts: dict[str, _Part],
    classes: list[str],
    size: tuple[int, int],
    channels: int,
    options: DataOptions,
    notes: list[str],
    record: dict[str, Any],
) -> DataSplits:
    arrays: dict[str, Arrays] = {}
    skipped: list[images.Unreadable] = []
    for key, part in parts.items():
        pixels, bad = images.decode_all(part.paths, size, channels)
        labels = torch.tensor(part.labels, dtype=torch.int64)
        x = torch.from_numpy(pixels)
        if bad:
            names = {item.path for item in bad}
            good = torch.tensor([path not in names for path in part.paths])
            x, labels = x[good], labels[good]
        arrays[key] = (x, labels)
        skipped += bad
    images.check_unreadable(skipped, sum(len(part.paths) for part in parts.values()), name)
    if skipped:
        some = ", ".join(f"{item.path} ({item.reason})" for item in skipped[:3])
        notes.append(f"{len(skipped)} unreadable images are left out: {some}{', ...' if len(skipped) > 3 else '.'}")
    record["skipped"] = {
        "count": len(skipped),
        "files": [{"path": item.path, "reason": item.reason} for item in skipped[:NAMED]],
    }
    # Sizes and channels are right already.
    plain = DataOptions(seed=options.seed, val_fraction=options.val_fraction)
    return from_arrays(
        name, arrays["train"], arrays.get("val"), arrays.get("test"), classes, plain, notes=notes, record=record
    )


def _streamed(
    name: str,
    parts: dict[str, _Part],
    classes: list[str],
    size: tuple[int, int],
    channels: int,
    options: DataOptions,
    notes: list[str],
    record: dict[str, Any],
) -> DataSplits:
    for key in parts:
        record["parts"].setdefault(key, {"given": True})
    if "val" not in parts:
        train = parts["train"]
        stay, out = carve(train.labels, options.val_fraction, options.seed)
        parts = parts | {"train": train.pick(stay), "val": train.pick(out)}
        record["parts"]["val"] = describe_carving("train", out, options.val_fraction, options.seed)
        notes.append(f"{len(out):,} training images are kept for validation (by class, seed {options.seed}).")
    for key, part in parts.items():
        record["parts"][key]["count"] = len(part.paths)
    # A sample tells mean and spread closely enough, and shows a damaged set before training starts.
    train = parts["train"]
    fitting = max(MIN_SAMPLE, options.memory_limit_bytes // (channels * size[0] * size[1]))
    count = min(len(train.paths), images.HEADERS, fitting)
    sample = [train.paths[i * len(train.paths) // count] for i in range(count)]
    pixels, bad = images.decode_all(sample, size, channels)
    # Certain, when the sample alone has 1% of all; or beyond chance, when a twentieth of the sample is bad.
    total = sum(len(part.paths) for part in parts.values())
    images.check_unreadable(bad, len(sample) if len(bad) > 0.05 * len(sample) else total, name)
    names = {item.path for item in bad}
    mean, std = channel_statistics(torch.from_numpy(pixels[[path not in names for path in sample]]))
    notes.append(f"Mean and standard deviation come from {len(sample) - len(bad):,} training images.")
    augmentation = Augmentation.for_size(*size)
    workers = min(8, images.threads()) if options.workers is None else options.workers
    splits = {
        key: StreamSplit(
            ImageFiles(part.paths, part.labels, size, channels),
            len(classes),
            (channels, *size),
            mean=mean,
            std=std,
            augmentation=augmentation if key == "train" else None,
            workers=workers,
            name=name,
        )
        for key, part in parts.items()
    }
    shape = (channels, *size)
    record |= {"name": name, "seed": options.seed, "statistics_from": len(sample) - len(bad)}
    record |= describe(shape, classes, mean, std, augmentation, "stream")
    return DataSplits(
        name, splits["train"], splits["val"], splits.get("test"), classes, shape, mean, std, notes, record
    )


def _scan(root: Path, notes: list[str]) -> tuple[dict[str, _Part], list[str]]:
    """Files by split, and the names of the classes. Without split folders all files are ``train``."""
    if not root.is_dir():
        raise InputError(
            f"{root} is {'a file' if root.exists() else 'not there'}",
            "imagefolder:PATH needs a folder of class folders",
            "check the path" if not root.exists() else "unpack archives first, and name the folder",
        )
    folders = _split_folders(root)
    if folders and "train" not in folders:
        raise InputError(
            f"{root} holds {', '.join(str(path.name) for path in folders.values())} and no train folder",
            "split folders are called train, val and test",
            "rename the folder with the training images to train",
        )
    folders = folders or {"train": root}
    classes = _subfolders(folders["train"])
    loose, _ = images.list_images(folders["train"]) if not classes else ([], 0)
    if not classes:
        found = f"{len(loose)} images that lie loose" if loose else "no class folders and no images"
        raise InputError(
            f"{folders['train']} holds {found}",
            "every class has a folder of its own",
            "make one folder a class and put its images there",
        )
    check_classes(classes, str(folders["train"]))
    parts: dict[str, _Part] = {}
    for key, folder in folders.items():
        own = _subfolders(folder)
        if key != "train" and not own:
            notes.append(f"{folder} has no class folders, so it is left out.")
            continue
        unknown = [item for item in own if item not in classes]
        if unknown:
            raise InputError(
                f"{folder} has class folders that {folders['train']} lacks: {', '.join(unknown[:5])}",
                "every split has the classes of the training images",
                "move or rename those folders",
            )
        parts[key] = _files(folder, classes, required=key == "train", notes=notes)
    return parts, classes


def _files(folder: Path, classes: list[str], *, required: bool, notes: list[str]) -> _Part:
    part, others, empty = _Part([], []), 0, list[str]()
    for label, name in enumerate(classes):
        paths, odd = images.list_images(folder / name) if (folder / name).is_dir() else ([], 0)
        others += odd
        if not paths:
            empty.append(name)
        part.paths += paths
        part.labels += [label] * len(paths)
    if not part.paths or (required and empty):
        where = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        suffixes = " ".join(sorted(images.SUFFIXES))
        raise InputError(
            f"{folder} has no images for {'the class' if len(empty) == 1 else 'the classes'} {where}",
            f"every class has at least one image; files count by their suffix: {suffixes}",
            "add images, or remove the empty folders",
        )
    if empty:
        notes.append(f"{folder} has no images of {len(empty)} of the {len(classes)} classes.")
    if others:
        notes.append(f"{others:,} files in {folder} are not images by their suffix, so they are left out.")
    return part


def _split_folders(root: Path) -> dict[str, Path]:
    own = {name.lower(): root / name for name in _subfolders(root)}
    found = {}
    for key, names in _NAMES.items():
        for name in names:
            if name in own and key not in found:
                found[key] = own[name]
    # Class folders may well be called "test" or "valid"; without a train folder they are split folders only if all are.
    if "train" in found or len(found) == len(own):
        return found
    return {}


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(
            f"cannot read {folder}: {error.strerror or error}", "the folder must be readable", "check its permissions"
        ) from error


def _common_size(sizes: Counter[tuple[int, int]], notes: list[str]) -> tuple[int, int]:
    size, count = min(sizes.items(), key=lambda item: (-item[1], item[0][0] * item[0][1], item[0]))
    if len(sizes) > 1:
        notes.append(
            f"Images have {len(sizes)} sizes; all are resized to the most common, {size[0]} x {size[1]} "
            f"({count} of {sum(sizes.values())} looked at). Choose another with image_size."
        )
    return size


def _probe(paths: list[str]) -> list[images.Unreadable]:
    """Why no header could be read, for the first files."""
    return images.decode_all(paths[:100], (1, 1), 1)[1]
