"""Whole searches: plan, start, resume. The run directory is the record, and all that a resumed run needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from morphsearch.data import DataSplits, check_model_input
from morphsearch.data import load as load_data
from morphsearch.errors import InputError, MorphError, UsageError
from morphsearch.graph import record
from morphsearch.loop.budget import Budgets
from morphsearch.loop.checks import check_useful, judges, require_convolutions
from morphsearch.loop.config import SearchConfig, kept_for_retraining, schedule_note
from morphsearch.loop.deciding import by_network
from morphsearch.loop.hardware import hardware_for
from morphsearch.loop.results import Plan, SearchResult
from morphsearch.loop.rundir import RunDirectory
from morphsearch.loop.runner import Listener, Runner, silent
from morphsearch.loop.schema import REPAIR, line_of
from morphsearch.loop.session import Search
from morphsearch.models import Seed, build_seed
from morphsearch.strategies.registry import get as get_strategy
from morphsearch.training import Trainer
from morphsearch.training.evaluation import check_takes

__all__ = ["Listener", "Plan", "SearchResult", "data_of", "plan", "recorded_config", "resume", "start", "status"]


def data_of(config: SearchConfig) -> DataSplits:
    """The data that a configuration names."""
    image = config.input if config.input is not None and len(config.input) == 4 else None
    return load_data(
        config.data,
        seed=config.seed,
        val_fraction=config.val_fraction,
        image_size=(image[2], image[3]) if image else None,
        channels=image[1] if image and image[1] in (1, 3) else None,
        allow_code=config.allow_code,
    )


def settled(config: SearchConfig, data: DataSplits) -> SearchConfig:
    """The configuration with what it leaves to the data: strategy and length."""
    return config.settled(len(data.train))


def seed_of(config: SearchConfig, data: DataSplits) -> tuple[Seed, torch.Tensor]:
    """The seed that a configuration names, its weights drawn by the configuration's seed, and example inputs."""
    shape = config.input or (1, *data.shape)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        seed = build_seed(
            config.model, num_classes=data.num_classes, input_shape=shape[1:], allow_code=config.allow_code
        )
    check_model_input(data, shape)
    return seed, torch.zeros(shape)


def plan(config: SearchConfig, *, data: DataSplits | None = None) -> Plan:
    """What ``start`` would do, without writing or training; an impossible budget is shown, not raised.

    Args:
        data: what :func:`data_of` gave for this configuration, where it is loaded already.

    Raises:
        MorphError: whatever :func:`start` would raise before it trains, but for BudgetError.
    """
    data = data if data is not None else data_of(config)
    config = settled(config, data)
    seed, example = seed_of(config, data)
    graph = record(seed.model, example)
    require_convolutions(graph)
    hardware = hardware_for(config.budget, config.hardware, None)
    budgets = Budgets(graph, config.budget, round_to=config.round_to, hardware=hardware)
    name = by_network(config.strategy, graph, config.strength)
    strategy = get_strategy(name, **config.strategy_options)
    unused = check_useful(
        strategy,
        config.strategy_options,
        strength=config.strength,
        threshold=config.threshold,
        shrink_to=config.shrink_to,
        steps=config.steps,
        expand=config.expand,
    )
    strategy.attach(seed.model, graph)
    rows = budgets.rows()
    if all(row.satisfiable for row in rows):
        budgets.check(expand=config.expand)
    check_takes(seed.model, data)
    steps, notes = None, [*data.notes, *budgets.notes, *strategy.notes, *unused, *kept_for_retraining(config.recipe)]
    if strategy.needs_training or judges(strategy):
        steps = Trainer(seed.model, data, config.training(len(data.train)), seed=config.seed).total_steps
    if config.steps is not None and steps is not None and strategy.needs_training:
        notes.append(schedule_note(config.steps, steps))
    return Plan(
        model=seed.spec,
        data=config.data,
        strategy=name,
        widths=graph.widths,
        costs={name: (total, budgets.unit(name)) for name, total in budgets.seed_costs.items()},
        budgets=rows,
        groups=[
            {"name": g.name, "width": g.width, "floor": g.floor, "frozen": g.frozen, "layers": list(g.layers)}
            for g in graph.groups.values()
        ],
        steps=steps,
        notes=notes,
    )


def start(
    config: SearchConfig, run_dir: str | Path, *, listener: Listener | None = None, data: DataSplits | None = None
) -> SearchResult:
    """Run a whole search, saving everything under `run_dir`; `data` as for :func:`plan`.

    Raises:
        UsageError: `run_dir` holds a run already. BudgetError: no widths meet the budget.
        StoppedError: interrupted, after a checkpoint. DivergedError: the loss is not finite.
    """
    RunDirectory(run_dir).refuse_existing()  # before anything is loaded
    return _runner(config, run_dir, listener, resume=False, data=data).go()


def resume(run_dir: str | Path, *, listener: Listener | None = None, allow_code: bool = False) -> SearchResult:
    """Go on with a run where its last checkpoint left it; it ends as it would have without the interruption.

    Raises:
        InputError: no run there, or a damaged one.
        UsageError: the run was started from Python with objects that no file can name; or it needs `allow_code`.
    """
    config = recorded_config(RunDirectory.open(run_dir), allow_code=allow_code)
    if config is None:
        raise UsageError(
            f"{run_dir} was started from Python, with a network or data that no file can name",
            "such a run is resumed where it was started",
            "call ms.search(..., run_dir=..., resume=True) with the same network and data",
        )
    return _runner(config, run_dir, listener, resume=True).go()


def recorded_config(run: RunDirectory, *, allow_code: bool) -> SearchConfig | None:
    """What ``run.json`` was asked for; None for runs that were started on objects.

    Raises:
        InputError: its configuration is damaged; the message names the field and the line.
    """
    recorded = run.asked().get("config")
    if not recorded:
        return None
    try:
        return replace(SearchConfig.from_dict(recorded), allow_code=allow_code)
    except MorphError as error:
        name = next((key for key in recorded if key in error.arrived), "config")
        raise InputError(f"{run.record}{line_of(run.record, name)}: {error.arrived}", error.rule, REPAIR) from error


def _runner(
    config: SearchConfig,
    run_dir: str | Path,
    listener: Listener | None,
    *,
    resume: bool,
    data: DataSplits | None = None,
) -> Runner:
    data = data if data is not None else data_of(config)
    config = settled(config, data)
    for note in data.notes:
        (listener or silent)("note", {"text": note})
    seed, example = seed_of(config, data)
    recorded: dict[str, Any] = {"config": config.to_dict(), "data": data.record}
    search = Search(
        seed.model,
        example,
        config.budget,
        strategy=config.strategy,
        run_dir=run_dir,
        steps=config.steps,
        strength=config.strength,
        threshold=config.threshold,
        shrink_to=config.shrink_to,
        expand=config.expand,
        live=config.live,
        round_to=config.round_to,
        seed=config.seed,
        seed_spec=seed.spec,
        strategy_options=config.strategy_options,
        hardware=config.hardware,
        record_extra=recorded,
        resume=resume,
    )
    return Runner(search, data, config.training(len(data.train)), config.morphs, config.seed, listener)


def status(run_dir: str | Path) -> dict[str, Any]:
    """The state of a run, and what it has found.

    ``state`` is "complete", "interrupted" (stopped by its user), "running" (or killed: nobody can tell from files), or
    "damaged", with ``error``.
    """
    run = RunDirectory(run_dir)
    try:
        asked, found, result, events = run.asked(), run.architectures(), run.result(), run.events()
    except MorphError as error:
        return {"path": str(run_dir), "state": "damaged", "error": error.arrived}
    stopped = bool(events) and events[-1].get("event") == "interrupted"
    config, data = asked.get("config") or {}, asked.get("data") or {}
    return {
        "path": str(run_dir),
        "state": "complete" if result is not None else "interrupted" if stopped else "running",
        "seed_spec": asked.get("seed_spec"),
        "data": config.get("data") or (data.get("name") if isinstance(data, dict) else str(data)),
        "budgets": [budget["text"] for budget in asked.get("budgets", [])],
        "strategy": asked.get("strategy"),
        "iterations": len(found),
        "asked": config.get("iterations") or asked.get("iterations"),
        "best": (result or {}).get("best"),
        "costs": found[-1].totals if found else {},
    }
