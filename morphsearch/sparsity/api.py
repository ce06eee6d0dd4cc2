"""``ms.sparsify``: a sparse network in one call, from the caller's network and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from morphsearch.arguments import named_arguments, require, require_module
from morphsearch.data import as_splits
from morphsearch.loop.checks import check_arguments, check_batches, check_options, check_resume
from morphsearch.loop.config import batch_size_for
from morphsearch.loop.rundir import RunDirectory
from morphsearch.sparsity.config import EPOCHS, length_and_device, masked_recipe
from morphsearch.sparsity.results import SparsifyResult
from morphsearch.sparsity.run import KIND, versions
from morphsearch.sparsity.runner import Runner
from morphsearch.sparsity.schedule import Schedule
from morphsearch.sparsity.sparsifier import Sparsifier
from morphsearch.sparsity.values import percent, table
from morphsearch.training import Trainer


@named_arguments
def sparsify(
    model: nn.Module,
    train_data: Any,
    val_data: Any = None,
    test_data: Any = None,
    *,
    target: float | str | None = None,
    schedule: Schedule | str | None = None,
    epochs: float = EPOCHS,
    run_dir: str | Path | None = None,
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    listener: Callable[[str, dict[str, Any]], None] | None = None,
    **options: Any,
) -> SparsifyResult:
    """Train `model` while its least weights become zero.

    Args:
        model: a classifier, `n x c x h x w` to `n x classes`, with fresh or trained weights; trained in place.
        train_data, val_data, test_data: whatever :func:`morphsearch.data.as_splits` takes.
        target: final sparsity, ``0.7`` or ``"70%"``; or ``nm="2:4"``; or a `schedule` that says it.
        schedule: a :class:`~morphsearch.sparsity.schedule.Schedule`; or, beside a target, ``"polynomial"`` or
            ``"constant"``.
        run_dir: where everything is saved; None saves nothing.
        recipe: fields of :class:`morphsearch.training.Recipe` that differ from its defaults. Trained weights want a
            lower rate than its 0.1: 0.02 and less.
        resume: go on with the run in `run_dir`, given the same arguments.
        listener: hears progress, see ``morphsearch.report.progress``.
        options: further arguments of :class:`~morphsearch.sparsity.sparsifier.Sparsifier`.

    Raises:
        MorphError: see :class:`~morphsearch.sparsity.sparsifier.Sparsifier`; StoppedError after an interrupt, once all
            is saved; DivergedError for a loss that is not finite.
    """
    require_module(model)
    check_options(options, Sparsifier, ("model", "steps"))
    check_arguments(seed=seed)
    require(isinstance(resume, bool), "resume", resume, "true or false", "write resume=True, or leave it out")
    hears = listener is None or callable(listener)
    require(
        hears, "listener", listener, "a function of a kind and its values", "write def listener(kind, payload): ..."
    )
    given = table(recipe, "recipe", "recipe fields", '{"lr": 0.02}')
    check_resume(resume, run_dir)
    if run_dir is not None and not resume:
        RunDirectory(run_dir).refuse_existing(python=True)
    data = as_splits(train_data, val_data, test_data)
    check_batches(data, given)
    base = {"batch_size": batch_size_for(len(data.train))}
    training = masked_recipe({**base, **given, **length_and_device(given, epochs, device)})
    trainer = Trainer(model, data, training, seed=seed, progress=listener, phase=KIND)
    trainer.check()
    sparsifier = Sparsifier(model, target, schedule=schedule, steps=trainer.total_steps, **options)
    run = None
    if run_dir is not None:
        run = RunDirectory(run_dir)
        asked = {
            "kind": KIND,
            "seed_spec": None,
            "strategy": sparsifier.criterion.name,
            "budgets": [{"text": f"sparsity={percent(sparsifier.schedule.final)}", "metric": "sparsity"}],
            "settings": sparsifier.settings(),
            "recipe": training.to_dict(),
            "seed": seed,
            "data": data.record,
            "versions": versions(),
        }
        if resume and run.exists():
            run.require_same(asked)
        else:
            run = RunDirectory.create(run_dir, asked, python=True)
    again = "ms.sparsify(..., resume=True) with the same arguments goes on"
    return Runner(trainer, sparsifier, data, run, listener, judge_start=True, again=again).go()
