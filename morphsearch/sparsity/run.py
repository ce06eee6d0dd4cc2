"""Whole sparsifications from a configuration: plan, start, resume. The run directory is the record."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from morphsearch.data import DataSplits
from morphsearch.errors import InputError, MorphError, UsageError
from morphsearch.loop.architecture import FILE, Architecture
from morphsearch.loop.rundir import RunDirectory
from morphsearch.loop.schema import REPAIR, line_of
from morphsearch.sparsity.config import FRESH, SparsifyConfig
from morphsearch.sparsity.measure import report_of
from morphsearch.sparsity.results import SparsifyPlan, SparsifyResult
from morphsearch.sparsity.runner import Listener, Runner, silent
from morphsearch.sparsity.source import Source, architecture_of, data_of, seed_as_it_is, source_of, untrained
from morphsearch.sparsity.sparsifier import Sparsifier
from morphsearch.training import Trainer

KIND = "sparsify"


def load_data(config: SparsifyConfig) -> DataSplits:
    """The data that a configuration names."""
    return data_of(config, architecture_of(config.model))


def plan(config: SparsifyConfig, *, data: DataSplits | None = None) -> SparsifyPlan:
    """What :func:`start` would do, without writing or training.

    Raises:
        MorphError: whatever :func:`start` would raise before it trains.
    """
    architecture = architecture_of(config.model)
    data = data if data is not None else data_of(config, architecture)
    source = source_of(config, data, architecture)
    trainer, sparsifier = _made(config, data, source)
    report = report_of(
        source.model, sparsifier.weights, sparsifier.scale * sparsifier.timetable.final, sparsifier.before
    )
    return SparsifyPlan(
        model=config.model,
        data=config.data,
        steps=trainer.total_steps,
        timetable=sparsifier.timetable,
        updates=sparsifier.timetable.updates,
        rows=report.rows,
        before=report.before,
        notes=[*data.notes, *untrained(config.weights, architecture)],
    )


def start(
    config: SparsifyConfig, run_dir: str | Path, *, listener: Listener | None = None, data: DataSplits | None = None
) -> SparsifyResult:
    """Train under masks, saving everything under `run_dir`; `data` as for :func:`plan`.

    Raises:
        UsageError: `run_dir` holds a run already, or arguments that do not fit the network.
        StoppedError: interrupted, after a checkpoint. DivergedError: the loss is not finite.
    """
    run = RunDirectory(run_dir)
    run.refuse_existing()  # before anything is loaded
    architecture = architecture_of(config.model)
    data = data if data is not None else data_of(config, architecture)
    source = source_of(config, data, architecture)
    # A copy of its own, so that the folder says what its weights fit; a seed is recorded before it goes to a device.
    shape = config.input or (1, *data.shape)
    copy = replace(architecture) if architecture is not None else seed_as_it_is(source, shape)
    trainer, sparsifier = _made(config, data, source, listener)
    if copy is not None:
        copy.save(run.path / FILE)
    try:
        run = RunDirectory.create(run_dir, _asked(config, source, data))
    except InputError as error:
        run.new = True
        run.discard_unbegun(error)
        raise
    for note in untrained(config.weights, architecture):
        (listener or silent)("note", {"text": note})
    return _runner(config, trainer, sparsifier, data, run, listener).go()


def resume(run_dir: str | Path, *, listener: Listener | None = None, allow_code: bool = False) -> SparsifyResult:
    """Go on where the last checkpoint left it; it ends as it would have without the interruption.

    Raises:
        InputError: no such run there, or a damaged one.
        UsageError: it was started from Python with objects that no file can name; or it needs `allow_code`.
    """
    run = RunDirectory.open(run_dir)
    config = recorded_config(run, allow_code=allow_code)
    copy = run.path / FILE
    searched = run.asked().get("architecture") is not None  # and no seed, which is built as it was
    architecture = Architecture.load(copy) if searched and copy.is_file() else None
    data = data_of(config, architecture)
    if run.result() is not None or (run.checkpoint / "state.json").is_file():
        # Its weights are in the run by now; the file that it began with need not be there any more.
        source = source_of(replace(config, weights=FRESH), data, architecture)
    else:
        source = source_of(config, data, architecture if architecture is None else architecture_of(config.model))
    trainer, sparsifier = _made(config, data, source, listener)
    return _runner(config, trainer, sparsifier, data, run, listener).go()


def is_sparsification(run_dir: str | Path) -> bool:
    """Whether a run directory is one of ours.

    Raises:
        InputError: no run there, or a damaged one.
    """
    return RunDirectory.open(run_dir).asked().get("kind") == KIND


def recorded_config(run: RunDirectory, *, allow_code: bool) -> SparsifyConfig:
    """What ``run.json`` was asked for.

    Raises:
        InputError: damaged; the message names the field and the line. UsageError: a run on objects.
    """
    recorded = run.asked().get("sparsify")
    if not isinstance(recorded, dict):
        raise UsageError(
            f"{run.path} was started from Python, with a network or data that no file can name",
            "such a run is resumed where it was started",
            "call ms.sparsify(..., run_dir=..., resume=True) with the same network and data",
        )
    try:
        return replace(SparsifyConfig.from_dict(recorded), allow_code=allow_code)
    except (MorphError, TypeError) as error:
        arrived = error.arrived if isinstance(error, MorphError) else str(error)
        rule = error.rule if isinstance(error, MorphError) else ""
        name = next((key for key in recorded if key in arrived), "sparsify")
        raise InputError(f"{run.record}{line_of(run.record, name)}: {arrived}", rule, REPAIR) from error


def versions() -> dict[str, str]:
    """Of what computes."""
    return {"python": platform.python_version(), "torch": torch.__version__}


def _made(
    config: SparsifyConfig, data: DataSplits, source: Source, listener: Listener | None = None
) -> tuple[Trainer, Sparsifier]:
    recipe = config.training(len(data.train))
    trainer = Trainer(source.model, data, recipe, seed=config.seed, progress=listener, phase=KIND)
    trainer.check()
    return trainer, Sparsifier(trainer.model, steps=trainer.total_steps, **config.options())


def _runner(
    config: SparsifyConfig,
    trainer: Trainer,
    sparsifier: Sparsifier,
    data: DataSplits,
    run: RunDirectory,
    listener: Listener | None,
) -> Runner:
    for note in data.notes:
        (listener or silent)("note", {"text": note})
    again = f"morphsearch resume {run.path}{' --allow-code' if config.allow_code else ''}"
    return Runner(trainer, sparsifier, data, run, listener, judge_start=config.weights != FRESH, again=again)


def _asked(config: SparsifyConfig, source: Source, data: DataSplits) -> dict[str, Any]:
    return {
        "kind": KIND,
        "seed_spec": source.spec,
        "strategy": config.strategy,
        "budgets": [{"text": config.asked, "metric": "sparsity"}],
        "sparsify": config.to_dict(),
        "architecture": source.architecture.name if source.architecture is not None else None,
        "weights": str(source.weights) if source.weights is not None else None,
        "data": data.record,
        "versions": versions(),
    }
