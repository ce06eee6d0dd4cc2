"""Retraining what was found, from scratch, beside what it must beat; and the table that says who won."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from morphsearch import plugins
from morphsearch.data import DataSplits
from morphsearch.errors import InputError, StoppedError, UsageError, nearest
from morphsearch.graph import ConvGraph
from morphsearch.loop.architecture import Architecture
from morphsearch.loop.baselines import BASELINES, baseline
from morphsearch.loop.budget import Budgets
from morphsearch.loop.config import SearchConfig
from morphsearch.loop.run import Listener, _data, silent
from morphsearch.loop.rundir import RunDirectory
from morphsearch.training import Recipe, load_result, retrain

SEARCHED_FIELDS = ("batch_size", "precision", "channels_last", "augment", "label_smoothing", "accumulate", "optimizer")


@dataclass
class Row:
    """One architecture in the table.

    Attributes:
        label: ``001`` for the first morph, ``uniform``, ``random``, ``seed``.
        kind: "found", "baseline" or "seed".
        costs: by metric; of random widths the mean over the draws.
        accuracies: one a training seed, in 0..1, on the split named by `evaluated_on`.
        mean, spread: of them; the spread is the sample standard deviation, None for fewer than two.
        val_accuracies: the same on the validation part, which choices may be made on.
    """

    label: str
    kind: str
    costs: dict[str, float]
    accuracies: list[float]
    mean: float | None
    spread: float | None
    evaluated_on: str = "test"
    val_accuracies: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    seconds: float = 0.0
    widths: dict[str, int] = field(default_factory=dict)


@dataclass
class Comparison:
    """The table and what it says.

    Attributes:
        rows: found architectures first, then baselines, then the seed.
        verdict: in words.
        metrics_units: unit of every cost.
        warnings: what to mind when reading it.
    """

    rows: list[Row]
    verdict: str
    metrics_units: dict[str, str]
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def retrain_run(
    run_dir: str | Path,
    *,
    iterations: Sequence[int] | str | None = None,
    baselines: Sequence[str] = (),
    seeds: int | Sequence[int] = 1,
    epochs: float | None = None,
    recipe: Mapping[str, Any] | None = None,
    executor: str = "local",
    listener: Listener | None = None,
    allow_code: bool = False,
) -> Comparison:
    """Retrain architectures of a run from scratch, all by one recipe, each with every training seed.

    Finished retrainings are not repeated and interrupted ones go on. Random widths are drawn anew for each seed.

    Args:
        iterations: numbers of morphs, "all", or None for the last.
        baselines: of "uniform", "random" and "seed"; matched in cost to the last of `iterations`.
        seeds: how many (0, 1, ...), or which.
        epochs: default: as many as one morph trained for.
        recipe: fields of :class:`morphsearch.training.Recipe`; default cosine from 0.1, with the search's batch size.
        executor: where to run them.

    Raises:
        InputError: no run, or one that has found nothing yet. UnknownName: no such baseline or executor.
        UsageError: no such iteration. StoppedError: interrupted, after saving.
    """
    hear = listener or silent
    run = RunDirectory.open(run_dir)
    config = _config(run, allow_code)
    found = _choose(run, iterations)
    for kind in baselines:
        if kind not in BASELINES:
            from morphsearch.errors import UnknownName

            raise UnknownName.of("baseline", kind, BASELINES)
    numbers = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if not numbers or len(set(numbers)) != len(numbers):
        raise UsageError(f"seeds={seeds!r}", "one or more training seeds, each once", "use 3, or 0 1 2")
    training = retraining_recipe(config, epochs, recipe)
    data = _data(config)
    graph, budgets = _seed_graph(found[-1], allow_code)
    work: list[tuple[str, Architecture, int]] = []
    for architecture in found:
        work += [(architecture.name, architecture, seed) for seed in numbers]
    for kind in baselines:
        for seed in numbers:
            one = baseline(kind, found[-1], graph, budgets, seed)
            one.save(run.path / "baselines" / one.name)
            work.append((kind, one, seed))
    tasks = [
        _task(run, data, training, label, architecture, seed, (position, len(work)), hear, allow_code)
        for position, (label, architecture, seed) in enumerate(work)
    ]
    try:
        for _, result in plugins.create("executors", executor).run(tasks):
            hear(
                "retrain",
                {"label": result.label, "seed": result.seed, "accuracy": result.accuracy, "text": _sentence(result)},
            )
    except StoppedError as error:
        command = f"morphsearch retrain {run.path}"
        raise StoppedError(error.arrived, error.rule, f"{command} (with the same options) goes on from there") from error
    return compare(run_dir)


def retraining_recipe(config: SearchConfig, epochs: float | None, recipe: Mapping[str, Any] | None) -> Recipe:
    """The recipe of all arms: cosine, with what the search settled on for the data (batch size, precision, ...)."""
    same = {key: value for key, value in config.recipe.items() if key in SEARCHED_FIELDS}
    chosen = {**same, "epochs": epochs or config.epochs, "device": config.device, **dict(recipe or {})}
    return Recipe.from_dict(chosen)


def _task(
    run: RunDirectory,
    data: DataSplits,
    recipe: Recipe,
    label: str,
    architecture: Architecture,
    seed: int,
    place: tuple[int, int],
    hear: Listener,
    allow_code: bool,
) -> Callable[[], Any]:
    def task() -> Any:
        def on_event(kind: str, payload: dict[str, Any]) -> None:
            if kind == "progress":
                hear(kind, {**payload, "phase": f"{place[0] + 1}/{place[1]} {label} seed {seed}"})

        return retrain(
            lambda: architecture.build(allow_code=allow_code),
            data,
            recipe,
            seed=seed,
            folder=run.path / "retrained" / f"{label}-seed{seed}",
            label=label,
            extra={
                "architecture": architecture.name,
                "widths": architecture.widths,
                "costs": {name: entry["total"] for name, entry in architecture.costs.items()},
            },
            on_event=on_event,
        )

    return task


def _sentence(result: Any) -> str:
    return f"{result.label} seed {result.seed}: accuracy {100 * result.accuracy:.2f}% on {result.evaluated_on}"


def _config(run: RunDirectory, allow_code: bool) -> SearchConfig:
    config = run.asked().get("config")
    if not config:
        raise UsageError(
            f"{run.path} was started from Python, with a network or data that no file can name",
            "retraining builds both from what run.json says",
            "build each architecture with Architecture.load(...).apply(network) and train it with morphsearch.training.retrain",
        )
    return replace(SearchConfig.from_dict(config), allow_code=allow_code)


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
    names = {int(one.name): one for one in found}
    for number in iterations:
        if number not in names:
            close = nearest(str(number), [str(known) for known in names])
            raise UsageError(
                f"iteration {number} does not exist in {run.path}",
                f"this run has {', '.join(str(known) for known in names)}",
                f"did you mean {close[0]}?" if close else "choose one of these",
            )
    return [names[number] for number in sorted(set(iterations))]


def _seed_graph(found: Architecture, allow_code: bool) -> tuple[ConvGraph, Budgets]:
    graph = found.graph(found.seed(allow_code=allow_code))
    return graph, Budgets(graph, [entry["text"] for entry in found.budgets])


def compare(run_dir: str | Path) -> Comparison:
    """Gather the finished retrainings of a run.

    Raises:
        InputError: no run there, or nothing is retrained yet.
    """
    run = RunDirectory.open(run_dir)
    results = [result for path in sorted((run.path / "retrained").glob("*-seed*")) if (result := load_result(path))]
    if not results:
        raise InputError(
            f"nothing in {run.path} is retrained yet",
            "architectures are compared after training from scratch",
            f"morphsearch retrain {run.path} --baselines uniform,random --seeds 3",
        )
    labels: dict[str, list[Any]] = {}
    for result in results:
        labels.setdefault(result.label, []).append(result)
    rows = sorted((_row(label, group) for label, group in labels.items()), key=_order)
    units = {name: entry["unit"] for one in run.architectures() for name, entry in one.costs.items()}
    metrics = [b["metric"] for b in run.asked().get("budgets", [])] or ["flops"]
    recipes = {str(sorted(result.recipe.items(), key=str)) for result in results}
    warnings = [] if len(recipes) == 1 else ["Not all rows were trained by the same recipe; their accuracies do not compare."]
    return Comparison(rows, verdict(rows, metrics), units, warnings)


def _order(row: Row) -> tuple[int, str]:
    return ({"found": 0, "baseline": 1, "seed": 2}[row.kind], row.label)


def _row(label: str, results: Sequence[Any]) -> Row:
    results = sorted(results, key=lambda result: result.seed)
    accuracies = [result.accuracy for result in results]
    names = results[0].extra.get("costs", {})
    costs = {name: statistics.fmean(result.extra["costs"][name] for result in results) for name in names}
    return Row(
        label=label,
        kind="seed" if label == "seed" else "baseline" if label in BASELINES else "found",
        costs=costs,
        accuracies=accuracies,
        mean=statistics.fmean(accuracies),
        spread=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        evaluated_on=results[0].evaluated_on,
        val_accuracies=[result.val_accuracy for result in results],
        seeds=[result.seed for result in results],
        seconds=sum(result.seconds for result in results),
        widths=results[0].extra.get("widths", {}),
    )


def verdict(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Whether the found architecture beats the baselines by more than the spread, in words.

    Of several found ones the best on the validation part speaks: the test part chooses nothing.
    """
    found = [row for row in rows if row.kind == "found"]
    others = [row for row in rows if row.kind == "baseline"]
    if not found:
        return "No found architecture is retrained yet."
    best = max(found, key=lambda row: statistics.fmean(row.val_accuracies))
    if not others:
        return f"{best.label} reaches {100 * (best.mean or 0):.2f}%. Retrain baselines to know whether that beats a plain scaling."
    return " ".join(_judge(best, other, metrics) for other in others)


def _judge(best: Row, other: Row, metrics: Sequence[str]) -> str:
    difference = 100 * ((best.mean or 0) - (other.mean or 0))
    name = {"uniform": "uniform scaling", "random": "random widths"}.get(other.label, other.label)
    gaps = [abs(other.costs[m] / best.costs[m] - 1) for m in metrics if best.costs.get(m) and m in other.costs]
    cost = "" if max(gaps, default=0) <= 0.01 else f" (at a cost that differs by {100 * max(gaps):.1f}%)"
    if best.spread is None or other.spread is None:
        return (
            f"{best.label} is {abs(difference):.2f} points {'above' if difference >= 0 else 'below'} {name}{cost}, "
            "on one training seed: that is no evidence either way."
        )
    spread = 100 * (best.spread**2 + other.spread**2) ** 0.5
    if difference > spread:
        return f"{best.label} beats {name}{cost} by {difference:.2f} points, more than the spread of {spread:.2f}."
    if difference < -spread:
        return f"{best.label} loses to {name}{cost} by {-difference:.2f} points, more than the spread of {spread:.2f}."
    return (
        f"{best.label} and {name}{cost} differ by {difference:+.2f} points, within the spread of {spread:.2f}: "
        "no difference is shown."
    )
