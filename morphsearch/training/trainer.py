"""One training: model, optimizer, schedule and random state, batch by batch, resumable at any of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from morphsearch.arguments import require_seed
from morphsearch.errors import DivergedError, InputError, UsageError
from morphsearch.finite import all_finite
from morphsearch.training import state as states
from morphsearch.training.devices import OwnAccelerator, flush_denormals, in_format, lay_out_channels_last
from morphsearch.training.epoch import EpochStats, EpochSums
from morphsearch.training.evaluation import Evaluation, check_takes, evaluate, evaluating
from morphsearch.training.memory import freed_memory_kept
from morphsearch.training.norms import quick_norms
from morphsearch.training.optimizers import build_optimizer
from morphsearch.training.outputs import (
    check_learns,
    check_logits,
    classification_loss,
    distillation_loss,
    first_output,
    split_outputs,
)
from morphsearch.training.precision import Choice, choose
from morphsearch.training.progress import Listener, Throttle
from morphsearch.training.recipe import Recipe
from morphsearch.training.schedules import factor

if TYPE_CHECKING:
    from accelerate import Accelerator

    from morphsearch.data import DataSplits, Split

CHECK_EVERY = 20  # batches between looks at whether the loss is finite; each look synchronises with the device
SNAPSHOT_EVERY = 100  # batches between in-memory copies of the state that a divergence falls back to
FEW_BATCHES = 8  # an epoch of fewer full batches keeps its last, smaller one


class Trainer:
    """Trains `model` on ``data.train`` by `recipe`.

    The model is moved to the recipe's device at once, and its weights to the memory format at the first epoch; nothing
    else about it changes. All random numbers of the training come from a stream of its own, seeded by `seed`: dropout
    from torch's generators, the order and augmentation of images from (seed, epoch, batch). A training with
    ``precision="auto"`` or ``channels_last="auto"`` first measures which is quicker (:attr:`choice`); the timing may
    fall out differently on another day, so name both for a run that must repeat to the bit.

    Args:
        no_decay: names of parameters to keep out of weight decay, besides biases and norms.
        penalty: a scalar added to every batch's loss.
        after_step: called after each optimizer step with the number of steps done; :attr:`lr` is that step's rate.
        teacher: a trained network for the same images and classes; the loss is then mixed with the distance to its
            scores (`distill` and `temperature` of the recipe). It is moved to the device, and otherwise unchanged.
        progress: called as ``progress("progress", payload)`` about ten times a second.
        phase: the payload's ``phase``.

    Attributes:
        lr_scale: what the recipe's learning rate is multiplied by; 1 unless the owner lowers it to recover.
        step: optimizer steps done. epoch: epochs done. batch: batches done in the present epoch.

    Raises:
        UsageError: a device that is not there.
        UnknownName: a name in `no_decay` that the model does not have.
        InputError: nothing to train, or nothing to train on.
    """

    def __init__(
        self,
        model: nn.Module,
        data: DataSplits,
        recipe: Recipe,
        *,
        seed: int = 0,
        no_decay: Collection[str] = (),
        penalty: Callable[[], Tensor] | None = None,
        after_step: Callable[[int], None] | None = None,
        teacher: nn.Module | None = None,
        progress: Listener | None = None,
        phase: str = "train",
    ) -> None:
        require_seed(seed)
        self.data, self.recipe, self.seed = data, recipe, seed
        self.penalty, self.after_step, self.phase = penalty, after_step, phase
        if len(data.train) == 0:
            raise InputError("the training split has no images", "training needs images", "check the data")
        self._accelerate = OwnAccelerator(recipe.device, "fp32", recipe.accumulate)
        self.device = self._accelerate.device
        self.model = model.to(self.device)
        self.teacher = teacher.to(self.device) if teacher is not None else None
        self.optimizer = build_optimizer(self.model, recipe, no_decay)
        self.choice: Choice | None = None
        self.lr_scale = 1.0
        self.step = self.epoch = self.batch = 0
        self._stopping = self._in_batch = False
        self._random = states.RandomStream(seed, self.device)
        self._throttle = Throttle(progress)
        self._proven = False  # the model ran on this data
        self._snapshot: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        full, rest = divmod(len(data.train), recipe.batch_size)
        self._drop_last = full >= FEW_BATCHES or (rest == 1 and full > 0)  # batch norm cannot train on one image
        self.batches_per_epoch = data.train.num_batches(recipe.batch_size, drop_last=self._drop_last)
        # A loader of the user's own has a batch size of its own.
        self._batch_images = len(data.train) / self.batches_per_epoch if not self._drop_last else recipe.batch_size
        self.total_batches = max(1, round(recipe.epochs * self.batches_per_epoch))
        whole, part = divmod(self.total_batches, self.batches_per_epoch)
        self.total_steps = whole * math.ceil(self.batches_per_epoch / recipe.accumulate)
        self.total_steps += math.ceil(part / recipe.accumulate)
        self._sums = EpochSums(self.device)

    @property
    def finished(self) -> bool:
        """Whether all epochs of the recipe are done, and their figures given. Training on goes on at the last learning
        rate."""
        return self.epoch * self.batches_per_epoch >= self.total_batches

    @property
    def lr(self) -> float:
        """The learning rate of the latest optimizer step (of the first one, before that)."""
        return self._rate(max(0, self.step - 1))

    def _rate(self, done: int) -> float:
        recipe = self.recipe
        return self.lr_scale * recipe.lr * factor(recipe.schedule, done, self.total_steps, recipe.warmup)

    @property
    def so_far(self) -> EpochStats:
        """The figures of the present epoch up to the latest batch; waits for the device."""
        return self._sums.stats(self.batch)

    @property
    def between_batches(self) -> bool:
        """Whether the state is whole. It is not where a batch was broken off, by a signal for instance."""
        return not self._in_batch

    def stop(self) -> None:
        """From within `on_batch`: end :meth:`train_epoch` after this batch; the next call goes on from there."""
        self._stopping = True

    def adopt(self, model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Go on with another model or optimizer, or with these after they were rewritten in place (live shrinking).

        To be called between batches or in `after_step`; `optimizer` holds parameters of the model.
        """
        self.model = (model if model is not None else self.model).to(self.device)
        self.optimizer = optimizer if optimizer is not None else self.optimizer
        if self.choice is not None and self.choice.channels_last:
            lay_out_channels_last(self.model)
        states.lay_out_optimizer(self.optimizer)
        self._snapshot = None

    def check_finite(self) -> None:
        """Raise DivergedError where the loss or a weight is not finite; see :meth:`train_epoch`."""
        self._check_loss()
        self._check_weights()

    def prepare(self) -> Choice:
        """Settle precision and memory format, once; :meth:`train_epoch` does it by itself."""
        if self.choice is None:
            images = round(self.total_batches * self._batch_images)
            shape, classes = tuple(self.data.shape), self.data.train.num_classes
            self._settle(choose(self.model, self.recipe, shape, classes, self.device, images))
        assert self.choice is not None
        return self.choice

    def train_epoch(self, *, on_batch: Callable[[Trainer], None] | None = None) -> EpochStats:
        """Train to the end of the present epoch; of the whole epoch, also where its start was before an interruption.

        `on_batch` is called after every batch, when the state is whole: it may save :meth:`state`, call :meth:`stop`,
        or raise. After :meth:`stop` the figures are those of the epoch so far.

        Raises:
            DivergedError: the loss or a weight is no longer finite; trainer and model are back in their last good
            state. InputError: the model does not run on this data, or gives no logits for it.
        """
        self.prepare()
        self._stopping = False
        end = self._epoch_end()
        recipe, accelerate = self.recipe, self._accelerate
        with (
            freed_memory_kept(self.device, lambda: self.finished),
            flush_denormals(),
            accelerate.entered() as accelerator,
            self._random.entered(),
        ):
            self._in_batch = False
            self.model.train()
            accelerator.step = self.batch % recipe.accumulate
            if self._snapshot is None or self.batch == 0:
                self._take_snapshot()
            start = time.perf_counter()
            batches = self.data.train.batches(
                recipe.batch_size,
                shuffle_seed=_epoch_seed(self.seed, self.epoch),
                augment=recipe.augment,
                start_batch=self.batch,
                device=self.device,
                drop_last=self._drop_last,
            )
            # A state of after the last batch of an epoch, but before its end, has only the end left to do.
            for images, labels in batches if self.batch < end else ():
                self._in_batch = True
                self._train_batch(accelerator, images, labels, end)
                self._in_batch = False
                checked = self.batch % CHECK_EVERY == 0 or self.batch == end
                if checked:
                    self._check_loss()
                if self.batch < end and (self._snapshot is None or self.batch % SNAPSHOT_EVERY == 0):
                    self._take_snapshot()
                if checked or self.device.type == "cpu":
                    self._report_progress(force=self.batch == end)
                if on_batch is not None:
                    self._sums.seconds += time.perf_counter() - start
                    on_batch(self)
                    start = time.perf_counter()
                if self.batch >= end or self._stopping:
                    break
            self._sums.seconds += time.perf_counter() - start
            stats = self._sums.stats(self.batch)
            if self.batch >= end:
                self._check_weights()
                self.epoch, self.batch = self.epoch + 1, 0
                self._sums = EpochSums(self.device)
            elif not self._stopping:
                raise InputError(
                    f"the training split ended after {self.batch} of {end} batches",
                    f"it says that it has {len(self.data.train)} images, and every epoch has as many",
                    "make len() of the data agree with what it yields",
                )
        return stats

    def check(self) -> None:
        """:func:`~morphsearch.training.evaluation.check_takes`, of the network that is trained."""
        check_takes(self.model, self.data)

    def evaluate(self, split: Split) -> Evaluation:
        """Loss and accuracy of the model on `split` in float32; see :func:`morphsearch.training.evaluate`."""
        return evaluate(self.model, split, batch_size=max(256, self.recipe.batch_size))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that training goes on from, exactly: copies of all tensors, and JSON-ready data.

        Raises:
            DivergedError: the loss or a weight is not finite; such a state is not worth keeping.
            UsageError: a batch was broken off halfway.
        """
        if self._in_batch:
            raise UsageError(
                "the state was asked for in the middle of a batch",
                "a state is whole between batches",
                "ask in on_batch or after train_epoch, or go on from the last saved state",
            )
        self._check_loss()
        self._check_weights()
        return self._copy_state()

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`; on the CPU to the bit as if nothing had happened in between.

        Raises:
            InputError: the state is of another network, optimizer or data set, or is not one.
        """
        states.check_fits(tensors, state, *self._copy_state())
        try:
            self._settle(Choice(**state["choice"]) if state["choice"] else None)
            self._restore(tensors, state)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"the saved state cannot be used: {error}",
                "a state holds all that Trainer.state() gave, unchanged",
                "take a copy that is whole, or start again without it",
            ) from error
        self._snapshot = None

    def _train_batch(self, accelerator: Accelerator, images: Tensor, labels: Tensor, end: int) -> None:
        accumulate = self.recipe.accumulate
        assert self.choice is not None
        images = in_format(images, self.choice.channels_last)
        with accelerator.accumulate(self.model):
            first = self.batch - self.batch % accumulate
            group = min(accumulate, end - first)  # batches in this optimizer step: fewer at the end of an epoch
            if self.batch == end - 1:
                accelerator.sync_gradients = True
            norms = partial(quick_norms, self.device, self.choice.channels_last)
            with norms(), accelerator.autocast():
                output = self.model(images) if self._proven else first_output(self.model, images)
            if not self._proven:
                check_logits(split_outputs(output)[0], len(labels), self.data.train.num_classes)
            loss, logits = classification_loss(output, labels, self.recipe.label_smoothing)
            if not self._proven:
                check_learns(self.model, loss)
                self._proven = True
            if self.teacher is not None:
                loss = self._distilled(accelerator, self.teacher, images, loss, logits)
            penalty = self.penalty() if self.penalty is not None else None
            total = loss if penalty is None else loss + penalty
            with norms():  # activation checkpoints run forward again
                accelerator.backward(total if group == accumulate else total * (accumulate / group))
            if accelerator.sync_gradients:
                self._optimizer_step(accelerator)
        self._sums.add(loss, logits, labels, penalty)
        self.batch += 1

    def _optimizer_step(self, accelerator: Accelerator) -> None:
        recipe = self.recipe
        rate = self._rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if recipe.clip_norm is not None:
            accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.after_step is not None:
            self.after_step(self.step)

    def _distilled(
        self, accelerator: Accelerator, teacher: nn.Module, images: Tensor, loss: Tensor, logits: Tensor
    ) -> Tensor:
        with evaluating(teacher), torch.no_grad(), accelerator.autocast():
            wanted = split_outputs(teacher(images))[0]
        share = self.recipe.distill
        return (1 - share) * loss + share * distillation_loss(logits, wanted, self.recipe.temperature)

    def _epoch_end(self) -> int:
        """Batches in the present epoch; the last epoch of a fractional number is shorter."""
        left = self.total_batches - self.epoch * self.batches_per_epoch
        return self.batches_per_epoch if left <= 0 else min(left, self.batches_per_epoch)

    def _settle(self, choice: Choice | None) -> None:
        self.choice = choice
        if choice is None:
            return
        if choice.channels_last:
            lay_out_channels_last(self.model)
        self._accelerate = OwnAccelerator(self.recipe.device, choice.precision, self.recipe.accumulate)

    def _report_progress(self, *, force: bool) -> None:
        if self._throttle.due(force=force):
            size, stats = self._batch_images, self._sums.stats(self.batch)
            self._throttle.send(
                {
                    "phase": self.phase,
                    "done": round((self.epoch * self.batches_per_epoch + self.batch) * size),
                    "total": round(self.total_batches * size),
                    "unit": "images",
                    "loss": stats.loss,
                    "accuracy": stats.accuracy,
                }
            )

    def _check_loss(self) -> None:
        if not self._sums.is_finite():
            self._diverged("the loss")

    def _check_weights(self) -> None:
        if not all_finite(self.model.parameters()):
            self._diverged("a weight")

    def _diverged(self, what: str) -> None:
        at = f"step {self.step}, epoch {self.epoch + 1}"
        kept = "no earlier state is in memory, go on from a saved one"
        if self._snapshot is not None:
            self._restore(*self._snapshot)
            kept = f"the state of step {self.step} is kept"
        recipe = self.recipe
        advice = [f"a lower learning rate (lr={recipe.lr / 3:.2g} instead of {recipe.lr:g})"]
        advice.append(f"a longer warm-up (warmup={min(0.5, max(0.1, 2 * recipe.warmup)):g})")
        if recipe.clip_norm is None:
            advice.append("clipping (clip_norm=1)")
        if self.choice is not None and self.choice.precision != "fp32":
            advice.append("full precision (precision='fp32')")
        raise DivergedError(
            f"training diverged: {what} is not finite at {at}",
            f"loss and weights must stay finite; {kept}",
            f"try {', '.join(advice[:-1])} or {advice[-1]}",
        )

    def _take_snapshot(self) -> None:
        self._check_loss()
        self._check_weights()
        self._snapshot = None  # frees the former one first
        self._snapshot = self._copy_state()

    def _copy_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        optimizer_tensors, optimizer_values = states.optimizer_tensors(self.model, self.optimizer)
        tensors = {
            **states.model_tensors(self.model),
            **optimizer_tensors,
            **states.gradient_tensors(self.model),
            **self._random.tensors,
            **self._sums.tensors,
        }
        state = {
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "images": self._sums.images,
            "seconds": self._sums.seconds,
            "seed": self.seed,
            "recipe": self.recipe.to_dict(),
            "train_images": len(self.data.train),
            "choice": self.choice.to_dict() if self.choice is not None else None,
            "optimizer": optimizer_values,
            "lr_scale": self.lr_scale,
        }
        return {name: value.detach().clone() for name, value in tensors.items()}, state

    def _restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        states.load_model_tensors(self.model, tensors)
        states.load_optimizer_tensors(self.model, self.optimizer, tensors, state["optimizer"])
        states.load_gradient_tensors(self.model, tensors)
        self._random.load(tensors)
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        self.lr_scale = float(state.get("lr_scale", 1.0))
        self._sums = EpochSums(self.device)
        self._sums.load(tensors, state["images"], state["seconds"])
        self._in_batch = False


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed & 0xFFFFFFFFFFFFFFFF, epoch]).generate_state(1)[0])
