"""The figures of one epoch, summed on the device without a synchronisation per batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EpochStats:
    """One epoch of training: mean cross-entropy per image (without penalty), top-1 accuracy in 0..1, `images` trained
    on, `seconds` spent training (without what `on_batch` took), and the mean `penalty` per batch."""

    loss: float
    accuracy: float
    seconds: float
    images: int
    penalty: float = 0.0

    @property
    def images_per_second(self) -> float:
        """Training speed over the epoch."""
        return self.images / self.seconds if self.seconds > 0 else 0.0


class EpochSums:
    """Running sums over the batches of one epoch."""

    def __init__(self, device: torch.device) -> None:
        kind = torch.float32 if device.type == "mps" else torch.float64  # mps has no float64
        self.loss = torch.zeros((), dtype=kind, device=device)
        self.penalty = torch.zeros((), dtype=kind, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.images, self.seconds = 0, 0.0

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, penalty: Tensor | None) -> None:
        """Count one batch: its mean `loss` (scalar), `logits` (`n x classes`), `labels` (`n`), `penalty` (scalar)."""
        self.loss.add_(loss, alpha=len(labels))
        self.correct.add_((logits.argmax(1) == labels).sum())
        if penalty is not None:
            self.penalty.add_(penalty)
        self.images += len(labels)

    def stats(self, batches: int) -> EpochStats:
        """The means over what was counted; waits for the device."""
        images = max(1, self.images)
        loss, accuracy = self.loss.item() / images, self.correct.item() / images
        return EpochStats(loss, accuracy, self.seconds, self.images, self.penalty.item() / max(1, batches))

    def is_finite(self) -> bool:
        """Whether every loss and penalty so far was; waits for the device."""
        return bool((self.loss + self.penalty).isfinite())

    @property
    def tensors(self) -> dict[str, Tensor]:
        """``epoch/...`` tensors, not copied."""
        return {"epoch/loss": self.loss, "epoch/penalty": self.penalty, "epoch/correct": self.correct}

    def load(self, tensors: Mapping[str, Tensor], images: int, seconds: float) -> None:
        """Go on from :attr:`tensors`."""
        for name, own in self.tensors.items():
            own.copy_(tensors[name])
        self.images, self.seconds = images, seconds
