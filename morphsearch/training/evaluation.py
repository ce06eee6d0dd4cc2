"""Judging a network on a split."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from morphsearch.errors import InputError
from morphsearch.training.devices import check_device, device_of, flush_denormals, in_format, is_channels_last
from morphsearch.training.outputs import check_logits, first_output, split_outputs

if TYPE_CHECKING:
    from morphsearch.data import DataSplits, Split


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy (nats, without smoothing), top-1 accuracy in 0..1, and the number of images judged."""

    loss: float
    accuracy: float
    count: int


def check_takes(model: nn.Module, data: DataSplits) -> None:
    """Refuse a network that does not take the data, before anything is trained or written: on two blank images.

    Raises:
        InputError: it fails on images of this shape, or gives no logits for these classes.
    """
    images = torch.zeros((2, *data.shape), device=device_of(model))
    with evaluating(model), torch.no_grad():
        logits, _ = split_outputs(first_output(model, images))
    check_logits(logits, len(images), data.train.num_classes)


def evaluate(model: nn.Module, split: Split, *, batch_size: int = 512, device: str = "auto") -> Evaluation:
    """Loss and accuracy of `model` in eval mode on every image of `split`, in float32, without augmentation.

    The model's training flags, its place and torch's random state are as before afterwards. `device` ``"auto"`` is
    where the model lies.

    Raises:
        InputError: an empty split, a network that fails on its images, or outputs that cannot be scored against its
            classes.
    """
    home = device_of(model)
    place = home if device == "auto" else check_device(device)
    loss_sum = torch.zeros((), device=place)
    correct = torch.zeros((), dtype=torch.int64, device=place)
    count = 0
    if place != home:
        model.to(place)
    try:
        with evaluating(model), torch.no_grad(), flush_denormals():
            channels_last = is_channels_last(model)
            for images, labels in split.batches(batch_size, shuffle_seed=None, augment=False, device=place):
                images = in_format(images, channels_last)
                logits, _ = split_outputs(model(images) if count else first_output(model, images))
                if count == 0:
                    check_logits(logits, len(labels), split.num_classes)
                logits = logits.float()
                loss_sum += functional.cross_entropy(logits, labels, reduction="sum")
                correct += (logits.argmax(1) == labels).sum()
                count += len(labels)
    finally:
        if place != home:
            model.to(home)
    if count == 0:
        raise InputError(
            "the split to evaluate on has no images", "accuracy needs at least one image", "check the data"
        )
    return Evaluation(loss_sum.item() / count, correct.item() / count, count)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, each module's training flag restored afterwards, and torch's random state kept."""
    flags = [(module, module.training) for module in model.modules()]
    place = device_of(model)
    model.eval()
    try:
        with torch.random.fork_rng([place] if place.type == "cuda" else []):
            yield
    finally:
        for module, training in flags:
            module.training = training
