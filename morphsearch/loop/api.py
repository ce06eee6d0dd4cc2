"""``ms.search``: a whole search in one call, on the caller's network and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from morphsearch.arguments import named_arguments
from morphsearch.data import as_splits, check_model_input
from morphsearch.errors import UsageError
from morphsearch.loop.checks import check_batches, check_kinds, check_options, check_resume
from morphsearch.loop.config import kept_for_retraining, number_of_morphs, steps_of, training_of
from morphsearch.loop.deciding import AUTO, by_budget, by_data, wants_of
from morphsearch.loop.results import SearchResult
from morphsearch.loop.runner import Runner, silent
from morphsearch.loop.session import Search


@named_arguments
def search(
    model: nn.Module,
    train_data: Any,
    val_data: Any = None,
    *,
    budget: str | Sequence[str],
    iterations: int | None = None,
    epochs: float | None = None,
    run_dir: str | Path | None = None,
    strategy: str = AUTO,
    example_inputs: Any = None,
    seed: int = 0,
    device: str = "auto",
    recipe: Mapping[str, Any] | None = None,
    resume: bool = False,
    listener: Callable[[str, dict[str, Any]], None] | None = None,
    **options: Any,
) -> SearchResult:
    """Train under the budget's pressure, shrink, expand, and again.

    Args:
        model: the seed, a classifier: `n x c x h x w` to `n x classes`.
        train_data, val_data: whatever :func:`morphsearch.data.as_splits` takes: a DataSplits, tensors ``(x, y)``, a
            Dataset or a DataLoader; without `val_data` a part of the training data is carved out.
        budget: one or several, or a falling schedule (``"flops=80%,65%,50%"``).
        iterations: morphs; default the strategy's (mostly 2), or one for each budget of a schedule.
        epochs: of training before each; default: as many steps as the strategy wants, 1 to 50 epochs.
        strategy: a name; ``"auto"`` decides by budget, data and network, see :mod:`morphsearch.loop.deciding`.
        run_dir: where everything is saved; None saves nothing.
        example_inputs: default: one zero image of the data's shape.
        recipe: fields of :class:`morphsearch.training.Recipe` that differ from the search's defaults.
        resume: go on with the run in `run_dir`, given the same arguments.
        listener: hears progress, see ``morphsearch.report.progress``.
        options: further arguments of :class:`morphsearch.loop.session.Search`.

    Returns:
        The architectures found, and the network that the last of them is now.

    Raises:
        MorphError: see :class:`~morphsearch.loop.session.Search`; StoppedError after an interrupt, once all is saved.
    """
    given = {key: options[key] for key in ("strategy_options", "record_extra") if key in options}
    check_kinds(budget=budget, strategy=strategy, recipe=recipe, run_dir=run_dir, listener=listener, **given)
    check_options(options, Search, ("model", "example_inputs"))
    if iterations is not None and (not isinstance(iterations, int) or isinstance(iterations, bool) or iterations < 1):
        raise UsageError(f"iterations={iterations!r}", "a search makes one morph or more", "use 1 or 2")
    budgets = [budget] if isinstance(budget, str) else list(budget)
    asked = {**options, "iterations": iterations}
    strategy = by_budget(strategy, budgets, asked)
    number_of_morphs(iterations, budgets)  # a wrong number is told before the data are looked at
    check_resume(resume, run_dir)
    data = as_splits(train_data, val_data)
    check_batches(data, recipe or {})
    for note in [*data.notes, *kept_for_retraining(recipe or {})]:
        (listener or silent)("note", {"text": note})
    images = len(data.train)
    tried = training_of("trials", images, dict(recipe or {}), epochs, device)
    strategy = by_data(strategy, budgets, asked, steps_of(tried, images))
    iterations = number_of_morphs(iterations, budgets, wants_of(strategy).iterations)
    example = torch.zeros((1, *data.shape)) if example_inputs is None else example_inputs
    if example_inputs is None:
        check_model_input(data, (1, *data.shape))
    training = training_of(strategy, images, dict(recipe or {}), epochs, device)
    extra = {"data": data.record, "recipe": training.to_dict(), "iterations": iterations}
    session = Search(
        model,
        example,
        budget,
        strategy=strategy,
        run_dir=run_dir,
        seed=seed,
        record_extra={**extra, **dict(options.pop("record_extra", None) or {})},
        resume=resume,
        **options,
    )
    return Runner(session, data, training, iterations, seed, listener).go()
