"""What each strategy adds to a training step, against plain training in the same run.

    python benchmarks/step_overhead.py [--batch 64] [--size 64] [--pairs 20] [--fewer 6] [--threads 1]
                                       [--only resnet18/taylor] [--again]

Everything that a strategy runs in a step has a clock: ``penalty()`` and ``step()``, hooks of parameters, and gates,
whose way back through autograd is timed by itself. Their sum over the plain step is `added`: what is looked for is a
hundredth, and whole steps differ by ten of them among themselves. As a check of what no clock sees, plain and searching
steps alternate (for a plain step gates and hooks are off), and the median of searching / plain is given too, with its
quartiles. Units do not leave (that would only make searching steps cheaper), and the strategy presses from the first
step on. Every tenth step looks at all scores, which a median hides: a look is timed by itself, and a tenth of it is
part of `added`. Freed memory stays in the process, as in our own trainings: without that, plain steps of MobileNetV2
take twice as long now and then, which flatters every strategy. Rows go to benchmarks/results/step_overhead.json one by
one; those that are there with the same settings are kept. Run it with nothing else running: the file says how busy the
machine was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import morphsearch as ms
from morphsearch.files import write_json
from morphsearch.models import build_seed
from morphsearch.strategies.gates import Gates
from morphsearch.strategies.taylor import Taylor
from morphsearch.training.memory import freed_memory_kept

SEEDS = {
    "resnet18": "resnet18?num_classes=10",
    "mobilenet_v2": "torchvision:mobilenet_v2?num_classes=10",
    "resnet50": "resnet50?num_classes=10",
    "vgg11": "torchvision:vgg11?num_classes=10",  # without norms: group-lasso touches every weight
}
STRATEGIES = ("gamma-l1", "group-lasso", "logistic-sigmoid", "magnitude", "taylor")
RESULTS = Path(__file__).parent / "results" / "step_overhead.json"
UNTIMED = 1  # pairs before the clock counts


class Clock:
    """Seconds that were spent in what it covers."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, timed."""

        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        return call

    def taken(self) -> float:
        """The seconds since it was asked last."""
        found, self.seconds = self.seconds, 0.0
        return found


@contextmanager
def clocked() -> Iterator[Clock]:
    """Hooks of parameters and gates that are made inside have a clock."""
    clock, listener = Clock(), Taylor._hook
    before, after = Gates._before, Gates._after
    Taylor._hook = lambda self, held: clock.timed(listener(self, held))  # type: ignore[method-assign]
    Gates._before, Gates._after = clock.timed(before), clock.timed(after)  # type: ignore[method-assign]
    try:
        yield clock
    finally:
        Taylor._hook, Gates._before, Gates._after = listener, before, after  # type: ignore[method-assign]


def way_back(strategy: Any) -> float:
    """Seconds that gradients take through the gates; 0 without any."""
    gates = getattr(strategy, "_gates", None)
    if gates is None:
        return 0.0
    times = []
    for _ in range(10):
        products = gates._products(gates.source(gates.model))
        # The places with gates, and the gates: what the gradient goes on to.
        leaves = [*{id(place.tensor): place.tensor for place in gates.places}.values(), strategy._heard]
        ones = [torch.ones_like(product) for product in products]
        began = time.perf_counter()
        torch.autograd.grad(products, leaves, ones, allow_unused=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure(spec: str, strategy: str, batch: int, size: int, pairs: int) -> dict[str, Any]:
    """Medians in milliseconds, what is added to a plain step, and the ratio of a searching step to the plain one."""
    with clocked() as clock, freed_memory_kept(torch.device("cpu"), lambda: True):
        return _measured(clock, spec, strategy, batch, size, pairs)


def _measured(clock: Clock, spec: str, strategy: str, batch: int, size: int, pairs: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = build_seed(spec, input_shape=(3, size, size)).model
    example = torch.zeros(1, 3, size, size)
    search = ms.Search(model, example, "flops=50%", strategy=strategy, steps=100 * pairs, warmup=0.0)
    model = search.model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x, y = torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))
    penalty, after = clock.timed(search.penalty), clock.timed(search.step)

    def step(searching: bool) -> float:
        began = time.perf_counter()
        loss = nn.functional.cross_entropy(model(x), y)
        if searching:
            loss = loss + penalty()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if searching:
            after(1e-3)
        return time.perf_counter() - began

    plain: list[float] = []
    searched: list[float] = []
    added: list[float] = []
    for pair in range(pairs + UNTIMED):
        # Now one first, now the other.
        for searching in (False, True) if pair % 2 else (True, False):
            if searching:
                clock.taken()
                spent = step(True)
                covered = clock.taken()
            else:
                with search.strategy.plain():
                    spent = step(False)
            if pair >= UNTIMED:
                (searched if searching else plain).append(spent)
                if searching:
                    added.append(covered)
    looks = []
    for _ in range(3):
        began = time.perf_counter()
        search._look(1e-3)
        looks.append(time.perf_counter() - began)
    ratios = sorted(two / one for one, two in zip(plain, searched, strict=True))
    quartiles = statistics.quantiles(ratios, n=4)
    look, back = statistics.median(looks), way_back(search.strategy)
    more = statistics.median(added) + back + look / search.controller.every
    return {
        "added": more / statistics.median(plain),
        "added_ms": 1e3 * more,
        "gates_back_ms": 1e3 * back,
        "plain_ms": 1e3 * statistics.median(plain),
        "searching_ms": 1e3 * statistics.median(searched),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [quartiles[0], quartiles[2]],
        "ratio_of_means": statistics.fmean(searched) / statistics.fmean(plain),
        "ratio_of_fastest": statistics.fmean(_fastest(searched)) / statistics.fmean(_fastest(plain)),
        "look_ms": 1e3 * look,
    }


def _fastest(times: list[float]) -> list[float]:
    """The fastest third: what else the machine does can only slow a step down."""
    return sorted(times)[: max(1, len(times) // 3)]


def kept(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows that are there already, of the same settings."""
    if not RESULTS.exists():
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
        "--only",
        action="append",
        metavar="NETWORK/STRATEGY",
        choices=[f"{network}/{strategy}" for network in SEEDS for strategy in STRATEGIES],
        help="measure this row alone; repeatable",
    )
    parser.add_argument("--again", action="store_true", help="measure rows anew that are in the file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = {"batch": args.batch, "size": args.size, "pairs": args.pairs, "threads": args.threads}
    rows = kept(settings)
    done = set() if args.again else set(rows)
    about = {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count()}
    for network, spec in SEEDS.items():
        for strategy in STRATEGIES:
            name = f"{network}/{strategy}"
            if name in done or (args.only and name not in args.only) or (name == "vgg11/gamma-l1"):
                continue
            busy = os.getloadavg()[0]
            pairs = args.fewer if args.fewer and network == "resnet50" else args.pairs
            rows[name] = {"pairs": pairs, **measure(spec, strategy, args.batch, args.size, pairs), "load_average": busy}
            write_json(RESULTS, {"about": about, "settings": settings, "rows": rows})
            row = rows[name]
            print(
                f"{name:30s} plain {row['plain_ms']:8.1f} ms   added {row['added_ms']:6.2f} ms   "
                f"{100 * row['added']:.2f} %   ratio {row['ratio']:.4f} "
                f"({row['ratio_quartiles'][0]:.4f} to {row['ratio_quartiles'][1]:.4f})   "
                f"fastest {row['ratio_of_fastest']:.4f}   load {busy:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
