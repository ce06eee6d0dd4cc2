"""The held-out loss of one network in many states, quickly: the same images every time, held in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from morphsearch.errors import InputError
from morphsearch.training.devices import device_of, flush_denormals, in_format, is_channels_last
from morphsearch.training.evaluation import evaluating
from morphsearch.training.outputs import check_logits, split_outputs

if TYPE_CHECKING:
    from morphsearch.data import Split

IMAGES = 1024
BATCH = 512


class HeldOut:
    """Judges a network on the first images of a split.

    Batch norms normalise by the batch that they see, since running statistics are of another width (Yu and Huang, arXiv
    1903.05134, section 3.3, re-estimate them for each); all else is in evaluation. Running statistics stay as they are.

    Args:
        model: the network; its parameters and gates may change between two calls. split: the validation part.
        images: how many, at most. batch_size: of each pass.

    Raises:
        InputError: the split is empty.
    """

    def __init__(self, model: nn.Module, split: Split, *, images: int = IMAGES, batch_size: int = BATCH) -> None:
        self.model, self.num_classes = model, split.num_classes
        self.batches: list[tuple[Tensor, Tensor]] = []
        device, seen = device_of(model), 0
        for x, y in split.batches(batch_size, shuffle_seed=0, augment=False, device=device):
            # A small rest would have statistics of its own.
            if seen >= images or (self.batches and len(y) < batch_size // 2):
                break
            self.batches.append((in_format(x, is_channels_last(model)), y))
            seen += len(y)
        if not self.batches:
            raise InputError(
                "the split to judge on has no images", "a loss needs at least one image", "give a validation part"
            )

    def __call__(self) -> float:
        """The mean cross-entropy, in nats."""
        total, count = 0.0, 0
        with evaluating(self.model), _batch_statistics(self.model), torch.no_grad(), flush_denormals():
            for x, y in self.batches:
                logits, _ = split_outputs(self.model(x))
                if count == 0:
                    check_logits(logits, len(y), self.num_classes)
                total += float(functional.cross_entropy(logits.float(), y, reduction="sum"))
                count += len(y)
        return total / count


@contextlib.contextmanager
def _batch_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms normalise by their batch, and keep the running statistics they have."""
    norms = [one for one in model.modules() if isinstance(one, _BatchNorm) and one.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    kept = [(norm, norm.running_mean, norm.running_var) for norm in norms]
    for norm in norms:
        norm.running_mean = norm.running_var = None
    try:
        yield
    finally:
        for norm, mean, variance in kept:
            norm.running_mean, norm.running_var, norm.track_running_stats = mean, variance, True
