"""Random crops and flips of whole batches, without a loop over images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """What may be done to a training image: shift it by up to `pad` pixels, mirror it left to right.

    The usual CIFAR recipe (He et al., 2016, section 4.2) is ``pad=4, flip=True`` at 32 x 32.
    """

    pad: int = 0
    flip: bool = False

    @classmethod
    def for_size(cls, height: int, width: int, *, flip: bool = True) -> Augmentation:
        """An eighth of the shorter side, which is 4 pixels at 32 x 32; at least 1."""
        return cls(max(1, min(height, width) // 8), flip)

    def __bool__(self) -> bool:
        return self.pad > 0 or self.flip

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented copies of `n c h w`, same type. What lies outside of an image is 0.

        The numbers are drawn on the CPU, so that every device gives the same batch.
        """
        n, c, h, w = images.shape
        shift = torch.randint(0, 2 * self.pad + 1, (2, n, 1), generator=generator)
        mirrored = torch.rand((n, 1), generator=generator) < 0.5
        if not self:
            return images
        # A few hundred numbers travel; the places of pixels, which are many, are made where the images are.
        device = images.device
        shift, mirrored = shift.to(device), mirrored.to(device)
        padded = F.pad(images, (self.pad,) * 4)
        rows = shift[0] + torch.arange(h, device=device)
        columns = torch.arange(w, device=device).expand(n, w)
        if self.flip:
            columns = torch.where(mirrored, w - 1 - columns, columns)
        columns = columns + shift[1]
        # One gather does crop and flip: the place of every wanted pixel in the flattened padded image, `n hw`.
        places = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).reshape(n, 1, h * w)
        return padded.reshape(n, c, -1).gather(2, places.expand(n, c, h * w)).reshape(n, c, h, w)
