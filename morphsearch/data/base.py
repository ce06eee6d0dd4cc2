"""What every data set looks like to the training loop.

Letters in shapes: n images, c channels, h height, w width, k classes.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from morphsearch.arguments import require_seed
from morphsearch.errors import InputError, UsageError

GIB = 2**30


def default_memory_limit() -> int:
    """A quarter of the machine's memory, at most 8 GiB, in bytes: images that take more are streamed."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        total = 8 * GIB
    return min(total // 4, 8 * GIB)


@dataclass(frozen=True)
class DataOptions:
    """How a data source is to be read; sources ignore what does not concern them.

    Args:
        seed: of the splits that are made.
        val_fraction: part of the training images that is kept for validation where the data has no such part.
        image_size: ``(h, w)`` that images are resized to; None: as they are.
        channels: 1 or 3, to convert between grey and colour; None: as they are.
        workers: processes that decode streamed images; None: as many as there are cores, at most 8.
        memory_limit_bytes: images that take more than this, decoded, are streamed.

    Raises:
        UsageError: a value is out of range.
    """

    seed: int = 0
    val_fraction: float = 0.1
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    workers: int | None = None
    memory_limit_bytes: int = field(default_factory=default_memory_limit)

    def __post_init__(self) -> None:
        require_seed(self.seed)
        if not 0.0 < self.val_fraction < 1.0:
            raise UsageError(
                f"val_fraction {self.val_fraction}",
                "a part of the training images, above 0 and below 1, is kept for choosing",
                "0.1 is usual",
            )
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise UsageError(
                f"image_size {self.image_size}", "height and width are 1 or more", "write for example (32, 32)"
            )
        if self.channels not in (None, 1, 3):
            raise UsageError(
                f"channels {self.channels}", "images are converted to grey (1) or colour (3)", "choose 1 or 3"
            )
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"workers {self.workers}", "a number of processes, 0 or more", "0 decodes in this process")


class Split(ABC):
    """Labelled images that can be gone through any number of times.

    Attributes:
        num_classes: k.
        shape: ``(c, h, w)`` of every image.
    """

    num_classes: int
    shape: tuple[int, int, int]

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
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
        """Normalised images `n c h w` (float32) and labels `n` (int64), on `device`.

        A batch is a pure function of `shuffle_seed`, `batch_size` and its index, so that going through the rest with
        `start_batch` gives exactly the batches that would have come.

        Args:
            batch_size: images a batch; the last one may have fewer.
            shuffle_seed: of the order and the augmentation; None: in order.
            augment: crop and flip at random, as far as the split knows how.
            start_batch: batches to leave out at the start.
            device: where the tensors go.
            drop_last: leave out a last batch that is not full.
        """

    def num_batches(self, batch_size: int, *, drop_last: bool = False) -> int:
        """How many batches :meth:`batches` gives from the start."""
        return len(self) // batch_size if drop_last else math.ceil(len(self) / batch_size)


@dataclass
class DataSplits:
    """Training, validation and test images of one data set.

    Attributes:
        name: the spec it was loaded from.
        test: None where the data has no test part.
        classes: k names.
        shape: ``(c, h, w)``.
        mean, std: `c`, of the training images, in 0..1 (in their own unit where images are floats); 0 and 1 where the
            user's own loader normalises.
        notes: what a user should know about how the data was read, a sentence each.
        record: the same as JSON-ready data: seeds, counts, skipped files.
    """

    name: str
    train: Split
    val: Split
    test: Split | None
    classes: list[str]
    shape: tuple[int, int, int]
    mean: Tensor
    std: Tensor
    notes: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """k."""
        return len(self.classes)


def check_batches(batch_size: int, start_batch: int) -> None:
    """Refuse a batch size below 1 or a negative start.

    Raises:
        UsageError: either is.
    """
    if batch_size < 1 or start_batch < 0:
        raise UsageError(
            f"batch_size {batch_size}, start_batch {start_batch}",
            "a batch has at least one image, and batches count from 0",
            "use a batch size of 1 or more",
        )


def check_classes(classes: list[str], where: str) -> None:
    """Refuse data with nothing to tell apart.

    Raises:
        InputError: fewer than two classes.
    """
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no class"
        raise InputError(
            f"{where} has {found}",
            "a classifier needs at least two classes to learn anything",
            "check that the data (or the folder) is the whole of it",
        )


def normalise(images: Tensor, mean: Tensor, std: Tensor, device: torch.device | str) -> Tensor:
    """`n c h w` uint8 or float images as float32 with the given mean and standard deviation (each `c`) taken out.

    Moves first and converts afterwards: uint8 is a quarter of the traffic.
    """
    scale = 255.0 if images.dtype == torch.uint8 else 1.0
    # to(copy=True): the caller's own tensor must not change when it is float32 on that device already.
    x = images.to(device, non_blocking=True).to(torch.float32, copy=True)
    shift = (mean * scale).to(x.device, torch.float32).view(-1, 1, 1)
    factor = (1.0 / (std * scale)).to(x.device, torch.float32).view(-1, 1, 1)
    return x.sub_(shift).mul_(factor)
