"""What penalty() and step() add to a training step, against plain training in the same run.

    python benchmarks/step_overhead.py [--batch 64] [--size 64] [--steps 30]

Plain and searching steps alternate, so that both see the same machine. Writes benchmarks/results/step_overhead.json.
Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import nn

import morphsearch as ms
from morphsearch.files import write_json
from morphsearch.models import build_seed

SEEDS = {"resnet18": "resnet18?num_classes=10", "mobilenet_v2": "torchvision:mobilenet_v2?num_classes=10"}
RESULTS = Path(__file__).parent / "results" / "step_overhead.json"


def measure(spec: str, batch: int, size: int, steps: int) -> dict[str, float]:
    """Median milliseconds of a plain step, of a searching step and of the two hooks alone, and the hooks' share."""
    model = build_seed(spec, input_shape=(3, size, size)).model
    search = ms.Search(model, torch.zeros(1, 3, size, size), "flops=50%", steps=10 * steps, warmup=0.0)
    model = search.model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    search.follow(optimizer)
    x, y = torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))
    plain, searching, hooks = [], [], []
    for step in range(2 * steps + 4):
        with_search = step % 2 == 1
        began = time.perf_counter()
        spent = 0.0
        loss = nn.functional.cross_entropy(model(x), y)
        if with_search:
            mark = time.perf_counter()
            loss = loss + search.penalty()
            spent += time.perf_counter() - mark
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if with_search:
            mark = time.perf_counter()
            search.step()
            spent += time.perf_counter() - mark
        if step >= 4:
            (searching if with_search else plain).append(time.perf_counter() - began)
            if with_search:
                hooks.append(spent)
    milliseconds = {
        "plain_ms": 1e3 * statistics.median(plain),
        "searching_ms": 1e3 * statistics.median(searching),
        # The mean: every tenth step looks at all scores, which a median would hide.
        "hooks_ms": 1e3 * statistics.fmean(hooks),
    }
    return {**milliseconds, "hooks_share": milliseconds["hooks_ms"] / milliseconds["plain_ms"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    rows = {name: measure(spec, args.batch, args.size, args.steps) for name, spec in SEEDS.items()}
    about = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    write_json(RESULTS, {"about": about, "settings": vars(args), "networks": rows})
    for name, row in rows.items():
        print(
            f"{name:14s} plain {row['plain_ms']:8.1f} ms   searching {row['searching_ms']:8.1f} ms   "
            f"hooks {row['hooks_ms']:.2f} ms = {100 * row['hooks_share']:.2f}% of a plain step"
        )


if __name__ == "__main__":
    main()
