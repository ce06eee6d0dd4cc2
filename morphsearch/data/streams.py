"""Images that do not fit in memory, and datasets and loaders that a Python user brings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from morphsearch.data.arrays import epoch_order
from morphsearch.data.augment import Augmentation
from morphsearch.data.base import Split, check_batches, normalise
from morphsearch.data.images import Unreadable, UnreadableImage, check_unreadable, decode, quiet_pillow
from morphsearch.data.seeding import GlobalStream, generator, mix
from morphsearch.errors import InputError

_ITEM, _AUGMENT, _LOADER = 3, 4, 5

Batch = tuple[Tensor, Tensor, list[Unreadable]]


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files, decoded when asked for: `c h w` uint8 and a label.

    Args:
        paths: files.
        labels: `n`.
        size: ``(h, w)``.
        channels: 1 or 3.
    """

    seeded = False
    """Nothing in it is random, so nobody need seed the global generators for it."""

    def __init__(self, paths: Sequence[str], labels: Sequence[int], size: tuple[int, int], channels: int) -> None:
        # One array of bytes rather than a list of strings: workers are forked, and counting references to a million
        # strings would copy their memory page by page.
        self._paths = np.array([path.encode("utf-8", "surrogateescape") for path in paths])
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.size, self.channels = size, channels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = bytes(self._paths[index]).decode("utf-8", "surrogateescape")
        with quiet_pillow():
            pixels = decode(path, self.size, self.channels)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), int(self.labels[index])


class StreamSplit(Split):
    """A map-style dataset, read through a DataLoader.

    Items are ``(image, label)``: image `c h w` (or `h w`, `h w c`, a Pillow image), uint8 or float. Items of the user's
    own datasets are made with the global generators seeded by (shuffle_seed, index), so that random transforms repeat.

    Args:
        dataset: the items.
        num_classes: k.
        shape: ``(c, h, w)``.
        mean, std: `c`; in 0..1 for uint8 images.
        augmentation: what ``augment=True`` does, image by image in the workers; None: nothing.
        workers: processes; 0 reads in this one.
        name: of the data, for messages.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        num_classes: int,
        shape: tuple[int, int, int],
        *,
        mean: Tensor,
        std: Tensor,
        augmentation: Augmentation | None = None,
        workers: int = 0,
        name: str = "data",
    ) -> None:
        self.dataset, self.num_classes, self.shape = dataset, num_classes, shape
        self.mean, self.std, self.augmentation = mean, std, augmentation
        self.workers, self.name = workers, name
        self.unreadable: dict[str, Unreadable] = {}

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        augment: bool = False,
        start_batch: int = 0,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See :meth:`Split.batches`. Unreadable images are left out of their batch.

        Raises:
            InputError: more than 1% of the images turned out to be unreadable, or an item is no image of the shape.
        """
        check_batches(batch_size, start_batch)
        order = epoch_order(len(self), shuffle_seed).tolist()
        picked = [
            order[index * batch_size : (index + 1) * batch_size]
            for index in range(start_batch, self.num_batches(batch_size, drop_last=drop_last))
        ]
        if not picked:
            return
        seed = shuffle_seed or 0
        items = _Items(self.dataset, self.num_classes, self.shape, self.augmentation if augment else None, seed)
        loader: DataLoader[Any] = DataLoader(
            items,
            batch_sampler=picked,
            num_workers=min(self.workers, len(picked)),
            collate_fn=_collate,
            pin_memory=torch.device(device).type == "cuda",
            # Its own generator: the loader would draw from the global one, and a resumed run would differ from then on.
            generator=generator(_LOADER, seed),
        )
        for x, y, bad in loader:
            if bad:
                self.unreadable |= {item.path: item for item in bad}
                check_unreadable(list(self.unreadable.values()), len(self), self.name)
            if len(y):
                yield normalise(x, self.mean, self.std, device), y.to(device, non_blocking=True)


class _Items(Dataset[tuple[Tensor, int] | Unreadable]):
    """Items of another dataset: checked, seeded by their index, augmented."""

    def __init__(
        self,
        dataset: Dataset[Any],
        num_classes: int,
        shape: tuple[int, int, int],
        augmentation: Augmentation | None,
        seed: int,
    ) -> None:
        self.dataset, self.num_classes, self.shape = dataset, num_classes, shape
        self.augmentation, self.seed = augmentation, seed

    def __getitem__(self, index: int) -> tuple[Tensor, int] | Unreadable:
        try:
            image, label = get_item(self.dataset, index, self.seed)
        except UnreadableImage as error:
            return error.found
        if tuple(image.shape) != self.shape or not 0 <= label < self.num_classes:
            raise InputError(
                f"item {index} has shape {tuple(image.shape)} and label {label}",
                f"all images have the shape {self.shape}, and labels are 0 to {self.num_classes - 1}",
                "resize the images and number the classes in the dataset",
            )
        if self.augmentation:
            image = self.augmentation(image[None], generator(_AUGMENT, self.seed, index))[0]
        return image, label


def get_item(dataset: Dataset[Any], index: int, seed: int) -> tuple[Tensor, int]:
    """One item as a tensor `c h w` (uint8 or float32) and a whole number, made with generators seeded by its index.

    Raises:
        InputError: the item is not an image and a label.
    """
    if getattr(dataset, "seeded", True):
        with GlobalStream(_ITEM, seed, index).active():
            item = dataset[index]
    else:
        item = dataset[index]
    try:
        image, label = item
        return as_image(image), int(label)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"item {index} of the dataset is {_kind(item)}",
            "items are (image, label): a tensor, array or Pillow image of c x h x w, and a whole number",
            "wrap the dataset so that it returns such pairs",
        ) from error


def as_image(image: Any) -> Tensor:
    """A tensor, array or Pillow image as `c h w`, uint8 or float32."""
    tensor = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    if tensor.ndim == 2:
        tensor = tensor[None]
    elif not isinstance(image, Tensor) and tensor.ndim == 3 and tensor.shape[2] < tensor.shape[0]:
        tensor = tensor.permute(2, 0, 1)
    if tensor.ndim != 3:
        raise ValueError(f"shape {tuple(tensor.shape)}")
    return tensor if tensor.dtype == torch.uint8 else tensor.to(torch.float32)


def _collate(items: list[tuple[Tensor, int] | Unreadable]) -> Batch:
    good = [item for item in items if not isinstance(item, Unreadable)]
    bad = [item for item in items if isinstance(item, Unreadable)]
    x = torch.stack([image for image, _ in good]) if good else torch.empty(0)
    return x, torch.tensor([label for _, label in good], dtype=torch.int64), bad


class LoaderSplit(Split):
    """Batches that a Python user's own loader makes: its batch size, order, augmentation and normalisation are used.

    The global generators are seeded by `shuffle_seed` for it (and put back after each batch), so that a loader which
    draws from them, as DataLoader does, gives the same batches again.

    Args:
        loader: gives ``(images, labels)`` each time it is gone through.
        count: number of images.
        num_batches: number of batches.
        num_classes: k.
        shape: ``(c, h, w)``.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        count: int,
        num_batches: int,
        num_classes: int,
        shape: tuple[int, int, int],
    ) -> None:
        self.loader, self.num_classes, self.shape = loader, num_classes, shape
        self._count, self._num_batches = count, num_batches

    def __len__(self) -> int:
        return self._count

    def num_batches(self, batch_size: int, *, drop_last: bool = False) -> int:
        """As many as the loader gives, whatever the batch size asked for."""
        return self._num_batches

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        augment: bool = False,
        start_batch: int = 0,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See :meth:`Split.batches`; `batch_size`, `augment` and `drop_last` are the loader's own affair."""
        check_batches(batch_size, start_batch)
        for index, (x, y) in enumerate(seeded_batches(self.loader, mix(_LOADER, shuffle_seed or 0))):
            if index >= start_batch:
                yield x.to(device), y.to(device)


def seeded_batches(loader: Iterable[Any], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Float images and labels of every batch of `loader`, drawn with generators of their own.

    Raises:
        InputError: a batch is not a pair of images `n c h w` and labels `n`.
    """
    stream = GlobalStream(seed)
    with stream.active():
        iterator = iter(loader)
    while True:
        with stream.active():
            try:
                batch = next(iterator)
            except StopIteration:
                return
        yield as_batch(batch)


def as_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """A pair of images `n c h w` (float32; uint8 is scaled to 0..1) and labels `n` (int64).

    Raises:
        InputError: it is none.
    """
    try:
        images, labels = batch
        x, y = torch.as_tensor(images), torch.as_tensor(labels)
        if x.ndim != 4 or y.ndim != 1 or len(x) != len(y) or y.is_floating_point() or isinstance(batch, dict):
            raise ValueError
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"a batch is {_kind(batch)}",
            "batches are (images, labels): n x c x h x w, and n whole numbers",
            "wrap the loader so that it gives such pairs",
        ) from error
    x = x.float().div_(255.0) if x.dtype == torch.uint8 else x.float()
    return x, y.long()


def _kind(value: Any) -> str:
    """A few words about what arrived."""
    if isinstance(value, tuple | list):
        inner = ", ".join(_kind(item) for item in value[:3])
        return f"a {type(value).__name__} of {len(value)} ({inner}{', ...' if len(value) > 3 else ''})"
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__} {tuple(shape)}" if shape is not None else type(value).__name__
