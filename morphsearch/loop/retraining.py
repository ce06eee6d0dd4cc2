"""Retraining what was found, from scratch, beside what it must beat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from morphsearch import plugins
from morphsearch.arguments import MOST_SEED, is_seed, shown
from morphsearch.data import DataSplits
from morphsearch.errors import InputError, StoppedError, UnknownName, UsageError, nearest
from morphsearch.files import load_into, read_tensors
from morphsearch.graph import ConvGraph
from morphsearch.loop.architecture import Architecture
from morphsearch.loop.baselines import BASELINES, baseline
from morphsearch.loop.budget import Budgets
from morphsearch.loop.comparison import Comparison, Row, compare, is_family, verdict
from morphsearch.loop.config import SearchConfig, batch_size_for
from morphsearch.loop.hardware import of_run
from morphsearch.loop.run import data_of, recorded_config
from morphsearch.loop.rundir import RunDirectory
from morphsearch.loop.runner import Listener, silent
from morphsearch.training import Recipe, RetrainResult, retrain
from morphsearch.training.recipe import check_taught, field_of
from morphsearch.training.retraining import WEIGHTS

__all__ = ["Comparison", "Row", "compare", "retrain_run", "retraining_recipe", "verdict"]

SEED = "seed"
MOST_SEEDS = 1000  # more is a slip
DISTILLED = "distilled"
SEARCHED_FIELDS = (
    *("batch_size", "precision", "channels_last", "augment", "label_smoothing", "accumulate", "optimizer"),
    *("ema", "distill", "temperature"),  # which a search has no use for itself
)


def retrain_run(
    run_dir: str | Path,
    *,
    iterations: Sequence[int] | str | None = None,
    baselines: Sequence[str] = (),
    seeds: int | Sequence[int] = 1,
    epochs: float | None = None,
    recipe: Mapping[str, Any] | None = None,
    distill: bool = False,
    executor: str = "local",
    listener: Listener | None = None,
    allow_code: bool = False,
) -> Comparison:
    """Retrain architectures of a run from scratch, all by one recipe, each with every training seed.

    Finished retrainings are not repeated and interrupted ones go on. Random widths are drawn anew for each seed.

    Args:
        iterations: numbers of morphs, "all", or None for the last.
        baselines: of "uniform", "random" and "seed"; matched in cost to the last of `iterations`, or, in
            a run with a schedule of budgets, to each of them.
        seeds: how many (0, 1, ...), or which.
        epochs: default: as many as one morph trained for.
        recipe: fields of :class:`morphsearch.training.Recipe`; default cosine from 0.1, with the search's batch size.
        distill: also train each of them with the seed as teacher (which is trained first): rows of their own, beside
            the others, since what a teacher adds is not the architecture's.
        executor: where to run them.

    Raises:
        InputError: no run, or one that has found nothing yet. UnknownName: no such baseline or executor.
        UsageError: no such iteration; fields of the recipe about a teacher, without one.
        StoppedError: interrupted, after saving.
    """
    hear = listener or silent
    run = RunDirectory.open(run_dir)
    config = _config(run, allow_code)
    found = _choose(run, iterations)
    for kind in baselines:
        if kind not in BASELINES:
            raise UnknownName.of("baseline", kind, BASELINES)
    numbers = _numbers(seeds)
    if distill and SEED not in baselines:
        baselines = (*baselines, SEED)
    check_taught(recipe or {}, distill, "ask for one (--distill, distill=True), or leave {} out")
    data = data_of(config)
    training = retraining_recipe(config, epochs, recipe, len(data.train))
    graph, budgets = _seed_graph(found[-1], allow_code, run)
    work: list[_Arm] = []
    for architecture in found:
        work += [_Arm(architecture.name, architecture, seed) for seed in numbers]
    pairs = [(kind, arm) for kind in baselines for arm in (found if is_family(run) and kind != SEED else found[-1:])]
    for kind, arm in pairs:
        for seed in numbers:
            one = baseline(kind, arm, graph, budgets, seed)
            label = _label(kind, arm, config)
            one.save(run.path / "baselines" / f"{label}{one.name.removeprefix(kind)}")
            work.append(_Arm(label, one, seed))
    teachers = {arm.seed: arm for arm in work if arm.label == SEED}
    taught = [replace(arm, teacher=teachers[arm.seed]) for arm in work if distill and arm.label != SEED]
    count = len(work) + len(taught)
    try:
        for first, arms in ((0, work), (len(work), taught)):  # teachers are among the former
            tasks = [
                _task(run, data, training, arm, (position, count), hear, allow_code)
                for position, arm in enumerate(arms, first)
            ]
            for result in _results(tasks, executor):
                heard = {"label": result.label, "seed": result.seed, "accuracy": result.accuracy}
                hear("retrain", {**heard, "text": _sentence(result)})
    except StoppedError as error:
        command = f"morphsearch retrain {run.path}"
        raise StoppedError(
            error.arrived, error.rule, f"{command} (with the same options) goes on from there"
        ) from error
    return compare(run_dir)


def _results(tasks: Sequence[Callable[[], RetrainResult]], executor: str) -> Iterator[RetrainResult]:
    """Of all tasks, as they end.

    Raises:
        PluginError: the executor leaves some out, or gives something else.
    """
    if not tasks:
        return
    due = "run() yields the index and the result of every task, once"
    left = set(range(len(tasks)))
    answers = plugins.create("executors", executor).run(tasks)
    plugins.answered(isinstance(answers, Iterable), "executors", executor, f"run() returned {shown(answers)}", due)
    for answer in answers:
        pair = isinstance(answer, tuple) and len(answer) == 2
        sound = pair and answer[0] in left and isinstance(answer[1], RetrainResult)
        plugins.answered(sound, "executors", executor, f"run() yielded {shown(answer)}", due)
        left.discard(answer[0])
        yield answer[1]
    plugins.answered(not left, "executors", executor, f"run() left out {len(left)} of {len(tasks)} tasks", due)


def _numbers(seeds: int | Sequence[int]) -> list[int]:
    """Training seeds from how many, or from which."""
    numbers: list[int] = []
    if isinstance(seeds, int):
        numbers = list(range(seeds)) if seeds <= MOST_SEEDS and not isinstance(seeds, bool) else []
    elif isinstance(seeds, Sequence) and all(is_seed(seed) for seed in seeds):
        numbers = list(seeds)
    if not numbers or len(set(numbers)) != len(numbers):
        raise UsageError(
            f"seeds={shown(seeds)}",
            f"how many training seeds, 1 to {MOST_SEEDS:,}, or a list of them, each once and {MOST_SEED:,} at most",
            "use 3, or [0, 1, 2]",
        )
    return numbers


def retraining_recipe(
    config: SearchConfig, epochs: float | None, recipe: Mapping[str, Any] | None, images: int | None = None
) -> Recipe:
    """The recipe of all arms: cosine, with what the search settled on for the data (batch size, precision, ...)."""
    same: dict[str, Any] = {"batch_size": batch_size_for(images)}
    same |= {key: value for key, value in config.recipe.items() if key in SEARCHED_FIELDS}
    length = field_of(recipe or {}, "epochs", epochs, None) or config.epochs
    chosen = {**same, "device": config.device, **dict(recipe or {}), "epochs": length}
    return Recipe.from_dict(chosen)


@dataclass(frozen=True)
class _Arm:
    """One training: an architecture, a training seed, and maybe a teacher."""

    label: str
    architecture: Architecture
    seed: int
    teacher: _Arm | None = None

    @property
    def name(self) -> str:
        """In the table, and of folders."""
        return f"{self.label}-{DISTILLED}" if self.teacher is not None else self.label

    def folder(self, run: RunDirectory) -> Path:
        """Where its weights and its result are."""
        return run.path / "retrained" / f"{self.name}-seed{self.seed}"


def _task(
    run: RunDirectory,
    data: DataSplits,
    recipe: Recipe,
    arm: _Arm,
    place: tuple[int, int],
    hear: Listener,
    allow_code: bool,
) -> Callable[[], RetrainResult]:
    def trained() -> nn.Module:
        assert arm.teacher is not None
        network = arm.teacher.architecture.build(allow_code=allow_code)
        load_into(network, read_tensors(arm.teacher.folder(run) / WEIGHTS))
        return network

    def task() -> RetrainResult:
        def on_event(kind: str, payload: dict[str, Any]) -> None:
            if kind == "progress":
                hear(kind, {**payload, "phase": f"{place[0] + 1}/{place[1]} {arm.name} seed {arm.seed}"})

        return retrain(
            lambda: arm.architecture.build(allow_code=allow_code),
            data,
            recipe,
            seed=arm.seed,
            folder=arm.folder(run),
            label=arm.name,
            extra={
                "architecture": arm.architecture.name,
                "widths": arm.architecture.widths,
                "costs": arm.architecture.totals,
                "baseline_of": arm.architecture.record.get("baseline_of"),
                "teacher": arm.teacher.label if arm.teacher is not None else None,
            },
            teacher=trained if arm.teacher is not None else None,
            on_event=on_event,
        )

    return task


def _sentence(result: RetrainResult) -> str:
    return f"{result.label} seed {result.seed}: accuracy {100 * result.accuracy:.2f}% on {result.evaluated_on}"


def _label(kind: str, found: Architecture, config: SearchConfig) -> str:
    """``uniform`` beside the run's last architecture, ``uniform-001`` beside an earlier one: widths differ."""
    last = kind == "seed" or found.name == f"{config.morphs:03d}"
    return kind if last else f"{kind}-{found.name}"


def _config(run: RunDirectory, allow_code: bool) -> SearchConfig:
    config = recorded_config(run, allow_code=allow_code)
    if config is None:
        raise UsageError(
            f"{run.path} was started from Python, with a network or data that no file can name",
            "retraining builds both from what run.json says",
            "build each architecture with Architecture.load(...).apply(network) and train it with "
            "morphsearch.training.retrain",
        )
    return config


def _choose(run: RunDirectory, iterations: Sequence[int] | str | None) -> list[Architecture]:
    found = run.architectures()
    if not found:
        raise InputError(
            f"{run.path} has found no architecture yet",
            "a run saves one after each morph",
            f"let it come to its first: morphsearch resume {run.path}",
        )
    if iterations is None:
        return found[-1:]
    if isinstance(iterations, str):
        if iterations == "all":
            return found
        raise UsageError(f"iterations={iterations!r}", 'it is a list of numbers, "all" or nothing', 'use "all"')
    names = dict(enumerate(found, 1))
    for number in iterations:
        if number not in names:
            close = nearest(str(number), [str(known) for known in names])
            raise UsageError(
                f"iteration {number} does not exist in {run.path}",
                f"this run has {', '.join(str(known) for known in names)}",
                f"did you mean {close[0]}?" if close else "choose one of these",
            )
    return [names[number] for number in sorted(set(iterations))]


def _seed_graph(found: Architecture, allow_code: bool, run: RunDirectory) -> tuple[ConvGraph, Budgets]:
    graph = found.graph(found.seed(allow_code=allow_code))
    return graph, Budgets(graph, [entry["text"] for entry in found.budgets], hardware=of_run(run.path))
