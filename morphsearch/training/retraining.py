"""Training a network from scratch into a folder: resumable, judged on the test split once, at the end."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from morphsearch.errors import DivergedError, StoppedError, UsageError
from morphsearch.files import append_line, read_lines, write_json, write_tensors, write_text
from morphsearch.locks import held
from morphsearch.training.averaging import PREFIX, MovingAverage
from morphsearch.training.checkpoint import load_checkpoint, save_checkpoint
from morphsearch.training.epoch import EpochStats
from morphsearch.training.evaluation import Evaluation
from morphsearch.training.interrupts import Interrupt, deferred_interrupts
from morphsearch.training.progress import Listener, finite
from morphsearch.training.recipe import Recipe
from morphsearch.training.results import RESULT, RetrainResult, load_result
from morphsearch.training.trainer import Trainer

if TYPE_CHECKING:
    from morphsearch.data import DataSplits

CHECKPOINT_SECONDS = 60.0
METRICS, WEIGHTS, CHECKPOINT = "metrics.jsonl", "weights.safetensors", "checkpoint"

ModelSource = nn.Module | Callable[[], nn.Module]


def retrain(
    model: ModelSource,
    data: DataSplits,
    recipe: Recipe,
    *,
    seed: int,
    folder: Path,
    label: str,
    extra: dict[str, Any] | None = None,
    teacher: Callable[[], nn.Module] | None = None,
    on_event: Listener | None = None,
) -> RetrainResult:
    """Train `model` by `recipe` and judge its last epoch on the test split, which is read once, at the end.

    `model` is a network with fresh weights, or better a function that builds one: it is called with torch seeded by
    `seed`, and not at all for a folder that is already finished. Writes ``folder/metrics.jsonl`` (a line an epoch),
    ``weights.safetensors`` and last ``result.json``. The state is kept in ``folder/checkpoint/`` at every epoch and
    about every minute; the same call goes on from there, and ends as if it had never stopped.

    With `ema` in the recipe, the moving average of the weights is what is judged and written. `teacher` builds a
    trained network whose scores the training follows as well (see ``distill`` of the recipe); it is called unless the
    folder is finished.

    `on_event` gets ``"progress"`` events, and ``"epoch"`` with the line of ``metrics.jsonl``.

    Raises:
        StoppedError: interrupted (Ctrl-C); the state was saved.
        DivergedError: the loss is not finite; the last good checkpoint is kept.
        UsageError: `folder` holds another retraining (label, seed, recipe, or the widths in `extra` differ), or another
            process works on it.
        InputError: a damaged file in `folder`, or a model or data that cannot be trained.
    """
    folder = Path(folder)
    found = load_result(folder)
    if found is not None:
        _check_same(folder, "finished retraining", found.to_dict(), _identity(label, seed, recipe))
        _check_widths(folder, found.extra, extra or {})
        shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
        return found
    with _claimed(folder):
        saved = load_checkpoint(folder / CHECKPOINT)
        if saved is not None:
            _check_same(folder, "retraining", saved[1], _identity(label, seed, recipe))
        trainer = Trainer(
            _built(model, seed),
            data,
            recipe,
            seed=seed,
            teacher=teacher() if teacher is not None else None,
            progress=on_event,
            phase="retrain",
        )
        work = _Retraining(trainer, folder, label, on_event)
        work.begin(saved)
        with deferred_interrupts() as interrupt:
            try:
                while not trainer.finished:
                    work.train_epoch(interrupt)
                interrupt.check()
            except KeyboardInterrupt:
                work.save_if_whole()
                raise StoppedError(
                    f"stopped {label!r} after {trainer.epoch} of {recipe.epochs:g} epochs, at step {trainer.step}",
                    f"the state is saved in {folder / CHECKPOINT}",
                    "the same call or command goes on from there",
                ) from None
            except DivergedError as error:
                raise DivergedError(
                    f"{label!r}: {error.arrived}",
                    error.rule,
                    f"{error.repair}; another recipe needs another folder, or {folder} deleted",
                ) from error
        return work.finish(extra or {})


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """A folder that this process alone works on; it goes again if nothing came of it."""
    new = not folder.exists()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)  # what cannot be written is told by what writes first
    try:
        with held(folder, str(folder)):
            yield
    finally:
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()


class _Retraining:
    """The files of one retraining, and when they are written."""

    def __init__(self, trainer: Trainer, folder: Path, label: str, on_event: Listener | None) -> None:
        self.trainer, self.folder, self.label, self.on_event = trainer, folder, label, on_event
        self.average: MovingAverage | None = None
        if trainer.recipe.ema:
            self.average = MovingAverage(trainer.model, trainer.recipe.ema)
            trainer.after_step = self.average.update
        self.val: dict[str, Any] = {}
        self.seconds, self.images = 0.0, 0
        self._saved_at = time.monotonic()
        self._logged = 0  # epochs that have their line and their validation figures

    def begin(self, saved: tuple[dict[str, Tensor], dict[str, Any]] | None) -> None:
        """Go on from `saved`, or start: then a first checkpoint fixes what was chosen by timing."""
        if saved is not None:
            tensors, state = saved
            own = {name: value for name, value in tensors.items() if not name.startswith(PREFIX)}
            self.trainer.load_state(own, state["trainer"])
            if self.average is not None:
                self.average.load(tensors)
            self.val, self.seconds, self.images = state["val"], state["seconds"], state["images"]
            self._logged = self.trainer.epoch
        lines = read_lines(self.folder / METRICS)
        kept = [line for line in lines if isinstance(line.get("epoch"), int) and line["epoch"] <= self.trainer.epoch]
        if kept != lines:  # the crash came between the line of an epoch and its checkpoint
            write_text(self.folder / METRICS, "".join(f"{json.dumps(line)}\n" for line in kept))
        if saved is None:
            self.trainer.prepare()
            self.save()

    def train_epoch(self, interrupt: Interrupt) -> None:
        """One epoch (or what is left of it), judged on validation data, logged and saved."""

        def on_batch(trainer: Trainer) -> None:
            if time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
                self.save()
            interrupt.check()

        stats = self.trainer.train_epoch(on_batch=on_batch)
        with self._judged():
            val = self.trainer.evaluate(self.trainer.data.val)
        self.seconds, self.images = self.seconds + stats.seconds, self.images + stats.images
        self.val = {"val_loss": finite(val.loss), "val_accuracy": val.accuracy}
        line = self._line(stats)
        append_line(self.folder / METRICS, line)
        self._logged = self.trainer.epoch
        self.save()
        if self.on_event is not None:
            self.on_event("epoch", line)

    def _judged(self) -> AbstractContextManager[None]:
        """While this lasts the network has the weights that count."""
        return self.average.applied() if self.average is not None else nullcontext()

    def save(self) -> None:
        """Write the checkpoint.

        Raises:
            DivergedError: the state is not worth keeping.
        """
        tensors, state = self.trainer.state()
        if self.average is not None:
            tensors |= self.average.tensors()
        save_checkpoint(
            self.folder / CHECKPOINT,
            tensors,
            {
                "step": self.trainer.step,
                **_identity(self.label, self.trainer.seed, self.trainer.recipe),
                "trainer": state,
                "val": self.val,
                "seconds": self.seconds,
                "images": self.images,
            },
        )
        self._saved_at = time.monotonic()

    def save_if_whole(self) -> None:
        """After an interruption: save, unless it broke off a batch or the end of an epoch; then the former checkpoint
        has to do."""
        if self.trainer.between_batches and self._logged == self.trainer.epoch:
            self.save()

    def finish(self, extra: dict[str, Any]) -> RetrainResult:
        """Judge, write weights and result, and drop the checkpoint."""
        trainer = self.trainer
        split, name = trainer.data.test, "test"
        if split is None:
            split, name = trainer.data.val, "val"
        with self._judged():
            outcome: Evaluation = trainer.evaluate(split)
            state = {key: v.detach().clone() for key, v in trainer.model.state_dict().items() if isinstance(v, Tensor)}
        result = RetrainResult(
            label=self.label,
            seed=trainer.seed,
            recipe=trainer.recipe.to_dict(),
            accuracy=outcome.accuracy,
            loss=finite(outcome.loss),
            evaluated_on=name,
            test_count=outcome.count,
            val_accuracy=self.val["val_accuracy"],
            val_loss=self.val["val_loss"],
            epochs=trainer.recipe.epochs,
            seconds=round(self.seconds, 3),
            images_per_second=round(self.images / self.seconds, 1) if self.seconds else 0.0,
            precision=trainer.prepare().to_dict(),
            extra=extra,
        )
        write_tensors(self.folder / WEIGHTS, state, {"format": "pt"})
        write_json(self.folder / RESULT, result.to_dict())
        shutil.rmtree(self.folder / CHECKPOINT, ignore_errors=True)
        return result

    def _line(self, stats: EpochStats) -> dict[str, Any]:
        return {
            "event": "epoch",
            "phase": "retrain",
            "label": self.label,
            "epoch": self.trainer.epoch,
            "epochs": math.ceil(self.trainer.recipe.epochs),
            "step": self.trainer.step,
            "loss": finite(stats.loss),
            "accuracy": stats.accuracy,
            **self.val,
            "lr": self.trainer.lr,
            "seconds": round(stats.seconds, 3),
            "images_per_second": round(stats.images_per_second, 1),
        }


def _built(model: ModelSource, seed: int) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model()


def _identity(label: str, seed: int, recipe: Recipe) -> dict[str, Any]:
    return {"label": label, "seed": seed, "recipe": recipe.to_dict()}


def _check_same(folder: Path, what: str, found: dict[str, Any], asked: dict[str, Any]) -> None:
    differing = [name for name in ("label", "seed") if found.get(name) != asked[name]]
    parts = [f"{name} {found.get(name)!r} instead of {asked[name]!r}" for name in differing]
    recipe = found.get("recipe")
    recipe = Recipe().to_dict() | (recipe if isinstance(recipe, dict) else {})  # of an older version: without some
    parts += [
        f"{name}={recipe.get(name)!r} instead of {value!r}"
        for name, value in asked["recipe"].items()
        if recipe.get(name) != value and name != "device"
    ]
    if parts:
        raise UsageError(
            f"{folder} holds a {what} with {', '.join(parts)}",
            "a folder belongs to one label, seed and recipe",
            "ask for the same again, or rename or delete that folder",
        )


def _check_widths(folder: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """A result belongs to the widths that it names: what baselines are matched to may have changed since."""
    before, now = found.get("widths"), asked.get("widths")
    if not isinstance(before, dict) or not isinstance(now, dict) or before == now:
        return
    name = next(name for name in {**now, **before} if before.get(name) != now.get(name))
    raise UsageError(
        f"{folder} holds a finished retraining of other widths: {name} has {before.get(name)} units, "
        f"and {now.get(name)} are asked for",
        "trainings of one row are of the same network",
        f"delete {folder} to have it trained at the present widths",
    )
