"""What each strategy adds to a training step, against plain training in the same run.

    python benchmarks/step_overhead.py [--batch 64] [--size 64] [--pairs 20] [--fewer 6] [--threads 1]
                                       [--only resnet18/taylor] [--again]

Plain and searching steps of one network alternate, so that both see the same machine; for a plain step gates and hooks
are off. Reported: the median of each, the median over pairs of searching / plain, with its quartiles, and the ratio of
the fastest thirds, which other programs disturb least. Units do not leave (that would only make searching steps
cheaper), and the strategy presses from the first step on. Every tenth step looks at all scores, which a median hides:
a look is timed by itself, and a tenth of it added (`ratio_with_looks`). Rows go to
benchmarks/results/step_overhead.json one by one; those that are there with the same settings are kept. Run it with
nothing else running: the file says how busy the machine was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import morphsearch as ms
from morphsearch.files import write_json
from morphsearch.models import build_seed

SEEDS = {
    "resnet18": "resnet18?num_classes=10",
    "mobilenet_v2": "torchvision:mobilenet_v2?num_classes=10",
    "resnet50": "resnet50?num_classes=10",
    "vgg11": "torchvision:vgg11?num_classes=10",  # without norms: group-lasso touches every weight
}
STRATEGIES = ("gamma-l1", "group-lasso", "logistic-sigmoid", "magnitude", "taylor")
RESULTS = Path(__file__).parent / "results" / "step_overhead.json"
UNTIMED = 1  # pairs before the clock counts


def measure(spec: str, strategy: str, batch: int, size: int, pairs: int) -> dict[str, Any]:
    """Medians in milliseconds, and the ratio of a searching step to the plain one beside it."""
    torch.manual_seed(0)
    model = build_seed(spec, input_shape=(3, size, size)).model
    example = torch.zeros(1, 3, size, size)
    search = ms.Search(model, example, "flops=50%", strategy=strategy, steps=100 * pairs, warmup=0.0)
    model = search.model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x, y = torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))

    def step(searching: bool) -> float:
        began = time.perf_counter()
        loss = nn.functional.cross_entropy(model(x), y)
        if searching:
            loss = loss + search.penalty()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if searching:
            search.step(1e-3)
        return time.perf_counter() - began

    plain: list[float] = []
    searched: list[float] = []
    for pair in range(pairs + UNTIMED):
        # Now one first, now the other.
        for searching in (False, True) if pair % 2 else (True, False):
            if searching:
                spent = step(True)
            else:
                with search.strategy.plain():
                    spent = step(False)
            if pair >= UNTIMED:
                (searched if searching else plain).append(spent)
    looks = []
    for _ in range(3):
        began = time.perf_counter()
        search._look(1e-3)
        looks.append(time.perf_counter() - began)
    ratios = sorted(two / one for one, two in zip(plain, searched, strict=True))
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "plain_ms": 1e3 * statistics.median(plain),
        "searching_ms": 1e3 * statistics.median(searched),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [quartiles[0], quartiles[2]],
        "ratio_of_means": statistics.fmean(searched) / statistics.fmean(plain),
        "ratio_of_fastest": statistics.fmean(_fastest(searched)) / statistics.fmean(_fastest(plain)),
        "look_ms": 1e3 * statistics.median(looks),
        "ratio_with_looks": statistics.median(ratios)
        + statistics.median(looks) / search.controller.every / statistics.median(plain),
    }


def _fastest(times: list[float]) -> list[float]:
    """The fastest third: what else the machine does can only slow a step down."""
    return sorted(times)[: max(1, len(times) // 3)]


def kept(settings: dict[str, Any], again: bool) -> dict[str, dict[str, Any]]:
    """Rows that are there already, of the same settings."""
    if again or not RESULTS.exists():
        return {}
    found = json.loads(RESULTS.read_text())
    return dict(found.get("rows", {})) if found.get("settings") == settings else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--fewer", type=int, help="so many pairs of resnet50")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", action="append", metavar="NETWORK/STRATEGY", help="measure this row alone; repeatable"
    )
    parser.add_argument("--again", action="store_true", help="measure rows anew that are in the file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = {"batch": args.batch, "size": args.size, "pairs": args.pairs, "threads": args.threads}
    rows = kept(settings, args.again)
    about = {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count()}
    for network, spec in SEEDS.items():
        for strategy in STRATEGIES:
            name = f"{network}/{strategy}"
            if name in rows or (args.only and name not in args.only) or (name == "vgg11/gamma-l1"):
                continue
            busy = os.getloadavg()[0]
            pairs = args.fewer if args.fewer and network == "resnet50" else args.pairs
            rows[name] = {"pairs": pairs, **measure(spec, strategy, args.batch, args.size, pairs), "load_average": busy}
            write_json(RESULTS, {"about": about, "settings": settings, "rows": rows})
            row = rows[name]
            print(
                f"{name:30s} plain {row['plain_ms']:8.1f} ms   searching {row['searching_ms']:8.1f} ms   "
                f"ratio {row['ratio_with_looks']:.4f} "
                f"({row['ratio_quartiles'][0]:.4f} to {row['ratio_quartiles'][1]:.4f})   "
                f"fastest {row['ratio_of_fastest']:.4f}   load {busy:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
