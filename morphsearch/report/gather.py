"""Reads a run directory into a :class:`~morphsearch.report.records.RunRecord`. Nothing is trained.

Every part is read for itself: what is damaged becomes a :class:`~morphsearch.report.records.Fault`, the rest stays.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphsearch.arguments import named_arguments, require_path
from morphsearch.errors import InputError, MorphError
from morphsearch.report import commands, trajectory, widths
from morphsearch.report.numbers import exact, percent
from morphsearch.report.records import (
    BudgetUse,
    Fault,
    Found,
    Front,
    Note,
    Point,
    RunRecord,
    Training,
)
from morphsearch.report.trajectory import number, numbers

if TYPE_CHECKING:
    from morphsearch.loop.architecture import Architecture
    from morphsearch.loop.rundir import RunDirectory
    from morphsearch.training import RetrainResult

SPARSIFY = "sparsify"
TEST, INHERITED = "test", "validation, inherited weights"


@named_arguments
def gather(run_dir: str | Path, *, allow_code: bool = False) -> RunRecord:
    """Everything that a report shows of a run, and of the sparsifications of what it found that lie beside it.

    Args:
        run_dir: of a search or a sparsification. allow_code: leave to build a seed from code that is not morphsearch's;
            without it widths are shown by group.

    Raises:
        InputError: there is no ``run.json``. What is damaged does not raise: it is among the `faults`.
    """
    require_path(run_dir, "run_dir")
    from morphsearch.loop.rundir import RunDirectory

    run = RunDirectory(run_dir)
    if not run.exists():
        raise InputError(
            f"{run.path} holds no run" if run.path.exists() else f"{run.path} does not exist",
            "a run directory has a run.json",
            "check the path; `morphsearch runs FOLDER` lists the runs in a folder",
        )
    record = _one(run, allow_code)
    if record.kind != SPARSIFY:
        for path in _sparsified(run.path):
            record.sparsified.append(_one(RunDirectory(path), allow_code))
    return record


def _one(run: RunDirectory, allow_code: bool) -> RunRecord:
    record = RunRecord(str(run.path), run.path.resolve().name)
    asked: dict[str, Any] = {}
    with _reading(record, "run.json"):
        asked = run.asked()
    with _reading(record, "run.json"):
        _asked(record, run, asked)
    with _reading(record, "the state of the run"):
        _state(record, run)
    events: list[dict[str, Any]] = []
    with _reading(record, "metrics.jsonl"):
        events = run.events()
        record.trajectory = trajectory.trajectory(events, record.seed_costs, _tables(asked.get("budgets")))
        record.notes += trajectory.notes_of(record.trajectory.marks)
    if record.kind == SPARSIFY:
        with _reading(record, "result.json"):
            _sparsity(record, run)
        return record
    found = _architectures(record, run)
    best = None
    with _reading(record, "result.json"):
        best = (run.result() or {}).get("best")
    with _reading(record, "iterations"):
        _found(record, found, best)
    results = _trainings(record, run)
    with _reading(record, "retrained"):
        _compare(record, run, results, found, asked)
    with _reading(record, "retrained"):
        record.front = front_of(record)
    if found:
        with _reading(record, "iterations"):
            record.widths = widths.widths(widths.chosen(found, best), allow_code=allow_code)
    return record


@contextlib.contextmanager
def _reading(record: RunRecord, where: str) -> Iterator[None]:
    """What goes wrong within becomes a fault of the record."""
    fault = None
    try:
        yield
    except MorphError as error:
        fault = Fault(where, error.arrived, error.rule, error.repair)
    except Exception as error:  # files may hold anything; a report of a damaged run shows the damage
        what = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
        fault = Fault(
            where,
            f"{where} does not hold what it should ({what})",
            "the files of a run follow docs/reference/files.md",
            "restore it from a copy, or search again",
        )
    if fault is not None and all(known.arrived != fault.arrived for known in record.faults):
        record.faults.append(fault)


# -- what was asked --------------------------------------------------------------------------------------------------


def _asked(record: RunRecord, run: RunDirectory, asked: Mapping[str, Any]) -> None:
    record.kind = str(asked.get("kind") or "search")
    record.versions = {str(name): str(version) for name, version in _table(asked.get("versions")).items()}
    record.seed_costs = numbers(asked.get("seed_costs"))
    config, data = _table(asked.get("config") or asked.get(SPARSIFY)), _table(asked.get("data"))
    word = asked.get("data") if isinstance(asked.get("data"), str) else ""  # of a program's own loop
    named = str(config.get("data") or data.get("name") or word or "not recorded")
    budgets = _tables(asked.get("budgets"))
    record.units = {str(budget.get("metric")): str(budget.get("unit", "")) for budget in budgets}
    texts = ", ".join(str(budget.get("text")) for budget in budgets)
    strategy = str(asked.get("strategy") or "not recorded")
    seed = str(asked.get("seed_spec") or "a network handed over in Python")
    record.summary = ", ".join(part for part in (seed, named, texts, strategy) if part)
    said = {
        "seed": seed,
        "data": ": ".join(filter(None, [named, _parts(data)])),
        "target" if record.kind == SPARSIFY else "budget": "; ".join(
            _budget(one, record.seed_costs) for one in budgets
        ),
        "strategy": strategy,
        "morphs": config.get("iterations") or asked.get("iterations"),
        "epochs": config.get("epochs"),
        "random seed": asked.get("seed", config.get("seed")),
        "device": config.get("device"),
        "hardware": asked.get("hardware"),
        "sparsified": config.get("model") if record.kind == SPARSIFY else None,
        "architecture": asked.get("architecture"),
        "weights": asked.get("weights"),
    }
    record.asked = {name: _text(value) for name, value in said.items() if value not in (None, "")}
    _configuration(record, run, config)


def _configuration(record: RunRecord, run: RunDirectory, config: Mapping[str, Any]) -> None:
    """As TOML, and as a command."""
    if not config:
        return
    from morphsearch.config import dumps

    record.config = dumps({name: value for name, value in config.items() if value not in (None, {}, [])})
    if record.kind == SPARSIFY:
        from morphsearch.sparsity import run as sparsity

        settled = sparsity.recorded_config(run, allow_code=bool(config.get("allow_code")))
        own = () if settled.data_seed is None else ("data", "data_seed", "val_fraction")  # those of its search
        record.command = commands.command_of(SPARSIFY, settled, f"{record.path}-again", without=own)
        return
    from morphsearch.loop.run import recorded_config

    found = recorded_config(run, allow_code=bool(config.get("allow_code")))
    if found is not None:
        record.command = commands.command_of("search", found, f"{record.path}-again")


def _parts(data: Mapping[str, Any]) -> str:
    """How many images each split has."""
    parts = _table(data.get("parts"))
    counts = {name: number(_table(parts.get(name)).get("count")) for name in ("train", "val", "test")}
    words = {"train": "training", "val": "validation", "test": "test"}
    return ", ".join(f"{count:,.0f} {words[name]}" for name, count in counts.items() if count is not None)


def _budget(budget: Mapping[str, Any], seed_costs: Mapping[str, float]) -> str:
    text, limit = str(budget.get("text")), number(budget.get("limit"))
    if limit is None:
        return text
    seed = seed_costs.get(str(budget.get("metric")))
    of = f" of the seed's {exact(seed)}" if seed is not None else ""
    return f"{text}: at most {exact(limit)}{of} {budget.get('unit', '')}".rstrip()


def _state(record: RunRecord, run: RunDirectory) -> None:
    if record.kind == SPARSIFY:
        stopped = next(iter(run.events()[-1:]), {}).get("event") == "interrupted"
        record.state = "complete" if run.result() is not None else "interrupted" if stopped else "running"
    else:
        from morphsearch.loop.run import status

        record.state = str(status(run.path)["state"])
    if record.state in ("interrupted", "running"):
        record.resume = f"morphsearch resume {shlex.quote(record.path)}{_leave(record)}" if record.command else None


def _leave(record: RunRecord) -> str:
    """The option without which a command on this run would be refused, since it runs code of the user's."""
    return f" {commands.ALLOW}" if commands.allows(record.command) else ""


# -- what was found --------------------------------------------------------------------------------------------------


def _architectures(record: RunRecord, run: RunDirectory) -> list[Architecture]:
    from morphsearch.loop.architecture import FILE, Architecture

    found: list[Architecture] = []
    for path in sorted(run.path.glob(f"iterations/*/{FILE}")):
        with _reading(record, str(path.relative_to(run.path))):
            found.append(Architecture.load(path))
    return found


def _found(record: RunRecord, found: Sequence[Architecture], best: str | None) -> None:
    for one in found:
        costs = numbers(one.totals)
        units = {name: str(entry["unit"]) for name, entry in one.costs.items()}
        record.units |= units
        uses = []
        for budget in one.budgets:
            limit, cost = float(budget["limit"]), costs.get(budget["metric"])
            share = cost / limit if cost is not None and limit else None
            uses.append(BudgetUse(str(budget["text"]), str(budget.get("unit", "")), limit, cost, share))
        record.architectures.append(
            Found(
                name=one.name,
                costs=costs,
                units=units,
                budgets=uses,
                val_accuracy=number(one.metrics.get("val_accuracy")),
                multiplier=one.multiplier,
                strength=one.strength,
                threshold=one.threshold,
                parent=one.parent,
                best=one.name == best,
            )
        )
        known = {note.text for note in record.notes}
        record.notes += [
            Note("note", f"{one.name}: {text}") for text in one.notes if f"{one.name}: {text}" not in known
        ]


def _trainings(record: RunRecord, run: RunDirectory) -> list[RetrainResult]:
    """Every retraining, and the results of those that are complete."""
    from morphsearch.files import read_lines
    from morphsearch.training import load_result

    results = []
    for folder in sorted(path for path in run.path.glob("retrained/*-seed*") if path.is_dir()):
        named = re.fullmatch(r"(.+)-seed(\d{1,9})", folder.name)
        label, seed = (named[1], int(named[2])) if named else (folder.name, None)
        row = Training(label, seed, "damaged", 0)
        with _reading(record, f"retrained/{folder.name}/result.json"):
            result = load_result(folder)
            if result is None:
                epochs = [number(line.get("epoch")) for line in read_lines(folder / "metrics.jsonl")]
                row = Training(label, seed, "not finished", max((one for one in epochs if one is not None), default=0))
            else:
                row = Training(
                    result.label,
                    result.seed,
                    "complete",
                    result.epochs,
                    number(result.accuracy),
                    result.evaluated_on,
                    number(result.seconds),
                )
                results.append(result)
        record.trainings.append(row)
    return results


def _compare(
    record: RunRecord,
    run: RunDirectory,
    results: Sequence[RetrainResult],
    found: Sequence[Architecture],
    asked: Mapping[str, Any],
) -> None:
    from morphsearch.loop import comparison

    if not found:
        record.verdict = "No architecture has been found yet."
    elif not results:
        command = f"morphsearch retrain {shlex.quote(record.path)} --baselines uniform,random --seeds 3{_leave(record)}"
        record.verdict = f"Nothing is retrained yet, so nothing is known about how good this shape is: {command}"
    if not results:
        return
    made = comparison.table(results, found, asked)
    record.comparison, record.verdict, record.settled = made.to_dict(), made.verdict, True
    record.units |= {name: unit for name, unit in made.metrics_units.items() if name not in record.units}
    record.notes += [Note("warning", text) for text in made.warnings]
    unfinished = [f"{one.label} seed {one.seed}" for one in record.trainings if one.state == "not finished"]
    if unfinished:
        record.notes.append(
            Note("warning", f"Retrainings that are not finished, and left out: {', '.join(unfinished)}.")
        )


def front_of(record: RunRecord) -> Front | None:
    """The plane of cost and accuracy: of what was retrained, or, before that, of the inherited weights."""
    points = []
    judged = INHERITED
    for row in (record.comparison or {}).get("rows", ()):
        accuracy = number(row["mean"])
        if accuracy is not None:
            costs, spread = numbers(row["costs"]), number(row["spread"])
            points.append(Point(row["label"], row["kind"], costs, accuracy, spread, len(row["accuracies"])))
            judged = str(row["evaluated_on"])
    if not points:
        points = [
            Point(one.name, "found", one.costs, one.val_accuracy)
            for one in record.architectures
            if one.val_accuracy is not None
        ]
    if not points:
        return None
    budgeted = {use.text: use for one in record.architectures for use in one.budgets}
    bounded = list(dict.fromkeys(re.split("[<=]", text)[0].strip() for text in budgeted))
    metrics = dict.fromkeys([*bounded, *(metric for point in points for metric in point.costs)])
    limits: dict[str, list[float]] = {}
    for text, use in budgeted.items():
        limits.setdefault(re.split("[<=]", text)[0].strip(), []).append(use.limit)
    known = {name: record.units.get(name, name) for name in metrics if any(name in point.costs for point in points)}
    return Front(judged, known, points, limits)


# -- sparsifications -------------------------------------------------------------------------------------------------


def _sparsity(record: RunRecord, run: RunDirectory) -> None:
    from morphsearch.sparsity import SparsityReport

    result = run.result()
    if result is None:
        record.verdict = "The sparsification is not finished."
        return
    report = SparsityReport.from_dict(dict(_table(result.get("sparsity"))))
    record.sparsity = report.to_dict()
    record.metrics = numbers(result.get("metrics"))
    named = (("start_val_accuracy", "validation before"), ("val_accuracy", "validation"), ("test_accuracy", "test"))
    told = [f"{label} {percent(record.metrics[name], 2)}" for name, label in named if name in record.metrics]
    record.verdict = (
        f"{percent(report.reached, 2)} of the prunable weights and {percent(report.network, 2)} of all parameters are "
        f"zero; accuracy: {', '.join(told) or 'not recorded'}."
    )


def _sparsified(run: Path) -> list[Path]:
    """The sparsifications beside a run that began with one of its architectures."""
    import json

    found = []
    for path in sorted(run.resolve().parent.glob("*/run.json")):
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            said = json.loads(path.read_text(encoding="utf-8"))
            if said.get("kind") == SPARSIFY and _within(str(said[SPARSIFY]["model"]), run):
                found.append(_beside(run, path.parent))
    return found


def _within(model: str, run: Path) -> bool:
    """Whether `model` is a run or a file of it. A relative path may have been one from anywhere: its end decides."""
    own, named = run.resolve(), Path(model)
    if named.exists():
        return named.resolve().is_relative_to(own)
    parts = named.parts[: named.parts.index("iterations")] if "iterations" in named.parts else named.parts
    return bool(parts) and not named.is_absolute() and own.parts[-len(parts) :] == parts


def _beside(run: Path, other: Path) -> Path:
    """`other`, named as its sibling is."""
    return run.parent / other.name if (run.parent / other.name).exists() else other


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _tables(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    held = number(value)
    if held is not None:
        return exact(held) if abs(held) >= 1000 else f"{held:g}"
    return str(value)
