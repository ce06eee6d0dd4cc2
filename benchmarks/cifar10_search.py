"""Search MobileNetV1 x0.25 on CIFAR-10 under two budgets, then retrain what was found beside what it must beat.

    python benchmarks/cifar10_search.py DATA [--work FOLDER] [--epochs 12] [--search-epochs 5] [--seeds 3]

DATA is a spec such as ``imagefolder:cifar10`` or ``cifar10:cifar-10-batches-bin``. Resumable: stop it at any time and
give the same command again. Writes benchmarks/results/cifar10_search.json, which docs/benchmarks.md quotes.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from morphsearch.files import write_json
from morphsearch.loop.config import SearchConfig
from morphsearch.loop.retraining import retrain_run
from morphsearch.loop.run import resume, start, status
from morphsearch.report.progress import progress

BUDGETS = ("flops=50%", "params=50%")
RESULTS = Path(__file__).parent / "results" / "cifar10_search.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-cifar10"))
    parser.add_argument("--epochs", type=float, default=12)
    parser.add_argument("--search-epochs", type=float, default=5)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", action="append")
    parser.add_argument("--baselines", default="uniform,random")
    args = parser.parse_args()
    training = {"precision": "fp32", "channels_last": True, "batch_size": 128}
    done: dict[str, object] = json.loads(RESULTS.read_text())["budgets"] if RESULTS.exists() else {}
    for budget in args.budget or BUDGETS:
        folder = args.work / budget.replace("=", "-").replace("%", "")
        config = SearchConfig(
            "mobilenet_v1?alpha=0.25",
            data=args.data,
            budget=(budget,),
            iterations=args.iterations,
            epochs=args.search_epochs,
            recipe=training,
        )
        began = time.perf_counter()
        with progress(every=20.0) as listener:
            found = resume(folder, listener=listener) if folder.exists() else start(config, folder, listener=listener)
            comparison = retrain_run(
                folder,
                baselines=args.baselines.split(","),
                seeds=args.seeds,
                epochs=args.epochs,
                recipe=training,
                listener=listener,
            )
        seconds = sum(
            event["seconds"]
            for event in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
            if event["event"] == "epoch"
        )
        done[budget] = {
            "status": status(folder),
            "search_training_seconds": seconds,
            "sitting_seconds": time.perf_counter() - began,
            "search_epochs": args.search_epochs,
            "iterations": args.iterations,
            "retrain_epochs": args.epochs,
            "architectures": [
                {"name": a.name, "widths": a.widths, "costs": a.costs, "multiplier": a.multiplier, "notes": a.notes}
                for a in found.architectures
            ],
            "comparison": comparison.to_dict(),
        }
        about = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
        for entry in done.values():
            entry["status"]["path"] = Path(entry["status"]["path"]).name  # type: ignore[index]
        write_json(RESULTS, {"about": about, "data": "CIFAR-10, 50,000 training images as JPEG", "budgets": done})
        print(json.dumps(comparison.to_dict(), indent=2))
        print(comparison.verdict)


if __name__ == "__main__":
    main()
