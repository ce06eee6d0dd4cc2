"""Many small networks trained at once on one GPU: a step of each is a CUDA graph, on a stream of its own.

A small network keeps a GPU waiting for the processor. Here a whole step (augmented batch, forward, backward, update) is
recorded once and replayed, and many networks take turns on one GPU. They see the same images in the same order; the
recipe is that of `quality.py`, but that the last, smaller batch of an epoch is left out, and that the convolutions of
a GPU may shorten float32 (TF32).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from morphsearch.data.arrays import ArraySplit
from morphsearch.training import Recipe
from morphsearch.training.schedules import factor

PAD = 4


class Images:
    """All images of a data set on the device, padded."""

    def __init__(self, train: ArraySplit, val: ArraySplit, test: ArraySplit, device: torch.device) -> None:
        self.device = device
        self.padded = pad(train.images.to(device), (PAD,) * 4)
        self.labels = train.labels.to(device)
        self.mean = (train.mean * 255.0).view(-1, 1, 1).to(device)
        self.factor = (1.0 / (train.std * 255.0)).view(-1, 1, 1).to(device)
        self.held = {
            name: (one.images.to(device), one.labels.to(device)) for name, one in (("val", val), ("test", test))
        }
        self.size = train.images.shape[-1]

    def normal(self, images: Tensor) -> Tensor:
        """Float images without mean and spread."""
        return (images.float() - self.mean) * self.factor


class Course:
    """What every step of a training does, as tables on the device: which images, how moved, at what rate."""

    def __init__(self, recipe: Recipe, count: int, device: torch.device, longest: float) -> None:
        self.recipe, self.count, self.device = recipe, count, device
        self.batch, self.per_epoch = recipe.batch_size, count // recipe.batch_size
        most = math.ceil(longest * self.per_epoch)
        self.order = torch.zeros(most, self.batch, dtype=torch.int64, device=device)
        self.shift = torch.zeros(most, 2, self.batch, 1, dtype=torch.int64, device=device)
        self.mirror = torch.zeros(most, self.batch, 1, dtype=torch.bool, device=device)
        self.rate = torch.zeros(most, device=device)

    def begin(self, epochs: float, seed: int) -> int:
        """Fill the tables; the number of steps."""
        steps = math.ceil(epochs * self.per_epoch)
        generator = torch.Generator().manual_seed(seed)
        orders = [
            torch.randperm(self.count, generator=generator)[: self.per_epoch * self.batch]
            for _ in range(math.ceil(steps / self.per_epoch))
        ]
        self.order[:steps] = torch.cat(orders).view(-1, self.batch)[:steps].to(self.device)
        drawn = torch.randint(0, 2 * PAD + 1, (steps, 2, self.batch, 1), generator=generator)
        self.shift[:steps] = drawn.to(self.device)
        self.mirror[:steps] = (torch.rand(steps, self.batch, 1, generator=generator) < 0.5).to(self.device)
        given = self.recipe
        rates = [given.lr * factor(given.schedule, step, steps, given.warmup) for step in range(steps)]
        self.rate[:steps] = torch.tensor(rates).to(self.device)
        return steps


class Lane:
    """One network on its way.

    Args:
        build: makes the network with fresh weights, from torch's seed.
        channels_last: the memory format of images and weights.
    """

    def __init__(self, build: Callable[[], nn.Module], images: Images, course: Course, *, channels_last: bool) -> None:
        self.images, self.course, self.build = images, course, build
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = build().to(images.device, memory_format=self.format).train()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.decayed = [p.ndim > 1 for p in self.parameters]
        self.momenta = [torch.zeros_like(p) for p in self.parameters]
        self.number = torch.zeros(1, dtype=torch.int64, device=images.device)
        self.lost = torch.zeros((), device=images.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        if images.device.type == "cuda":
            self.stream = torch.cuda.Stream()
            self._capture()

    def _capture(self) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(2):
                self._step()
            self.stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin()
            self._step()
            graph.capture_end()
        self.graph = graph
        torch.cuda.synchronize()

    def begin(self, seed: int) -> None:
        """Fresh weights."""
        torch.manual_seed(seed)
        fresh = self.build()
        with torch.no_grad(), self._on_stream():
            for mine, new in zip(self.model.state_dict().values(), fresh.state_dict().values(), strict=True):
                mine.copy_(new)
            torch._foreach_zero_(self.momenta)
            self.number.zero_()
            self.lost.zero_()

    def _on_stream(self) -> contextlib.AbstractContextManager[object]:
        return torch.cuda.stream(self.stream) if self.graph is not None else contextlib.nullcontext()

    def step(self) -> None:
        """One step, queued."""
        if self.graph is None:
            self._step()
            return
        with torch.cuda.stream(self.stream):
            self.graph.replay()

    def _step(self) -> None:
        images, course = self.images, self.course
        picked = course.order.index_select(0, self.number)[0]
        shift = course.shift.index_select(0, self.number)[0]
        mirror = course.mirror.index_select(0, self.number)[0]
        rate = course.rate.index_select(0, self.number)[0]
        size, device = images.size, images.device
        rows = shift[0] + torch.arange(size, device=device)
        columns = torch.arange(size, device=device).expand(len(picked), size)
        columns = torch.where(mirror, size - 1 - columns, columns) + shift[1]
        padded = images.padded.index_select(0, picked)
        n, c, _, w = padded.shape
        places = (rows[:, :, None] * w + columns[:, None, :]).reshape(n, 1, size * size)
        x = padded.reshape(n, c, -1).gather(2, places.expand(n, c, size * size)).reshape(n, c, size, size)
        inputs = images.normal(x).contiguous(memory_format=self.format)
        loss = cross_entropy(self.model(inputs), images.labels.index_select(0, picked))
        grads = list(torch.autograd.grad(loss, self.parameters))
        with torch.no_grad():
            self._update(grads, rate)
            self.lost.mul_(0.98).add_(loss.detach(), alpha=0.02)
            self.number.add_(1)

    def _update(self, grads: list[Tensor], rate: Tensor) -> None:
        """SGD with Nesterov momentum and coupled decay, as torch's."""
        recipe = self.course.recipe
        weights = [p for p, decay in zip(self.parameters, self.decayed, strict=True) if decay]
        torch._foreach_add_(
            [g for g, d in zip(grads, self.decayed, strict=True) if d], weights, alpha=recipe.weight_decay
        )
        torch._foreach_mul_(self.momenta, recipe.momentum)
        torch._foreach_add_(self.momenta, grads)
        torch._foreach_add_(grads, self.momenta, alpha=recipe.momentum)
        torch._foreach_mul_(grads, rate)
        torch._foreach_sub_(self.parameters, grads)

    @torch.no_grad()
    def judge(self, split: str, batch: int = 2500) -> tuple[float, float]:
        """Loss and accuracy on "val" or "test"."""
        images, labels = self.images.held[split]
        self.model.eval()
        loss, right = 0.0, 0
        for start in range(0, len(labels), batch):
            x = self.images.normal(images[start : start + batch]).contiguous(memory_format=self.format)
            y = labels[start : start + batch]
            scores = self.model(x)
            loss += float(cross_entropy(scores, y, reduction="sum"))
            right += int((scores.argmax(1) == y).sum())
        self.model.train()
        return loss / len(labels), right / len(labels)


@dataclass(frozen=True)
class Outcome:
    """Of one training: losses and accuracies on the validation and test parts."""

    val_loss: float
    val: float
    test: float


def train(lanes: Sequence[Lane], epochs: float, seed: int, until: float = math.inf) -> Iterator[Outcome | None]:
    """All lanes from fresh weights; None for all where the time (`until`, of the monotonic clock) was up."""
    course, device = lanes[0].course, lanes[0].images.device
    steps = course.begin(epochs, seed)
    for lane in lanes:
        lane.begin(seed)
    if device.type == "cuda":
        torch.cuda.synchronize()
    for number in range(steps):
        for lane in lanes:
            lane.step()
        if number % 64 == 63:
            if device.type == "cuda":
                torch.cuda.synchronize()
            if time.monotonic() > until:
                yield from (None for _ in lanes)
                return
    if device.type == "cuda":
        torch.cuda.synchronize()
    for lane in lanes:
        loss, val = lane.judge("val")
        yield Outcome(loss, val, lane.judge("test")[1])
