"""Trains, morphs, saves; goes on from whatever the run directory holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch import plugins
from morphsearch.data import DataSplits
from morphsearch.errors import DivergedError, InputError, StoppedError
from morphsearch.loop.architecture import Architecture
from morphsearch.loop.config import schedule_note
from morphsearch.loop.recovery import Recovery, ready
from morphsearch.loop.results import SearchResult
from morphsearch.loop.rundir import progress_of
from morphsearch.loop.session import Search
from morphsearch.loop.trying import Trying
from morphsearch.training import (
    EpochStats,
    HeldOut,
    Interrupt,
    Recipe,
    Trainer,
    deferred_interrupts,
    evaluate,
    load_checkpoint,
    reestimate_batchnorm,
    save_checkpoint,
)

Listener = Callable[[str, dict[str, Any]], None]
Saved = tuple[dict[str, Tensor], dict[str, Any]]

CHECKPOINT_SECONDS = 60.0
LOOKED_AT, JUDGED_ON = 512, 1024  # images that batch-norm statistics are taken from, after an epoch and after a morph
SEEDS_APART = 1000  # between the training seeds of two morphs


def silent(kind: str, payload: dict[str, Any]) -> None:
    """A listener that hears nothing."""


class Runner:
    """A search with training of its own.

    Args:
        search: as it is: with architectures, if some were found before.
        recipe: of each morph's training. iterations: how many morphs. seed: of the training.
        listener: hears progress.
    """

    def __init__(
        self, search: Search, data: DataSplits, recipe: Recipe, iterations: int, seed: int, listener: Listener | None
    ) -> None:
        self.search, self.data, self.recipe = search, data, recipe
        self.iterations, self.seed, self.hear = iterations, seed, listener or silent
        self.steps = search.steps
        self.where = "before the first morph"
        search.strategy.together = False  # our own trainer is one process
        self._logged = 0  # epochs of this morph that have their line
        self._saved_at = 0.0
        self._shrunk = False  # since the last checkpoint
        self.recovery = Recovery()
        self._begin: Saved | None = None  # the states that the morph began with, and those saved last
        self._last: Saved | None = None
        self._tried: Trying | None = None
        self._found: SearchResult | None = None

    def go(self) -> SearchResult:
        """Everything that is still to do.

        Raises:
            StoppedError: interrupted, after saving (with a run directory; without one KeyboardInterrupt passes).
            DivergedError: the loss is not finite, at lower learning rates too; the last checkpoint is kept.
            UsageError: another process works on the run.
            MorphError: the network, the data or the recipe do not fit; a new run leaves no files behind then.
        """
        run = self.search.run
        with nullcontext() if run is None else run.held():
            return self._guarded()

    def _guarded(self) -> SearchResult:
        try:
            return self._go()
        except KeyboardInterrupt:
            run = self.search.run
            if self._found is not None:
                return self._found  # all was written already
            if run is None:
                raise
            run.log("interrupted", iteration=self.number, step=self.search.total_steps)
            again = "ms.search(..., resume=True) with the same arguments goes on"
            raise StoppedError(
                f"stopped {self.where}",
                f"everything is saved in {run.path}",
                f"morphsearch resume {run.path}" if "config" in self.search.extra else again,
            ) from None
        except Exception as error:
            if self.search.run is not None:
                self.search.run.discard_unbegun(error)
            raise

    @property
    def number(self) -> int:
        """The morph that is next, or under way."""
        return len(self.search.architectures) + 1

    def _go(self) -> SearchResult:
        run = self.search.run
        complete = run is not None and run.result() is not None
        saved = None if complete else self._saved()
        while self.number <= self.iterations:
            device = self.recipe.device
            if self.search.strategy.needs_training:
                trainer = self._trainer()
                device = str(trainer.device)
                self._train(trainer, saved)
                saved = None
            if self.search.judges:
                self._phase()
            self.where = f"at the end of morph {self.number} of {self.iterations}"
            self._tell(self.search.morph(partial(self._judge, device=device)))
        return self._result(complete)

    # -- going on ----------------------------------------------------------------------------------------------------

    def _saved(self) -> Saved | None:
        """The checkpoint that this morph goes on from, if there is one; and the log brought in line with it."""
        run = self.search.run
        if run is None:
            return None
        saved = load_checkpoint(run.checkpoint)
        if saved is not None and saved[1].get("iteration") != self.number:
            saved = None
        tries = 0 if saved is None else Recovery.of(saved[1].get("recovery")).tries
        run.rewind(*((self.search.total_steps, 0) if saved is None else progress_of(saved[1])), tries)
        return saved

    def _load(self, trainer: Trainer, saved: Saved) -> None:
        tensors, state = saved

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        if not isinstance(state.get("trainer"), Mapping) or not isinstance(state.get("search"), Mapping):
            assert self.search.run is not None
            raise InputError(
                f"{self.search.run.checkpoint} is not the checkpoint of a search",
                "it holds the state of the training and of the search",
                "restore it from a copy, or delete it to repeat this morph",
            )
        # Units that had left leave again first: the weights are of the widths of then.
        self.search.load_state(part("search."), state["search"])
        trainer.adopt()
        trainer.load_state(part("trainer."), state["trainer"])
        self.recovery = Recovery.of(state.get("recovery"))
        self._logged, self._last = trainer.epoch, saved

    def _resume(self, trainer: Trainer, saved: Saved) -> None:
        self._begin = self._state(trainer)
        self._load(trainer, saved)
        self._begin[1]["trainer"]["choice"] = trainer.choice.to_dict() if trainer.choice is not None else None
        if self.search.run is not None:
            self.search.run.log("resumed", iteration=self.number, step=self.search.total_steps)
        self.hear("note", {"text": f"Going on with morph {self.number} at step {trainer.step}."})

    def _state(self, trainer: Trainer) -> Saved:
        ours, theirs = self.search.state(), trainer.state()
        tensors = {f"search.{k}": v for k, v in ours[0].items()} | {f"trainer.{k}": v for k, v in theirs[0].items()}
        return tensors, {
            "iteration": self.number,
            "step": self.search.total_steps,
            "search": ours[1],
            "trainer": theirs[1],
            "recovery": self.recovery.state(),
        }

    def _save(self, trainer: Trainer) -> None:
        self._last = self._state(trainer)
        self._shrunk = False
        if self.search.run is not None:
            save_checkpoint(self.search.run.checkpoint, *self._last)
        self._saved_at = time.monotonic()

    # -- one morph ---------------------------------------------------------------------------------------------------

    def _trainer(self) -> Trainer:
        search = self.search

        def after_step(step: int) -> None:
            self._wait(trainer)
            search.step(trainer.lr)

        trainer: Trainer = Trainer(
            search.model,
            self.data,
            self.recipe,
            seed=self.seed + SEEDS_APART * self.number,
            no_decay=search.regularized(),
            penalty=search.penalty,
            after_step=after_step,
            progress=lambda kind, payload: self.hear(kind, {**payload, "strength": search.strength}),
            phase=f"morph {self.number}/{self.iterations}",
        )
        if self.steps is not None and self.steps > trainer.total_steps:
            search.notes.append(schedule_note(self.steps, trainer.total_steps))
        search.controller.steps = min(self.steps or trainer.total_steps, trainer.total_steps)

        def after_cut() -> None:
            trainer.adopt()
            self._shrunk = True

        if search.live:
            search.follow(trainer.optimizer)
            search.before_cut, search.after_cut = trainer.check_finite, after_cut
        return trainer

    def _train(self, trainer: Trainer, saved: Saved | None) -> None:
        self._logged, self.recovery = 0, Recovery()
        if saved is not None:
            self._resume(trainer, saved)
        else:
            trainer.prepare()  # what is chosen by timing stays chosen when the run is resumed
            self._save(trainer)
            self._begin = self._last
        with deferred_interrupts() as interrupt:
            try:
                while not trainer.finished:
                    try:
                        self._epoch(trainer, interrupt)
                    except DivergedError as error:
                        self._recover(trainer, error)
            except KeyboardInterrupt:
                self.where = (
                    f"in morph {self.number} of {self.iterations}, at step {trainer.step} of {trainer.total_steps}"
                )
                # A batch or an epoch that was broken off is repeated from the former checkpoint.
                if trainer.between_batches and self._logged == trainer.epoch:
                    self._save(trainer)
                raise

    def _epoch(self, trainer: Trainer, interrupt: Interrupt) -> None:
        def on_batch(trainer: Trainer) -> None:
            interrupt.check()
            if self._shrunk or time.monotonic() - self._saved_at > CHECKPOINT_SECONDS:
                self._save(trainer)

        stats = trainer.train_epoch(on_batch=on_batch)
        self._log_epoch(trainer, stats)
        self._save(trainer)
        interrupt.check()

    def _recover(self, trainer: Trainer, error: DivergedError) -> None:
        """Go back and on with less; the reason was a loss that is not finite, or an accuracy that collapsed.

        Raises:
            DivergedError: `error`, once the tries are used up.
        """
        peak = self.search.controller.peak
        recovery = self.recovery.again(error, peak)
        back = self._last if recovery.tries == 1 and not recovery.collapsed else self._begin
        assert back is not None
        self._load(trainer, back)
        self.recovery = recovery
        trainer.lr_scale, self.search.controller.ceiling = recovery.lr_scale, recovery.ceiling
        rate = self.recipe.lr * recovery.lr_scale
        text = recovery.sentence(error, trainer.step, rate)
        self.search.notes.append(text)
        self._save(trainer)
        run = self.search.run
        if run is not None:
            run.rewind(self.search.total_steps, trainer.epoch, recovery.tries)
            run.log(
                "recovered",
                iteration=self.number,
                step=self.search.total_steps,
                reason=error.arrived,
                lr=rate,
                tries=recovery.tries,
            )
        self.hear("warning", {"text": text})

    def _phase(self) -> None:
        """The strategy's own phase; interrupted, it is repeated from its beginning, but for trainings that are done."""
        self.where = f"in morph {self.number} of {self.iterations}, while widths are judged"
        began, total = time.monotonic(), max(1e-9, self.search.status()["load"] - self.search.rules.shrink_to)
        trying = self._tried = Trying(self.search, self.data, self.recipe, self.number, self.seed, self.hear)

        def on_step(widths: dict[str, int], loss: float) -> None:
            left = self.search.budgets.load(widths) - self.search.rules.shrink_to
            done = round(100 * min(1.0, 1 - left / total))
            self.hear("progress", {"phase": "judging", "done": done, "total": 100, "unit": "%", "loss": loss})

        trains = not self.search.strategy.needs_training
        calls = self.search.run_phase(
            HeldOut(self.search.model, self.data.val), None if trains else on_step, trying if trains else None
        )
        if self.search.run is not None:
            seconds = time.monotonic() - began - trying.seconds
            self.search.run.log(
                "judged", iteration=self.number, step=self.search.total_steps, evaluations=calls, seconds=seconds
            )

    def _log_epoch(self, trainer: Trainer, stats: EpochStats) -> None:
        search = self.search
        if search.judges or search.controller.pressing(search.morph_step):
            # Running statistics lag behind while scales shrink; a few batches bring them up to date. Before that they
            # are those of plain training.
            size = self.recipe.batch_size
            batches = max(1, min(math.ceil(LOOKED_AT / size), trainer.batches_per_epoch // 10))
            reestimate_batchnorm(trainer.model, self.data.train, batches=batches, batch_size=size, seed=self.seed)
        judged = trainer.evaluate(self.data.val)
        status = self.search.status()
        line = {
            "iteration": self.number,
            "epoch": trainer.epoch,
            "step": self.search.total_steps,
            "loss": stats.loss,
            "accuracy": stats.accuracy,
            "val_loss": judged.loss,
            "val_accuracy": judged.accuracy,
            "seconds": stats.seconds,
            **status,
        }
        if self.search.run is not None:
            self.search.run.log("epoch", **line)
        self._logged = trainer.epoch
        self._watch(trainer, judged.accuracy, status)
        shown = {"accuracy": judged.accuracy, "cost": status["costs"], "phase": f"morph {self.number}"}
        self.hear("epoch", {**line, **shown})

    def _watch(self, trainer: Trainer, accuracy: float, status: Mapping[str, Any]) -> None:
        """Say it where nothing dies or the network is wrecked.

        Raises:
            Collapsed: the accuracy collapsed, and the morph has not been begun anew for it.
        """
        search = self.search
        controller, free = search.controller, sum(search.graph.widths[name] for name in search.graph.free)
        standing = status["alive"] == free and not search.leaving.left and status["load"] > search.rules.shrink_to
        warning = self.recovery.watch(
            accuracy,
            1 / max(1, self.data.num_classes),
            standing=standing and trainer.step >= controller.end and search.strategy.presses,
            over=trainer.finished,
            pressed=controller.pressing(search.morph_step),
        )
        if warning:
            if search.run is not None:
                at = {"step": search.total_steps, "epoch": trainer.epoch}
                search.run.log("warning", iteration=self.number, **at, text=warning)
            self.hear("warning", {"text": warning})

    def _wait(self, trainer: Trainer) -> None:
        """Let pressure begin later, as far as there is time, where the network can do hardly anything yet."""
        controller = self.search.controller
        if controller.due(self.search.morph_step + 1):
            chance = 1 / max(1, self.data.num_classes)
            controller.wait(ready(max(self.recovery.best, trainer.so_far.accuracy), chance))

    def _judge(self, model: nn.Module, device: str) -> dict[str, float | None]:
        """Accuracy of the shrunk and widened network on the validation part, with fresh batch-norm statistics.

        Of candidates that were tried out, what the best of them had come to.
        """
        if self._tried is not None and self._tried.best:
            return dict(self._tried.best)
        if device != "auto":
            model.to(torch.device(device))
        reestimate_batchnorm(model, self.data.train, batches=JUDGED_ON // 128, batch_size=128, seed=self.seed)
        judged = evaluate(model, self.data.val)
        return {"val_accuracy": judged.accuracy, "val_loss": judged.loss}

    # -- telling -----------------------------------------------------------------------------------------------------

    def _tell(self, architecture: Architecture) -> None:
        self.hear(
            "iteration",
            {
                "iteration": architecture.name,
                "cost": architecture.totals,
                "accuracy": architecture.metrics.get("val_accuracy"),
                "multiplier": architecture.multiplier,
                "widths": architecture.widths,
            },
        )
        for note in architecture.notes:
            self.hear("note", {"text": note})

    def _result(self, complete: bool) -> SearchResult:
        search = self.search
        run = search.run
        result = SearchResult.of(search.architectures, run.path if run is not None else None, search.model)
        if not complete:
            if run is not None:
                run.finish(result.summary)
                run.log("end", best=result.best.name)
            self._found = result
            plugins.fire("morphsearch_search_end", result=result)
        count, best = len(result.architectures), result.best.name
        self.hear("end", {"text": f"Found {count} architectures; {best} did best on the validation part."})
        return result
