"""Short trainings of whole candidates, for strategies that try them out.

What a short training comes to depends on the number of its optimizer steps, more than of its images: with few, it
favours shapes that learn fast, and differs much between seeds. So batches are a quarter of the recipe's where that
takes hardly longer, which is on the CPU: ResNet-20 at 32x32 takes a tenth longer for the same images in batches of 32
instead of 128. An accelerator is not filled by such batches, and trains with the recipe's own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from morphsearch.data import DataSplits
from morphsearch.errors import DivergedError
from morphsearch.loop.deciding import FEW_STEPS
from morphsearch.loop.schema import finite
from morphsearch.loop.session import Search
from morphsearch.training import Recipe, Trainer, deferred_interrupts, reestimate_batchnorm
from morphsearch.training.devices import OwnAccelerator

SMALLER = 4  # times, are batches of trials on the CPU
LEAST_BATCH = 32  # images; never made smaller than that
Listener = Callable[[str, dict[str, Any]], None]


class Trying:
    """Trains networks of given widths from scratch, each once: those that the run's log has are not repeated.

    Args:
        search: whose graph makes the networks. number: the morph. recipe: of a training of full length and batches.
        seed: of fresh weights and of the order of images, the same for all.
        hear: hears progress.

    Attributes:
        seconds: spent on trainings, without those that the log had.
        best: validation loss and accuracy of the best network so far.
    """

    def __init__(
        self, search: Search, data: DataSplits, recipe: Recipe, number: int, seed: int, hear: Listener
    ) -> None:
        self.search, self.data = search, data
        self.recipe, self._full = in_small_batches(recipe), recipe
        self.number, self.seed, self.hear = number, seed, hear
        self.seconds, self._count = 0.0, 0
        self.best: dict[str, float | None] = {}
        events = search.run.events() if search.run is not None else []
        self._known = {
            _key(event["widths"], event["epochs"], event.get("images_a_step")): (_loss(event), event.get("accuracy"))
            for event in events
            if event.get("event") == "trial" and event.get("iteration") == number
        }

    def __call__(self, widths: dict[str, int], share: float) -> float:
        """The loss on the validation part after `share` of the epochs; infinite where the training diverges."""
        epochs = self.recipe.epochs * share
        self._count += 1
        key = _key(widths, epochs, _images(self.recipe))
        if key not in self._known:
            self._known[key] = self._train(widths, epochs)
        loss, accuracy = self._known[key]
        if loss < (self.best.get("val_loss") or float("inf")):
            self.best = {"val_accuracy": accuracy, "val_loss": loss}
        return loss

    def _train(self, widths: dict[str, int], epochs: float) -> tuple[float, float | None]:
        began = time.monotonic()
        loss: float = float("inf")
        accuracy: float | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = self.search.graph.resize(widths)
        trainer = Trainer(
            network,
            self.data,
            replace(self.recipe, epochs=epochs),
            seed=self.seed,
            progress=self.hear,
            phase=f"trial {self._count}",
        )
        steps = trainer.total_steps * _images(self.recipe) // _images(self._full)
        if steps < FEW_STEPS:
            self._say_once(
                f"A trial is {steps} steps of the recipe long: so short a training may favour other widths than a "
                "whole one. Give the search more epochs, or fewer trials."
            )
        with deferred_interrupts() as interrupt:
            try:
                while not trainer.finished:
                    trainer.train_epoch(on_batch=lambda _: interrupt.check())
                # A short training ends before running statistics have followed it.
                reestimate_batchnorm(network, self.data.train, seed=self.seed)
                judged = trainer.evaluate(self.data.val)
                loss, accuracy = judged.loss, judged.accuracy
            except DivergedError:
                self.hear("note", {"text": f"Trial {self._count} diverged."})
        seconds = time.monotonic() - began
        self.seconds += seconds
        if self.search.run is not None:
            line = {"widths": widths, "epochs": epochs, "images_a_step": _images(self.recipe)}
            line |= {"loss": loss, "accuracy": accuracy, "seconds": seconds}
            self.search.run.log("trial", iteration=self.number, **finite(line))
        costs = self.search.budgets.costs(widths)
        self.hear("trial", {"phase": f"trial {self._count}", "loss": loss, "accuracy": accuracy, "cost": costs})
        return loss, accuracy

    def _say_once(self, text: str) -> None:
        if text not in self.search.notes:
            self.search.notes.append(text)


def in_small_batches(recipe: Recipe) -> Recipe:
    """The recipe of a short training; the rate falls with the square root of the batch.

    In proportion to the batch (Goyal et al., arXiv 1706.02677) it would be too low for so few images: at a rate of 0.03
    instead of 0.05 MobileNetV1 ends two points lower in batches of 32.
    """
    size = _images(recipe)
    small = min(size, max(LEAST_BATCH, size // SMALLER))
    if small == size or OwnAccelerator(recipe.device, "fp32", 1).device.type != "cpu":
        return recipe
    batch = min(small, recipe.batch_size)
    made = replace(recipe, batch_size=batch, accumulate=max(1, small // batch))
    return replace(made, lr=recipe.lr * math.sqrt(_images(made) / size))


def _images(recipe: Recipe) -> int:
    """Of one optimizer step."""
    return recipe.batch_size * recipe.accumulate


def _key(widths: dict[str, int], epochs: float, images: int | None) -> tuple[Any, ...]:
    return (*sorted(widths.items()), round(epochs, 9), images)


def _loss(event: dict[str, Any]) -> float:
    return float("inf") if event.get("loss") is None else float(event["loss"])
