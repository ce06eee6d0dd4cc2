"""Images that fit in memory, and what is done to them as whole arrays."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from morphsearch.data.augment import Augmentation
from morphsearch.data.base import Split, check_batches, normalise
from morphsearch.data.seeding import generator
from morphsearch.errors import InputError

_CHUNK = 1024
_ORDER, _AUGMENT = 1, 2


class ArraySplit(Split):
    """Images in one tensor.

    Args:
        images: `n c h w`, uint8 or float32.
        labels: `n`, int64, 0..k-1.
        num_classes: k.
        mean, std: `c`, in 0..1 for uint8 images.
        augmentation: what ``augment=True`` does; None: nothing.

    Raises:
        InputError: shapes, types or labels do not fit together, or there are no images.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        num_classes: int,
        *,
        mean: Tensor,
        std: Tensor,
        augmentation: Augmentation | None = None,
    ) -> None:
        check_arrays(images, labels, num_classes)
        self.images, self.labels, self.num_classes = images.contiguous(), labels.contiguous(), num_classes
        self.mean, self.std, self.augmentation = mean, std, augmentation
        self.shape = (images.shape[1], images.shape[2], images.shape[3])
        self._copies: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.labels)

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
        """See :meth:`Split.batches`."""
        check_batches(batch_size, start_batch)
        images, labels = self._near(torch.device(device))
        order = epoch_order(len(self), shuffle_seed)
        for index in range(start_batch, self.num_batches(batch_size, drop_last=drop_last)):
            picked = order[index * batch_size : (index + 1) * batch_size].to(images.device)
            x, y = images.index_select(0, picked), labels.index_select(0, picked)
            if augment and self.augmentation:
                x = self.augmentation(x, generator(_AUGMENT, shuffle_seed or 0, index))
            yield normalise(x, self.mean, self.std, device), y.to(device)

    def _near(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The arrays on the device, where they take no more than a quarter of what is free there."""
        if device.type == "cuda" and device not in self._copies:
            free, _ = torch.cuda.mem_get_info(device)
            fits = self.images.nbytes <= free // 4
            self._copies[device] = (
                (self.images.to(device), self.labels.to(device)) if fits else (self.images, self.labels)
            )
        return self._copies.get(device, (self.images, self.labels))


def epoch_order(count: int, shuffle_seed: int | None) -> Tensor:
    """`count` indices, shuffled where there is a seed."""
    if shuffle_seed is None:
        return torch.arange(count)
    return torch.randperm(count, generator=generator(_ORDER, shuffle_seed))


def check_arrays(images: Tensor, labels: Tensor, num_classes: int) -> None:
    """Refuse arrays that are no labelled images.

    Raises:
        InputError: what is wrong, with the shapes that arrived.
    """
    arrived = f"images {tuple(images.shape)} {images.dtype} with labels {tuple(labels.shape)} {labels.dtype}"
    if images.ndim != 4 or labels.ndim != 1 or images.dtype not in (torch.uint8, torch.float32):
        raise InputError(
            arrived,
            "images are n x c x h x w, uint8 or float32, with n whole-number labels",
            "reshape or convert them",
        )
    if len(images) != len(labels) or not len(labels) or min(images.shape) < 1:
        raise InputError(arrived, "there is one label an image, and at least one image", "check how they were made")
    low, high = int(labels.min()), int(labels.max())
    if labels.dtype != torch.int64 or low < 0 or high >= num_classes:
        raise InputError(
            f"labels {low} to {high} ({labels.dtype})",
            f"labels of {num_classes} classes are int64 from 0 to {num_classes - 1}",
            "number the classes from 0",
        )


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, `c` float32; in 0..1 for uint8. A constant channel has deviation 1."""
    channels = images.shape[1]
    if images.dtype == torch.uint8:
        # Counting the 256 values is exact, and quicker than converting.
        counts = torch.zeros(channels, 256, dtype=torch.int64)
        for chunk in images.split(_CHUNK):
            for channel in range(channels):
                counts[channel] += torch.bincount(chunk[:, channel].reshape(-1), minlength=256)
        values = torch.arange(256, dtype=torch.float64) / 255.0
        weights = counts.double() / counts.sum(1, keepdim=True)
        mean = weights @ values
        variance = (weights * (values - mean[:, None]) ** 2).sum(1)
    else:
        total = torch.zeros(channels, dtype=torch.float64)
        for chunk in images.split(_CHUNK):
            total += chunk.double().sum((0, 2, 3))
        count = images.numel() // channels
        mean = total / count
        squares = torch.zeros(channels, dtype=torch.float64)
        for chunk in images.split(_CHUNK):
            squares += (chunk.double() - mean.view(-1, 1, 1)).square().sum((0, 2, 3))
        variance = squares / count
    std = variance.sqrt()
    return mean.float(), torch.where(std > 1e-6, std, torch.ones_like(std)).float()


def conform(images: Tensor, channels: int | None, size: tuple[int, int] | None) -> Tensor:
    """`n c h w` with the wanted channels (grey to colour and back, ITU-R 601 luma) and size (bilinear, antialiased)."""
    have, wanted_size = images.shape[1], size or (images.shape[2], images.shape[3])
    wanted = channels or have
    if wanted == have and wanted_size == tuple(images.shape[2:]):
        return images
    if wanted != have and {wanted, have} != {1, 3}:
        raise InputError(
            f"images of {have} channels, {wanted} wanted",
            "only grey (1) and colour (3) are converted into each other",
            "convert the images, or choose a network that takes them as they are",
        )
    parts = []
    for chunk in images.split(_CHUNK):
        x = chunk.float()
        if have == 3 and wanted == 1:
            x = (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
        if wanted_size != tuple(x.shape[2:]):
            x = F.interpolate(x, wanted_size, mode="bilinear", align_corners=False, antialias=True)
        x = x.expand(-1, wanted, -1, -1)
        parts.append(x.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else x)
    return torch.cat(parts)
