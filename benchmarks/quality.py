"""Do searches win? Every arm retrained from scratch by one recipe, at equal cost, beside what costs nothing.

    python benchmarks/quality.py run DATA [--network N ...] [--budget B ...] [--arm A ...] [--seeds 3] [--draws 5]
    python benchmarks/quality.py summary          table and figure of docs/experiments.md, from the lines (matplotlib)

DATA is a spec such as ``imagefolder:cifar10`` or ``cifar10:cifar-10-batches-bin``. An arm is ``uniform``, ``random``
(every draw is an arm of its own), ``seed``, or a strategy, with its number of morphs and settings where they are not
the default: ``gamma-l1``, ``gamma-l1*1``, ``slimmable*1:shrink_to=0.75``, ``trials:point=[0.5]``. All selection is done
on the validation part of the training images; accuracy is of the test images. Resumable: a training that has its line
in benchmarks/results/quality.jsonl is not repeated, and a search that has ended is not either.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import re
import statistics
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from morphsearch.loop.architecture import Architecture
from morphsearch.loop.config import SearchConfig
from morphsearch.loop.run import resume, start
from morphsearch.training import Recipe, retrain

RESULTS = Path(__file__).parent / "results" / "quality.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "experiments.md"
FIGURE = PAGE.with_name("quality.svg")
NETWORKS = ("mobilenet_v1?alpha=0.25", "resnet20", "vgg16_bn?alpha=0.25")
BUDGETS = ("flops=50%", "flops=25%", "params=50%", "params=25%")
ARMS = ("uniform", "random", "slimmable", "gamma-l1")
TRAINING: dict[str, Any] = {"precision": "fp32", "channels_last": True, "batch_size": 128}
EPOCHS = 12  # of every training from scratch, by default
FREE = ("uniform", "random", "seed")


@dataclass(frozen=True)
class Task:
    """One arm at one budget."""

    network: str
    budget: str
    arm: str
    draw: int = 0  # of random widths; of a search, its seed

    @property
    def folder(self) -> str:
        """A name for files."""
        kept = [c if c.isalnum() else "-" for c in f"{self.network}_{self.budget}_{self.arm}_{self.draw}"]
        return "".join(kept)

    def config(self, data: str, epochs: float) -> SearchConfig:
        """The search that the arm is."""
        head, _, settings = self.arm.partition(":")
        strategy, _, morphs = head.partition("*")
        pairs = [pair.split("=") for pair in re.split(r",(?=\w+=)", settings) if pair]
        options: dict[str, Any] = {name: json.loads(value) for name, value in pairs}
        count = int(morphs or options.pop("iterations", 0)) or None
        training = {**TRAINING, **{name: options.pop(name) for name in ("lr", "schedule") if name in options}}
        epochs = options.pop("epochs", epochs)
        known = {one.name for one in fields(SearchConfig)}
        own = {name: options.pop(name) for name in list(options) if name not in known}
        return SearchConfig(
            self.network,
            data=data,
            budget=("flops=100%" if strategy == "seed" else self.budget,),
            strategy="uniform" if strategy == "seed" else strategy,
            iterations=1 if strategy in FREE else count,
            epochs=epochs,
            seed=self.draw,
            recipe=training,
            strategy_options=own,
            **options,
        )


def found(task: Task, data: str, work: Path, epochs: float) -> tuple[Architecture, float, float]:
    """The last architecture of an arm, the seconds that its training and judging took, and its epochs."""
    run_dir = work / "searches" / task.folder
    config = task.config(data, epochs)
    result = resume(run_dir) if run_dir.exists() else start(config, run_dir)
    events = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    seconds = sum(event.get("seconds", 0.0) for event in events if event["event"] in ("epoch", "judged", "trial"))
    count = sum(event["epochs"] if event["event"] == "trial" else event["event"] == "epoch" for event in events)
    return result.architectures[-1], seconds, count


def one(
    task: Task, seeds: Iterable[int], data: str, work: Path, epochs: float, search_epochs: float, threads: int
) -> list[dict[str, Any]]:
    """Search and retrain; runs in a process of its own."""
    from morphsearch.data import load

    torch.set_num_threads(threads)
    architecture, seconds, count = found(task, data, work, search_epochs)
    splits = load(data)
    recipe = Recipe.from_dict({**TRAINING, "epochs": epochs})
    lines = []
    for seed in seeds:
        began = time.perf_counter()
        folder = work / "retrained" / f"{task.folder}-{seed}-{epochs:g}"
        result = retrain(architecture.build, splits, recipe, seed=seed, folder=folder, label=task.arm)
        lines.append(
            {
                "network": task.network,
                "budget": task.budget,
                "arm": task.arm,
                "draw": task.draw,
                "seed": seed,
                "epochs": epochs,
                "accuracy": result.accuracy,
                "evaluated_on": result.evaluated_on,
                "train_seconds": time.perf_counter() - began,
                "search_seconds": seconds,
                "search_epochs": count,
                "costs": {name: entry["total"] for name, entry in architecture.costs.items()},
                "widths": architecture.widths,
                "threads": threads,
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
        )
    return lines


def run(args: argparse.Namespace) -> None:
    """All that has no line yet."""
    done = {
        (e["network"], e["budget"], e["arm"], e["draw"], e["seed"]) for e in entries() if e["epochs"] == args.epochs
    }
    work: list[tuple[Task, list[int]]] = []
    for network in args.network or NETWORKS:
        for budget in args.budget or BUDGETS:
            for arm in args.arm or ARMS:
                draws = range(args.draws) if arm == "random" else [0]
                for draw in draws:
                    # A random draw has a training seed of its own: its accuracy spreads over both.
                    seeds = [draw] if arm == "random" else list(range(args.seeds))
                    left = [seed for seed in seeds if (network, budget, arm, draw, seed) not in done]
                    if left:
                        work.append((Task(network, budget, arm, draw), left))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, mp_context=context) as pool:
        given = (args.data, args.work, args.epochs, args.search_epochs, args.threads)
        tasks = {pool.submit(one, task, [seed], *given): task for task, seeds in work for seed in seeds[:1]}
        # The first training of an arm makes its search; the others follow when it is there.
        rest = {task: seeds[1:] for task, seeds in work}
        while tasks:
            for future in as_completed(list(tasks)):
                task = tasks.pop(future)
                for line in future.result():
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    print(
                        f"{line['network']:26s} {line['budget']:12s} {line['arm']:28s} {line['draw']} {line['seed']} "
                        f"{100 * line['accuracy']:.2f} %   training {line['train_seconds']:.0f} s"
                        f"   search {line['search_seconds']:.0f} s",
                        flush=True,
                    )
                for seed in rest.pop(task, []):
                    tasks[pool.submit(one, task, [seed], *given)] = task
                break


def entries() -> list[dict[str, Any]]:
    """All lines."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def cells_of(lines: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, list[dict[str, Any]]]]:
    """Lines by network and budget, then by arm, what costs nothing first; the budget is named with the length of the
    trainings where that is another."""
    cells: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for line in lines:
        if line["epochs"] != EPOCHS:
            line = {**line, "budget": f"{line['budget']}, {line['epochs']:g} epochs"}
        cells.setdefault((line["network"], line["budget"]), {}).setdefault(line["arm"], []).append(line)
    order = {arm: place for place, arm in enumerate(FREE)}
    return {
        key: {arm: arms[arm] for arm in sorted(arms, key=lambda arm: order.get(arm, len(order)))}
        for key, arms in sorted(cells.items())
    }


def summary() -> str:
    """One table: rows are networks, budgets and arms."""
    cells = cells_of(entries())
    rows = ["| network | budget | arm | accuracy, % | trainings | over uniform | search, trainings of the seed |"]
    rows.append("|---|---|---|---|---|---|---|")
    for (network, budget), arms in cells.items():
        # A uniform scaling to the seed's own cost is the seed.
        plain = arms.get("uniform", arms.get("seed", []) if budget.startswith("flops=100%") else [])
        uniform = [line["accuracy"] for line in plain]
        seed = [line for key, other in cells.items() if key[0] == network for line in other.get("seed", [])]
        for arm, lines in arms.items():
            values = [100 * line["accuracy"] for line in lines]
            spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            best = f" (best {max(values):.2f})" if arm == "random" else ""
            over = f"{round(statistics.mean(values) - 100 * statistics.mean(uniform), 2) + 0.0:+.2f}" if uniform else ""
            training = statistics.mean(line["train_seconds"] for line in seed) if seed else 0.0
            # None: the search was halted in between.
            taken = [line["search_seconds"] for line in lines if line["search_seconds"] is not None]
            search = statistics.mean(taken) if taken else 0.0
            price = "none" if arm in FREE else f"{search / training:.2f}" if training else f"{search:.0f} s"
            price = price if taken else "not measured"
            cost, _, length = budget.partition(", ")
            named = f"`{cost}`{length and ', ' + length}"
            rows.append(
                f"| `{network}` | {named} | {arm} | {statistics.mean(values):.2f}{spread}{best} | {len(values)} "
                f"| {over} | {price} |"
            )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("data")
    for option in ("network", "budget", "arm"):
        running.add_argument(f"--{option}", action="append")
    running.add_argument("--seeds", type=int, default=3)
    running.add_argument("--draws", type=int, default=5)
    running.add_argument("--epochs", type=float, default=EPOCHS, help="of every training from scratch")
    running.add_argument("--search-epochs", type=float, default=8, help="of training before each morph")
    running.add_argument("--processes", type=int, default=1)
    running.add_argument("--threads", type=int, default=2)
    running.add_argument("--work", type=Path, default=Path("runs/quality"))
    commands.add_parser("summary")
    args = parser.parse_args()
    if args.command == "run":
        run(args)
        return
    text, page = summary(), PAGE.read_text()
    start_, end = page.index("<!-- quality -->") + len("<!-- quality -->"), page.index("<!-- /quality -->")
    PAGE.write_text(f"{page[:start_]}\n{text}\n{page[end:]}")
    from quality_plot import plot

    plot(cells_of(entries()), FIGURE)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
