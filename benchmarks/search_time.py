"""How long a whole search takes, against one plain training of the seed for the same epochs.

    python benchmarks/search_time.py [--images 2560] [--epochs 10] [--morphs 1] [--repeats 3] [--arms plain,live,masked]

Three arms take turns in one process, on one thread: plain training (with an evaluation and a checkpoint after each
epoch, as `morphsearch retrain` has them), a search to `flops=50%` in which units leave while it trains, and the same
search in which they stay to its end; `--epochs` are shared out among its morphs. A search is all of it: recording,
training under pressure, rebuilding, judging, the morph. Beside the time on the clock stands the processor's, which
other programs disturb less. Every arm that is done is saved in benchmarks/results/search_time.json; the same command
goes on from there. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import morphsearch as ms
from morphsearch.data import DataSplits, load
from morphsearch.data.arrays import ArraySplit
from morphsearch.files import read_json, write_json
from morphsearch.loop.runner import Runner
from morphsearch.models import build_seed
from morphsearch.training import Recipe, Trainer, save_checkpoint

RESULTS = Path(__file__).parent / "results" / "search_time.json"
ARMS = ("plain", "live", "masked")


def subset(data: DataSplits, images: int) -> DataSplits:
    """The first `images` of a random order of the training images; a tenth as many to validate on."""
    for name, count in (("train", images), ("val", max(1, images // 10))):
        split = getattr(data, name)
        assert isinstance(split, ArraySplit)
        chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:count].numpy()
        split.images, split.labels = split.images[chosen], split.labels[chosen]
    return data


def plain(model: torch.nn.Module, data: DataSplits, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """One training of the seed."""
    trainer = Trainer(model, data, recipe)
    accuracy = 0.0
    while not trainer.finished:
        trainer.train_epoch()
        accuracy = trainer.evaluate(data.val).accuracy
        save_checkpoint(folder, *trainer.state())
    return {"val_accuracy": accuracy}


def searched(
    model: torch.nn.Module, data: DataSplits, recipe: Recipe, args: argparse.Namespace, live: bool, folder: Path
) -> dict[str, Any]:
    """One search."""
    example = torch.zeros(1, *data.shape)
    search = ms.Search(model, example, args.budget, strategy=args.strategy, live=live, run_dir=folder)
    result = Runner(search, data, recipe.replace(epochs=args.epochs / args.morphs), args.morphs, 0, None).go()
    assert search.run is not None
    cuts = [
        {"iteration": line["iteration"], "step": line["step"], "units": line["left"], "flops": line["costs"]["flops"]}
        for line in search.run.events()
        if line["event"] == "shrunk"
    ]
    return {
        "val_accuracy": result.best.metrics["val_accuracy"],
        "flops": result.best.totals["flops"],
        "cuts": cuts,
        "notes": result.best.notes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed-spec", default="mobilenet_v1?alpha=0.25&stem=cifar")
    parser.add_argument("--data", default="imagefolder:cifar10")
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--budget", default="flops=50%")
    parser.add_argument("--strategy", default="gamma-l1")
    parser.add_argument("--morphs", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {name: value for name, value in vars(args).items() if name not in ("repeats", "results", "data", "arms")}
    about = {"torch": torch.__version__, "python": platform.python_version(), "threads": 1}
    saved = read_json(args.results) if args.results.exists() else {}
    rows = saved["rows"] if saved.get("settings") == settings else []
    data = subset(load(args.data), args.images)
    recipe = Recipe.from_dict(
        {
            "epochs": args.epochs,
            "batch_size": args.batch,
            "lr": args.lr,
            "schedule": "constant",
            "device": "cpu",
            "precision": "fp32",
            "channels_last": args.channels_last,
        }
    )
    warm_up(build_seed(args.seed_spec, num_classes=data.num_classes, input_shape=data.shape).model, data, recipe)
    for repeat in range(args.repeats):
        for arm in ARMS[repeat % 3 :] + ARMS[: repeat % 3]:
            if arm not in args.arms.split(",") or any(row["arm"] == arm and row["repeat"] == repeat for row in rows):
                continue
            torch.manual_seed(repeat)
            model = build_seed(args.seed_spec, num_classes=data.num_classes, input_shape=data.shape).model
            with tempfile.TemporaryDirectory() as folder:
                wall, used = time.perf_counter(), time.process_time()
                if arm == "plain":
                    outcome = plain(model, data, recipe, Path(folder) / "checkpoint")
                else:
                    outcome = searched(model, data, recipe, args, arm == "live", Path(folder) / "run")
                wall, used = time.perf_counter() - wall, time.process_time() - used
            rows.append({"arm": arm, "repeat": repeat, "seconds": wall, "cpu_seconds": used, **outcome})
            write_json(args.results, {"about": about, "settings": settings, "rows": rows, "ratios": ratios(rows)})
            print(f"{arm:7s} {wall:7.1f} s on the clock, {used:7.1f} s of the processor, {outcome}", flush=True)
    for name, value in ratios(rows).items():
        print(f"{name}: {value:.3f}")


def warm_up(model: torch.nn.Module, data: DataSplits, recipe: Recipe) -> None:
    """What only the first training of a process pays: imports, and kernels that are made at their first call."""
    trainer = Trainer(model, data, recipe)
    trainer.train_epoch(on_batch=lambda trainer: trainer.stop() if trainer.batch >= 3 else None)
    trainer.evaluate(data.val)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), *trainer.state())


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Each search's time over plain training's, medians over the repeats."""
    result = {}
    for clock in ("seconds", "cpu_seconds"):
        times = {arm: [row[clock] for row in rows if row["arm"] == arm] for arm in ARMS}
        for arm in ("live", "masked"):
            if times[arm] and times["plain"]:
                result[f"{arm}_over_plain_{clock}"] = statistics.median(times[arm]) / statistics.median(times["plain"])
    return result


if __name__ == "__main__":
    main()
