"""Trains under masks and saves; goes on from whatever the run directory holds."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from morphsearch.data import DataSplits
from morphsearch.errors import DivergedError, InputError, StoppedError
from morphsearch.files import write_tensors
from morphsearch.loop.rundir import RunDirectory, progress_of
from morphsearch.sparsity.measure import SparsityReport
from morphsearch.sparsity.results import NAME, SparsifyResult
from morphsearch.sparsity.source import load_weights
from morphsearch.sparsity.sparsifier import Sparsifier
from morphsearch.training import (
    EpochStats,
    Interrupt,
    Trainer,
    deferred_interrupts,
    load_checkpoint,
    save_checkpoint,
)

Listener = Callable[[str, dict[str, Any]], None]
CHECKPOINT_SECONDS = 60.0
WEIGHTS = "weights.safetensors"


def silent(kind: str, payload: dict[str, Any]) -> None:
    """A listener that hears nothing."""


class Runner:
    """One sparsification with training of its own.

    Args:
        trainer: of the network, fresh. sparsifier: of the same; follows the trainer's optimizer from here on.
        run: where to save, or None. start: metrics of the network before, if it was judged.
        again: what an interrupted user does to go on.
    """

    def __init__(
        self,
        trainer: Trainer,
        sparsifier: Sparsifier,
        data: DataSplits,
        run: RunDirectory | None,
        listener: Listener | None,
        *,
        judge_start: bool,
        again: str,
    ) -> None:
        self.trainer, self.sparsifier, self.data, self.run = trainer, sparsifier, data, run
        self.hear, self.judge_start, self.again = listener or silent, judge_start, again
        self.metrics: dict[str, Any] = {}
        self.seconds = 0.0
        self._logged, self._saved_at = 0, 0.0
        sparsifier.follow(trainer.optimizer)
        trainer.after_step = lambda step: sparsifier.step()

    def go(self) -> SparsifyResult:
        """Everything that is still to do.

        Raises:
            StoppedError: interrupted, after saving (with a run directory; without one KeyboardInterrupt passes).
            DivergedError: the loss is not finite; the last checkpoint is kept.
            UsageError: another process works on the run.
        """
        finished = self.run.result() if self.run is not None else None
        if finished is not None:
            return self._finished(finished)
        with nullcontext() if self.run is None else self.run.held():
            return self._guarded()

    def _guarded(self) -> SparsifyResult:
        try:
            return self._go()
        except StoppedError:
            raise
        except Exception as error:
            if self.run is not None:
                self.run.discard_unbegun(error)
            raise

    def _go(self) -> SparsifyResult:
        self._begin()
        trainer = self.trainer
        with deferred_interrupts() as interrupt:
            try:
                while not trainer.finished:
                    self._epoch(interrupt)
                interrupt.check()
            except KeyboardInterrupt:
                if self.run is None:
                    raise
                # A batch or an epoch that was broken off is repeated from the former checkpoint.
                if trainer.between_batches and self._logged == trainer.epoch:
                    self._save()
                self.run.log("interrupted", step=trainer.step)
                raise StoppedError(
                    f"stopped at step {trainer.step} of {trainer.total_steps}",
                    f"everything is saved in {self.run.path}",
                    self.again,
                ) from None
            except DivergedError as error:
                kept = f"; the last checkpoint is kept in {self.run.checkpoint}" if self.run is not None else ""
                raise DivergedError(error.arrived, f"{error.rule}{kept}", error.repair) from error
        return self._finish()

    def _begin(self) -> None:
        saved = load_checkpoint(self.run.checkpoint) if self.run is not None else None
        if self.run is not None:
            self.run.rewind(*((0, 0) if saved is None else progress_of(saved[1])))
        if saved is not None:
            self._load(*saved)
            return
        if self.judge_start:
            judged = self.trainer.evaluate(self.data.val)
            self.metrics = {"start_val_accuracy": judged.accuracy}
        self.trainer.prepare()  # what is chosen by timing stays chosen when the run is resumed
        self._save()

    def _load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        assert self.run is not None
        if not all(isinstance(state.get(key), Mapping) for key in ("trainer", "sparsity", "metrics")):
            raise InputError(
                f"{self.run.checkpoint} is not the checkpoint of a sparsification",
                "it holds the state of the training and of the masks",
                "restore it from a copy, or delete it to start again",
            )
        self.trainer.load_state(part("trainer."), state["trainer"])
        self.sparsifier.load_state(part("sparsity."), state["sparsity"])
        self.metrics, self.seconds = dict(state["metrics"]), float(state.get("seconds", 0.0))
        self._logged = self.trainer.epoch
        self.run.log("resumed", step=self.trainer.step)
        self.hear("note", {"text": f"Going on at step {self.trainer.step}."})

    def _save(self) -> None:
        if self.run is None:
            return
        ours, theirs = self.sparsifier.state(), self.trainer.state()
        tensors = {f"sparsity.{k}": v for k, v in ours[0].items()} | {f"trainer.{k}": v for k, v in theirs[0].items()}
        state = {
            "step": self.trainer.step,
            "sparsity": ours[1],
            "trainer": theirs[1],
            "metrics": self.metrics,
            "seconds": self.seconds,
        }
        save_checkpoint(self.run.checkpoint, tensors, state)
        self._saved_at = time.monotonic()

    def _epoch(self, interrupt: Interrupt) -> None:
        def on_batch(trainer: Trainer) -> None:
            interrupt.check()
            if time.monotonic() - self._saved_at > CHECKPOINT_SECONDS:
                self._save()

        stats = self.trainer.train_epoch(on_batch=on_batch)
        self.seconds += stats.seconds
        self._log_epoch(stats)
        self._save()
        interrupt.check()

    def _log_epoch(self, stats: EpochStats) -> None:
        trainer, sparsifier = self.trainer, self.sparsifier
        judged = trainer.evaluate(self.data.val)
        line = {
            "epoch": trainer.epoch,
            "step": trainer.step,
            "loss": stats.loss,
            "accuracy": stats.accuracy,
            "val_loss": judged.loss,
            "val_accuracy": judged.accuracy,
            "sparsity_asked": sparsifier.asked,
            "sparsity": sparsifier.reached,
            "seconds": stats.seconds,
        }
        if self.run is not None:
            self.run.log("epoch", **line)
        self._logged = trainer.epoch
        shown = {"accuracy": judged.accuracy, "cost": {"sparsity": line["sparsity"]}, "phase": "sparsify"}
        self.hear("epoch", {**line, **shown})

    def _finish(self) -> SparsifyResult:
        trainer = self.trainer
        model = self.sparsifier.strip()
        val = trainer.evaluate(self.data.val)
        metrics = {**self.metrics, "val_accuracy": val.accuracy, "val_loss": val.loss}
        if self.data.test is not None:
            test = trainer.evaluate(self.data.test)
            metrics |= {"test_accuracy": test.accuracy, "test_loss": test.loss, "test_count": test.count}
        metrics |= {"epochs": trainer.recipe.epochs, "steps": trainer.step, "seconds": round(self.seconds, 3)}
        path = self.run.path if self.run is not None else None
        result = SparsifyResult(model, self.sparsifier.report(), metrics, path)
        if self.run is not None:
            weights = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
            write_tensors(self.run.path / WEIGHTS, weights, {"format": "pt"})
            self.run.finish(result.to_dict())
            self.run.log("end", best=NAME)
            shutil.rmtree(self.run.checkpoint, ignore_errors=True)
        self.hear("end", {"text": f"{100 * result.report.reached:.2f}% of the prunable weights are zero."})
        return result

    def _finished(self, record: dict[str, Any]) -> SparsifyResult:
        assert self.run is not None
        try:
            report = SparsityReport.from_dict(record["sparsity"])
            metrics = dict(record["metrics"])
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{self.run.outcome} is not the result of a sparsification: {error}",
                "it holds metrics and sparsity",
                "restore it from a copy, or delete it and resume",
            ) from error
        load_weights(self.trainer.model, self.run.path / WEIGHTS)
        shutil.rmtree(self.run.checkpoint, ignore_errors=True)
        return SparsifyResult(self.trainer.model, report, metrics, self.run.path)
