"""Makes :class:`DataSplits` of whatever a Python user has: tensors, datasets, loaders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from morphsearch.data.arrays import ArraySplit, channel_statistics, check_arrays
from morphsearch.data.assemble import describe
from morphsearch.data.augment import Augmentation
from morphsearch.data.base import DataOptions, DataSplits, Split, check_classes
from morphsearch.data.splitting import carve, describe_carving
from morphsearch.data.streams import LoaderSplit, StreamSplit, get_item, seeded_batches
from morphsearch.errors import InputError, UsageError

_SAMPLE = 1000


def as_splits(
    train: Any,
    val: Any = None,
    test: Any = None,
    *,
    classes: list[str] | None = None,
    augmentation: Augmentation | None = None,
    options: DataOptions | None = None,
) -> DataSplits:
    """Adapt what a user passes to ``ms.search``.

    Each of the three is a :class:`Split`; a pair of tensors or arrays (images `n c h w`, labels `n`); a map-style torch
    Dataset; or a DataLoader or anything else that gives batches ``(images, labels)`` each time it is gone through.
    `train` may also be a whole :class:`DataSplits`. uint8 images are normalised by the mean and deviation of the
    training images; float images are taken as they are, and so is all that a loader gives.

    Args:
        train: training images.
        val: validation images; carved out of `train` where it is None and `train` is no loader.
        test: test images, or None.
        classes: names; numbers where None.
        augmentation: for tensors and datasets; None: whatever the data does itself.
        options: seed and fraction of the carving, workers.

    Raises:
        InputError: something that is none of these, is empty, or does not fit the rest.
        UsageError: a validation part is missing and cannot be carved.
    """
    if isinstance(train, DataSplits):
        if val is not None or test is not None:
            raise UsageError(
                "whole DataSplits, and val or test beside them",
                "DataSplits have their own validation and test parts",
                "pass the DataSplits alone, or their parts: splits.train, ...",
            )
        return train
    if train is None:
        raise InputError(
            "the training images are None",
            "training images are a pair of tensors, a Dataset, a DataLoader or a DataSplits",
            "pass for example (images, labels)",
        )
    options = options or DataOptions()
    given = {
        key: _understand(part, key)
        for key, part in (("train", train), ("val", val), ("test", test))
        if part is not None
    }
    record: dict[str, Any] = {"source": "python", "name": "python data", "seed": options.seed, "parts": {}}
    notes: list[str] = []
    if "val" not in given:
        given |= _carve(given["train"], options, record, notes)
    shape, count, mean, std = _measure(given["train"], classes, notes)
    names = classes or [str(number) for number in range(count)]
    check_classes(names, "the training data")
    splits = {
        key: _split(part, key, len(names), shape, mean, std, augmentation if key == "train" else None, options)
        for key, part in given.items()
    }
    for key, split in splits.items():
        if split.shape != shape:
            raise InputError(
                f"{key} images of shape {split.shape}, training images of {shape}",
                "all parts have images of one shape",
                "resize them alike",
            )
        record["parts"].setdefault(key, {"given": True})["count"] = len(split)
    if "test" not in splits:
        notes.append("There is no test part: final figures come from the validation part, on which choices were made.")
    held = "memory" if isinstance(splits["train"], ArraySplit) else "stream"
    record |= describe(shape, names, mean, std, augmentation, held)
    return DataSplits(
        "python data", splits["train"], splits["val"], splits.get("test"), names, shape, mean, std, notes, record
    )


def _understand(part: Any, key: str) -> Any:
    """A Split, a pair of tensors, a map-style Dataset, or an iterable of batches."""
    if isinstance(part, TensorDataset) and len(part.tensors) == 2:
        part = part.tensors
    if isinstance(part, tuple | list) and len(part) == 2 and all(isinstance(x, Tensor | np.ndarray) for x in part):
        return _tensors(part[0], part[1], key)
    if isinstance(part, tuple | list) and part and all(isinstance(x, Tensor | np.ndarray) for x in part):
        raise InputError(
            f"{key} data is {len(part)} tensor{'s' * (len(part) > 1)}",
            "tensors are a pair: images, and a label for each",
            "pass (images, labels), and further pairs as val_data; wrap other data in a torch Dataset",
        )
    if isinstance(part, Split | DataLoader) or _is_numbered(part):
        return part
    if isinstance(part, Iterable) and not isinstance(part, str | bytes | dict | Tensor | np.ndarray):
        if iter(part) is part:
            raise InputError(
                f"{key} data is {_article(type(part).__name__)} that can be gone through once",
                "every epoch goes through the data anew",
                "pass the loader or the list itself, not iter() of it",
            )
        return part
    raise InputError(
        f"{key} data is {_article(type(part).__name__)}",
        "data is a pair of tensors (images, labels), a torch Dataset, or a loader of batches (images, labels)",
        "wrap it in a torch.utils.data.TensorDataset or DataLoader",
    )


def _is_numbered(part: Any) -> bool:
    """Whether it is a map-style dataset."""
    return isinstance(part, Dataset) and not isinstance(part, IterableDataset)


def _tensors(images: Any, labels: Any, key: str) -> tuple[Tensor, Tensor]:
    x, y = torch.as_tensor(images).detach().cpu(), torch.as_tensor(labels).detach().cpu()
    if x.dtype != torch.uint8:
        x = x.to(torch.float32)
    if y.is_floating_point() or y.is_complex():
        raise InputError(
            f"{key} labels {tuple(y.shape)} {y.dtype}", "labels are n whole numbers", "labels.argmax(1) undoes one-hot"
        )
    y = y.to(torch.int64)
    check_arrays(x, y, int(y.max()) + 1 if y.numel() else 1)
    return x, y


def _carve(train: Any, options: DataOptions, record: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    if not (isinstance(train, tuple) or _is_numbered(train)):
        raise UsageError(
            f"training data is {_article(type(train).__name__)}, and there is no validation data",
            "a validation part is carved out of tensors and datasets, which have numbered images, and of nothing else",
            "pass val_data, or the dataset behind the loader",
        )
    labels = train[1].numpy() if isinstance(train, tuple) else _labels(train, notes)
    stay, out = carve(labels, options.val_fraction, options.seed)
    if not len(out):
        raise InputError(
            f"{len(labels)} training images, and no class has two",
            "a validation part is carved out of the training images",
            "add images, or pass val_data",
        )
    record["parts"]["val"] = describe_carving("train", out, options.val_fraction, options.seed)
    notes.append(f"{len(out):,} of {len(labels):,} training images are kept for validation (seed {options.seed}).")
    if isinstance(train, tuple):
        pair = {"train": torch.from_numpy(stay), "val": torch.from_numpy(out)}
        return {key: (train[0][indices], train[1][indices]) for key, indices in pair.items()}
    return {"train": Subset(train, stay.tolist()), "val": Subset(train, out.tolist())}


def _labels(dataset: Any, notes: list[str] | None = None) -> np.ndarray[Any, Any]:
    """`n` labels of a map-style dataset: from the attribute that says them, or by reading all items once."""
    known = _known_labels(dataset)
    if known is None:
        if notes is not None:
            notes.append(
                "The training dataset has no attribute targets or labels, so all its items were read once for them."
            )
        known = np.array([get_item(dataset, index, 0)[1] for index in range(len(dataset))], dtype=np.int64)
    return known


def _known_labels(dataset: Any) -> np.ndarray[Any, Any] | None:
    if isinstance(dataset, Subset):
        inner = _known_labels(dataset.dataset)
        return None if inner is None else inner[np.asarray(dataset.indices)]
    for name in ("targets", "labels"):
        found = getattr(dataset, name, None)
        if found is not None and not callable(found):
            array = np.asarray(found)
            if array.ndim == 1 and array.dtype.kind in "iu" and len(array) == len(dataset):
                return array.astype(np.int64)
    return None


def _measure(
    train: Any, classes: list[str] | None, notes: list[str]
) -> tuple[tuple[int, int, int], int, Tensor, Tensor]:
    """Image shape, number of classes, mean and deviation of the training data."""
    if isinstance(train, Split):
        mean, std = getattr(train, "mean", None), getattr(train, "std", None)
        if mean is None or std is None:
            mean, std = torch.zeros(train.shape[0]), torch.ones(train.shape[0])
        return train.shape, train.num_classes, mean, std
    if isinstance(train, tuple):
        images, labels = train
        mean, std = _statistics(images)
        return (images.shape[1], images.shape[2], images.shape[3]), int(labels.max()) + 1, mean, std
    if _is_numbered(train):
        count = len(train)
        if not count:
            raise InputError("the training dataset is empty", "there is at least one image", "check how it was made")
        chosen = sorted({index * count // min(count, _SAMPLE) for index in range(min(count, _SAMPLE))})
        first = get_item(train, 0, 0)[0]
        sample = [first] if first.dtype != torch.uint8 else [get_item(train, index, 0)[0] for index in chosen]
        if len({tuple(image.shape) for image in sample}) > 1:
            raise InputError(
                "items of the training dataset have different shapes",
                "all images have one shape",
                "resize them in the dataset's transform",
            )
        mean, std = _statistics(torch.stack(sample))
        number = len(classes) if classes else int(_labels(train, notes).max()) + 1
        return (first.shape[0], first.shape[1], first.shape[2]), number, mean, std
    shape, _, _, highest = _look(train, "training")
    notes.append("Training batches come from your own loader: its batch size, order and normalisation are used.")
    return shape, highest + 1, torch.zeros(shape[0]), torch.ones(shape[0])


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Of uint8 images; float ones are taken as they are."""
    if images.dtype == torch.uint8:
        return channel_statistics(images)
    return torch.zeros(images.shape[1]), torch.ones(images.shape[1])


def _split(
    part: Any,
    key: str,
    num_classes: int,
    shape: tuple[int, int, int],
    mean: Tensor,
    std: Tensor,
    augmentation: Augmentation | None,
    options: DataOptions,
) -> Split:
    if isinstance(part, Split):
        return part
    if isinstance(part, tuple):
        return ArraySplit(part[0], part[1], num_classes, mean=mean, std=std, augmentation=augmentation)
    if _is_numbered(part):
        return StreamSplit(
            part, num_classes, shape, mean=mean, std=std, augmentation=augmentation, workers=options.workers or 0
        )
    own, count, batches, highest = _look(part, key)
    if highest >= num_classes:
        raise InputError(
            f"{key} labels up to {highest}",
            f"the training data has {num_classes} classes, numbered from 0",
            "number the classes alike, or pass the names of all classes",
        )
    return LoaderSplit(part, count, batches, num_classes, own)


def _look(loader: Iterable[Any], key: str) -> tuple[tuple[int, int, int], int, int, int]:
    """Image shape, images, batches and highest label of a loader; goes through it once."""
    shape: tuple[int, int, int] | None = None
    count = batches = 0
    highest = -1
    for x, y in seeded_batches(loader, 0):
        shape = shape or (x.shape[1], x.shape[2], x.shape[3])
        count, batches, highest = count + len(y), batches + 1, max(highest, int(y.max()))
    if shape is None:
        raise InputError(f"the {key} loader gives no batches", "there is at least one", "check how it was made")
    return shape, count, batches, highest


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
