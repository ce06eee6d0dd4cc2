"""Whole searches: plan, start, resume. The run directory is the record, and all that a resumed run needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from morphsearch import plugins
from morphsearch.data import DataSplits, check_model_input
from morphsearch.data import load as load_data
from morphsearch.errors import MorphError, StoppedError, UsageError
from morphsearch.loop.architecture import Architecture
from morphsearch.loop.budget import BudgetRow
from morphsearch.loop.config import SearchConfig
from morphsearch.loop.rundir import RunDirectory
from morphsearch.loop.session import Search
from morphsearch.models import Seed, build_seed
from morphsearch.training import (
    Recipe,
    Trainer,
    deferred_interrupts,
    evaluate,
    load_checkpoint,
    reestimate_batchnorm,
    save_checkpoint,
)

if TYPE_CHECKING:
    import pandas as pd

Listener = Callable[[str, dict[str, Any]], None]
CHECKPOINT_SECONDS = 60.0


def silent(kind: str, payload: dict[str, Any]) -> None:
    """A listener that hears nothing."""


@dataclass
class Plan:
    """What a search would do; nothing is written."""

    model: str
    data: str
    strategy: str
    widths: dict[str, int]
    costs: dict[str, tuple[float, str]]
    budgets: list[BudgetRow]
    groups: list[dict[str, Any]]
    steps: int | None
    notes: list[str] = field(default_factory=list)

    @property
    def satisfiable(self) -> bool:
        """Whether every budget can be met."""
        return all(row.satisfiable for row in self.budgets)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "satisfiable": self.satisfiable}


@dataclass
class SearchResult:
    """What a search found.

    Attributes:
        architectures: in the order they were found. best: the one that did best on the validation part.
        run_dir: where everything lies. summary: what ``result.json`` holds.
    """

    architectures: list[Architecture]
    best: Architecture
    run_dir: Path | None
    summary: dict[str, Any]
    model: nn.Module | None = field(default=None, repr=False)

    def to_dataframe(self) -> pd.DataFrame:
        """One row an architecture: costs, metrics, multiplier and all widths. Needs pandas."""
        try:
            import pandas as pd
        except ImportError as error:
            raise UsageError("pandas is not installed", "to_dataframe needs it", "pip install pandas") from error
        rows = []
        for one in self.architectures:
            costs = {name: entry["total"] for name, entry in one.costs.items()}
            widths = {f"width:{name}": width for name, width in one.widths.items()}
            rows.append({"name": one.name, **costs, **one.metrics, "multiplier": one.multiplier, **widths})
        return pd.DataFrame(rows)


# -- from a configuration ----------------------------------------------------------------------------------------------


def _data(config: SearchConfig) -> DataSplits:
    size = config.input[-2:] if config.input is not None and len(config.input) == 4 else None
    return load_data(
        config.data,
        seed=config.seed,
        val_fraction=config.val_fraction,
        image_size=(size[0], size[1]) if size else None,
        allow_code=config.allow_code,
    )


def _seed(config: SearchConfig, data: DataSplits) -> tuple[Seed, torch.Tensor]:
    shape = config.input or (1, *data.shape)
    torch.manual_seed(config.seed)
    seed = build_seed(config.model, num_classes=data.num_classes, input_shape=shape[1:], allow_code=config.allow_code)
    check_model_input(data, shape)
    return seed, torch.zeros(shape)


def _session(config: SearchConfig, seed: Seed, example: torch.Tensor, data: DataSplits, **options: Any) -> Search:
    return Search(
        seed.model,
        example,
        config.budget,
        strategy=config.strategy,
        steps=config.steps,
        strength=config.strength,
        threshold=config.threshold,
        shrink_to=config.shrink_to,
        expand=config.expand,
        round_to=config.round_to,
        seed=config.seed,
        seed_spec=seed.spec,
        strategy_options=config.strategy_options,
        record_extra={"config": config.to_dict(), "data": data.record},
        **options,
    )


def plan(config: SearchConfig) -> Plan:
    """What ``start`` would do, without writing or training; an impossible budget is shown, not raised."""
    from morphsearch.graph import record
    from morphsearch.loop.budget import Budgets
    from morphsearch.loop.session import require_convolutions
    from morphsearch.strategies.registry import get as get_strategy

    data = _data(config)
    seed, example = _seed(config, data)
    graph = record(seed.model, example)
    require_convolutions(graph)
    budgets = Budgets(graph, config.budget, round_to=config.round_to)
    strategy = get_strategy(config.strategy, **config.strategy_options)
    strategy.attach(seed.model, graph)
    rows = budgets.rows()
    if all(row.satisfiable for row in rows):
        budgets.check(expand=config.expand)
    steps = Trainer(seed.model, data, config.training(), seed=config.seed).total_steps if strategy.needs_training else None
    groups = [
        {"name": g.name, "width": g.width, "floor": g.floor, "frozen": g.frozen, "layers": list(g.layers)}
        for g in graph.groups.values()
    ]
    costs = {name: (total, budgets.unit(name)) for name, total in budgets.seed_costs.items()}
    notes = [*data.notes, *strategy.notes]
    return Plan(seed.spec, config.data, config.strategy, graph.widths, costs, rows, groups, config.steps or steps, notes)


def start(config: SearchConfig, run_dir: str | Path, *, listener: Listener | None = None) -> SearchResult:
    """Run a whole search, saving everything under `run_dir`.

    Raises:
        UsageError: `run_dir` holds a run already. BudgetError: no widths meet the budget.
        StoppedError: interrupted, after a checkpoint. DivergedError: the loss is not finite.
    """
    hear = listener or silent
    if RunDirectory(run_dir).exists():
        RunDirectory.create(run_dir, {})  # raises, before anything is loaded
    data = _data(config)
    for note in data.notes:
        hear("note", {"text": note})
    seed, example = _seed(config, data)
    search = _session(config, seed, example, data, run_dir=run_dir)
    return _Run(search, data, config.training(), config.iterations, config.seed, hear).go()


def resume(run_dir: str | Path, *, listener: Listener | None = None, allow_code: bool = False) -> SearchResult:
    """Go on with a run where its last checkpoint left it; it ends as it would have without the interruption.

    Raises:
        InputError: no run there, or a damaged one.
        UsageError: the run was started from Python with objects that no file can name; or it needs `allow_code`.
    """
    run = RunDirectory.open(run_dir)
    asked = run.asked()
    if not asked.get("config"):
        raise UsageError(
            f"{run_dir} was started from Python, with a network or data that no file can name",
            "such a run is resumed where it was started",
            "call ms.search(..., run_dir=..., resume=True) with the same network and data",
        )
    config = replace(SearchConfig.from_dict(asked["config"]), allow_code=allow_code)
    data = _data(config)
    seed, example = _seed(config, data)
    search = _session(config, seed, example, data, run_dir=run_dir, _create=False)
    return _Run(search, data, config.training(), config.iterations, config.seed, listener or silent).go()


# -- the loop ----------------------------------------------------------------------------------------------------------


class _Run:
    """Trains, morphs, saves; goes on from whatever the run directory holds."""

    def __init__(
        self, search: Search, data: DataSplits, recipe: Recipe, iterations: int, seed: int, listener: Listener
    ) -> None:
        self.search, self.data, self.recipe = search, data, recipe
        self.iterations, self.seed, self.hear = iterations, seed, listener
        self.steps = search.steps

    def go(self) -> SearchResult:
        """Everything that is still to do."""
        saved = self._catch_up()
        device = "cpu"
        while len(self.search.architectures) < self.iterations:
            number = len(self.search.architectures) + 1
            if self.search.strategy.needs_training:
                trainer = self._trainer(number)
                device = str(trainer.device)
                if saved is not None and saved[1]["iteration"] == number:
                    self._load(trainer, *saved)
                saved = None
                self._train(trainer, number)
            architecture = self.search.morph(lambda model: self._judge(model, device))
            self._tell(architecture)
        return self._result()

    def _catch_up(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        run = self.search.run
        if run is None:
            return None
        done = run.architectures()
        for architecture in done:
            self.search.advance(architecture)
        if done:
            self.search.model.load_state_dict(done[-1].weights())
        return load_checkpoint(run.checkpoint)

    def _trainer(self, number: int) -> Trainer:
        search = self.search
        trainer = Trainer(
            search.model,
            self.data,
            self.recipe,
            seed=self.seed + 1000 * number,
            no_decay=search.regularized(),
            penalty=search.penalty,
            after_step=lambda step: search.step(trainer.lr),
            progress=self._progress(number),
            phase=f"morph {number}/{self.iterations}",
        )
        search.controller.steps = min(self.steps or trainer.total_steps, trainer.total_steps)
        return trainer

    def _progress(self, number: int) -> Listener:
        def report(kind: str, payload: dict[str, Any]) -> None:
            self.hear(kind, {**payload, "strength": self.search.strength})

        return report

    def _load(self, trainer: Trainer, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        trainer.load_state(part("trainer."), state["trainer"])
        self.search.load_state(part("search."), state["search"])
        self.hear("note", {"text": f"Going on with morph {state['iteration']} at step {trainer.step}."})

    def _train(self, trainer: Trainer, number: int) -> None:
        import time

        last = time.monotonic()
        with deferred_interrupts() as interrupt:

            def on_batch(trainer: Trainer) -> None:
                nonlocal last
                interrupt.check()
                if time.monotonic() - last > CHECKPOINT_SECONDS:
                    self._save(trainer, number)
                    last = time.monotonic()

            try:
                while not trainer.finished:
                    stats = trainer.train_epoch(on_batch=on_batch)
                    self._epoch(trainer, number, stats)
                    interrupt.check()
                    self._save(trainer, number)
                    last = time.monotonic()
            except KeyboardInterrupt:
                run = self.search.run
                if run is None:
                    raise
                if trainer.between_batches:
                    self._save(trainer, number)
                run.log("interrupted", iteration=number, step=trainer.step)
                raise StoppedError(
                    f"stopped in morph {number} of {self.iterations}, at step {trainer.step} of {trainer.total_steps}",
                    f"everything is saved in {run.path}",
                    f"morphsearch resume {run.path}",
                ) from None

    def _epoch(self, trainer: Trainer, number: int, stats: Any) -> None:
        judged = trainer.evaluate(self.data.val)
        status = self.search.status()
        line = {
            "iteration": number,
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
        self.hear("epoch", {**line, "accuracy": judged.accuracy, "cost": status["costs"], "phase": f"morph {number}"})

    def _save(self, trainer: Trainer, number: int) -> None:
        run = self.search.run
        if run is None:
            return
        ours, theirs = self.search.state(), trainer.state()
        tensors = {f"search.{k}": v for k, v in ours[0].items()} | {f"trainer.{k}": v for k, v in theirs[0].items()}
        state = {"iteration": number, "step": self.search.total_steps, "search": ours[1], "trainer": theirs[1]}
        save_checkpoint(run.checkpoint, tensors, state)

    def _judge(self, model: nn.Module, device: str) -> dict[str, float | None]:
        """Accuracy of the shrunk and widened network on the validation part, with fresh batch-norm statistics."""
        reestimate_batchnorm(model.to(device), self.data.train, seed=self.seed)
        judged = evaluate(model, self.data.val, device=device)
        return {"val_accuracy": judged.accuracy, "val_loss": judged.loss}

    def _tell(self, architecture: Architecture) -> None:
        costs = {name: entry["total"] for name, entry in architecture.costs.items()}
        self.hear(
            "iteration",
            {
                "iteration": architecture.name,
                "cost": costs,
                "accuracy": architecture.metrics.get("val_accuracy"),
                "multiplier": architecture.multiplier,
                "widths": architecture.widths,
            },
        )
        for note in architecture.notes:
            self.hear("note", {"text": note})

    def _result(self) -> SearchResult:
        found = self.search.architectures
        best = max(found, key=lambda a: (a.metrics.get("val_accuracy") or 0.0, a.name))
        summary = {
            "schema_version": 1,
            "best": best.name,
            "architectures": [
                {
                    "name": a.name,
                    "costs": {name: entry["total"] for name, entry in a.costs.items()},
                    "multiplier": a.multiplier,
                    **a.metrics,
                }
                for a in found
            ],
        }
        run = self.search.run
        if run is not None and run.result() is None:
            run.finish(summary)
            run.log("end", best=best.name)
        result = SearchResult(found, best, run.path if run is not None else None, summary, self.search.model)
        plugins.fire("morphsearch_search_end", result=result)
        self.hear("end", {"text": f"Found {len(found)} architectures; {best.name} did best on the validation part."})
        return result


def status(run_dir: str | Path) -> dict[str, Any]:
    """The state of a run: running or interrupted (an unfinished one), complete, or damaged, with what it has found."""
    run = RunDirectory(run_dir)
    try:
        asked = run.asked()
        found = run.architectures()
        result = run.result()
    except MorphError as error:
        return {"path": str(run_dir), "state": "damaged", "error": error.arrived}
    events = run.events()
    last = events[-1]["event"] if events else None
    state = "complete" if result is not None else "interrupted" if last == "interrupted" else "running"
    config = asked.get("config") or {}
    return {
        "path": str(run_dir),
        "state": state,
        "seed_spec": asked.get("seed_spec"),
        "data": config.get("data"),
        "budgets": [b["text"] for b in asked.get("budgets", [])],
        "strategy": asked.get("strategy"),
        "iterations": len(found),
        "asked": config.get("iterations"),
        "best": (result or {}).get("best"),
        "costs": {name: entry["total"] for name, entry in found[-1].costs.items()} if found else {},
    }


