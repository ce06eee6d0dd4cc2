"""From arrays to :class:`DataSplits`: convert, carve the validation part, measure, record."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from morphsearch.data.arrays import ArraySplit, channel_statistics, check_arrays, conform
from morphsearch.data.augment import Augmentation
from morphsearch.data.base import DataOptions, DataSplits, check_classes
from morphsearch.data.splitting import carve, describe_carving
from morphsearch.errors import InputError

Arrays = tuple[Tensor, Tensor]
"""Images `n c h w` and labels `n`."""


def from_arrays(
    name: str,
    train: Arrays,
    val: Arrays | None,
    test: Arrays | None,
    classes: list[str],
    options: DataOptions,
    *,
    flip: bool = True,
    augment: bool = True,
    normalised: bool = False,
    notes: list[str] | None = None,
    record: dict[str, Any] | None = None,
) -> DataSplits:
    """Build splits that live in memory.

    Args:
        name: the spec.
        train, val, test: arrays; without `val` a part of `train` is carved out.
        classes: k names.
        options: seed, fraction, size and channels.
        flip: whether mirroring an image keeps its class.
        augment: whether the training images may be cropped and flipped at all.
        normalised: leave the values as they are.
        notes, record: what is known so far; both are added to.

    Raises:
        InputError: arrays that do not fit together, too few classes or images.
    """
    check_classes(classes, name)
    notes, record = list(notes or []), dict(record or {})
    parts = {"train": train, "val": val, "test": test}
    for part in parts.values():
        if part is not None:
            check_arrays(*part, len(classes))
    if len({tuple(part[0].shape[1:]) for part in parts.values() if part is not None}) > 1 and not options.image_size:
        shapes = ", ".join(f"{key} {tuple(part[0].shape[1:])}" for key, part in parts.items() if part is not None)
        raise InputError(
            f"images of {name}: {shapes}", "all parts have images of one shape", "choose an image_size, or convert them"
        )
    ready = {
        key: (conform(part[0], options.channels, options.image_size), part[1])
        for key, part in parts.items()
        if part is not None
    }
    record |= {"name": name, "seed": options.seed, "parts": dict(record.get("parts", {}))}
    for key in ("train", "val", "test"):
        if key in ready:
            record["parts"].setdefault(key, {"given": True})
    if "val" not in ready:
        images, labels = ready["train"]
        stay, carved = carve(labels.numpy(), options.val_fraction, options.seed)
        if not len(carved):
            raise InputError(
                f"{name} has {len(labels)} training images, and no class has two",
                "a validation part is carved out of the training images",
                "add images, or bring a validation part of your own",
            )
        for key, indices in (("train", stay), ("val", carved)):
            chosen = torch.from_numpy(indices)
            ready[key] = (images[chosen], labels[chosen])
        record["parts"]["val"] = describe_carving("train", carved, options.val_fraction, options.seed)
        notes.append(
            f"{len(carved):,} of {len(labels):,} training images are kept for validation "
            f"(by class, seed {options.seed})."
        )
    images = ready["train"][0]
    shape = (images.shape[1], images.shape[2], images.shape[3])
    if normalised:
        mean, std = torch.zeros(shape[0]), torch.ones(shape[0])
    else:
        mean, std = channel_statistics(images)
    augmentation = Augmentation.for_size(*shape[1:], flip=flip) if augment else None
    splits = {
        key: ArraySplit(
            part[0], part[1], len(classes), mean=mean, std=std, augmentation=augmentation if key == "train" else None
        )
        for key, part in ready.items()
    }
    for key, split in splits.items():
        record["parts"][key]["count"] = len(split)
    record |= describe(shape, classes, mean, std, augmentation, "memory")
    if "test" not in splits:
        notes.append("There is no test part: final figures come from the validation part, on which choices were made.")
    return DataSplits(
        name, splits["train"], splits["val"], splits.get("test"), classes, shape, mean, std, notes, record
    )


def describe(
    shape: tuple[int, int, int],
    classes: list[str],
    mean: Tensor,
    std: Tensor,
    augmentation: Augmentation | None,
    held: str,
) -> dict[str, Any]:
    """The part of a record that all data sets share."""
    return {
        "shape": list(shape),
        "classes": classes,
        "mean": [round(value, 6) for value in mean.tolist()],
        "std": [round(value, 6) for value in std.tolist()],
        "augmentation": {"pad": augmentation.pad, "flip": augmentation.flip} if augmentation else None,
        "held": held,
    }
