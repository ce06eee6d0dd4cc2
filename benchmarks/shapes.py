"""How much is there to win? Many shapes of one network at one cost, each trained from scratch, on one GPU.

    python benchmarks/shapes.py speed DATA [--network N ...]     time of a step, by memory format and number at once
    python benchmarks/shapes.py run DATA --network N --budget B [--first 36] [--next 20 16] [--last 8] [--out FILE]
    python benchmarks/shapes.py summary [--out FILE]

First uniform scaling, points along the axes of `trials` and random widths, with short and with whole trainings; then,
for each number after ``--next``, so many widths near the best, chosen by a Gaussian process through all that is known;
then the ``--last`` best with three other seeds, beside uniform scaling. Chosen by the validation part alone. A line of
JSON a training; a training that has its line is not repeated. See `at_once.py` for how so many go on one GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from at_once import Course, Images, Lane, train
from scipy.stats import spearmanr

from morphsearch.data import load
from morphsearch.graph import record
from morphsearch.loop.budget import Budgets
from morphsearch.loop.selection import fill_up
from morphsearch.models import build_seed
from morphsearch.strategies.registry import get as get_strategy
from morphsearch.strategies.shapes import Shapes
from morphsearch.strategies.widths import largest_multiplier
from morphsearch.training import Recipe

NETWORKS = ("mobilenet_v1?alpha=0.25", "vgg16_bn?alpha=0.25", "resnet20")
RESULTS = Path(__file__).parent / "results" / "shapes.jsonl"
EPOCHS, SHORT = 12.0, 4.0
LIMIT = 4.0
DIVERGED = 0.12  # validation accuracy of a training that learnt nothing
NOISE = 0.7  # points of accuracy between two trainings of one network
Widths = dict[str, int]


class Cell:
    """One network under one budget: its widths as vectors, at that cost."""

    def __init__(self, network: str, budget: str) -> None:
        self.network, self.budget = network, budget
        torch.manual_seed(0)
        self.graph = record(
            build_seed(network, num_classes=10, input_shape=(3, 32, 32)).model, torch.zeros(1, 3, 32, 32)
        )
        self.budgets = Budgets(self.graph, (budget,))
        self.free = [name for name, group in self.graph.groups.items() if group.frozen is None]
        self.shapes = Shapes(self.graph, LIMIT)

    def filled(self, widths: Widths, base: dict[str, float] | None = None) -> Widths:
        """With what room the budget has left."""
        return fill_up(self.graph, widths, self.budgets.fits, base=base, load=self.budgets.load)

    def point(self, *values: float) -> Widths:
        """A shape of `trials`."""
        padded = (*values, *(0.0,) * (len(self.shapes.axes) - len(values)))
        return self.filled(self.shapes.widths(padded, self.budgets.fits))

    def near(self, logs: np.ndarray) -> Widths:
        """Widths whose factors over the seed's have these logarithms, up to a common one."""
        factors = np.exp(np.clip(logs, -2.5, 2.5))
        base = {
            **{name: float(width) for name, width in self.graph.widths.items()},
            **{name: self.graph.widths[name] * float(f) for name, f in zip(self.free, factors, strict=True)},
        }
        _, widths = largest_multiplier(self.graph, base, self.budgets.fits, 64.0)
        return self.filled(widths, base)

    def random(self, draw: int) -> Widths:
        """A draw of the strategy `random`."""
        strategy = get_strategy("random")
        widths = strategy.propose(self.graph, self.budgets.fits, np.random.default_rng(draw))
        return self.filled(widths, getattr(strategy, "meant", None))

    def logs(self, widths: Widths) -> np.ndarray:
        """`f`: what :meth:`near` takes, with mean 0."""
        found = np.log([max(widths[name], 0.5) / self.graph.widths[name] for name in self.free])
        return np.asarray(found - found.mean())

    def smooth(self, rng: np.random.Generator) -> np.ndarray:
        """Random logarithms that change slowly with depth."""
        z = np.linspace(-1, 1, len(self.free))
        modes = np.array([np.polynomial.legendre.Legendre.basis(k)(z) for k in range(1, 5)])
        return np.asarray((rng.standard_normal(4) * [0.5, 0.35, 0.25, 0.2]) @ modes)


def first(cell: Cell, count: int) -> list[tuple[str, Widths]]:
    """What is tried without knowing anything."""
    rng = np.random.default_rng(0)
    points = [(0.0, 0.0), (0.5, 0.0), (0.25, 0.0), (1.0, 0.0), (-0.5, 0.0)]
    points += [(0.0, 0.4), (0.0, -0.4), (0.5, 0.4), (0.5, -0.4), (0.75, 0.0)]
    given = [("uniform" if not any(p) else f"point {p[0]:g} {p[1]:g}", cell.point(*p)) for p in points]
    if "streams" in cell.shapes.axes:
        given += [(f"point 0 0 {s:g}", cell.point(0, 0, s)) for s in (0.5, -0.5)]
    rest = max(0, count - len(given))
    drawn = [(f"random {draw}", cell.random(draw)) for draw in range(rest // 2)]
    drawn += [(f"smooth {k}", cell.near(cell.smooth(rng))) for k in range(rest - rest // 2)]
    return [*given, *drawn][:count]


def chosen(cell: Cell, known: Sequence[tuple[Widths, float]], count: int, spread: float, seed: int) -> list[Widths]:
    """Widths near the best that promise most: the upper end of what a Gaussian process expects of them.

    The kernel is linear in the logarithms of the widths, and smooth; points are of accuracy in percent.
    """
    rng = np.random.default_rng(seed)
    x = np.array([cell.logs(widths) for widths, _ in known])
    y = np.array([100 * value for _, value in known])
    order = np.argsort(-y)
    pool: list[Widths] = []
    for _ in range(250):
        if rng.random() < 0.7:
            start = x[order[int(rng.integers(min(6, len(order))))]]
            other = x[order[int(rng.integers(min(6, len(order))))]]
            mixed = start + rng.random() * 0.5 * (other - start)
            pool.append(cell.near(mixed + spread * rng.standard_normal(len(mixed))))
        else:
            pool.append(cell.near(x[order[0]] + cell.smooth(rng) * 2 * spread))
    points = np.array([cell.logs(widths) for widths in pool])

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        apart = ((a[:, None] - b[None]) ** 2).sum(-1) / x.shape[1]
        return np.asarray(1.5**2 * a @ b.T / x.shape[1] * 4 + 1.5**2 * np.exp(-apart / (2 * 0.35**2)))

    picked: list[Widths] = []
    while len(picked) < count:
        inner = kernel(x, x) + NOISE**2 * np.eye(len(x))
        cross = kernel(points, x)
        solved = np.linalg.solve(inner, cross.T)
        mean = cross @ np.linalg.solve(inner, y - y.mean()) + y.mean()
        variance = np.diag(kernel(points, points)) - (cross * solved.T).sum(1)
        best = int(np.argmax(mean + 0.7 * np.sqrt(np.maximum(variance, 0))))
        picked.append(pool[best])
        # As if it came out as expected, so that the next one lies elsewhere.
        x, y = np.vstack([x, points[best : best + 1]]), np.append(y, mean[best])
        points, pool = np.delete(points, best, 0), [w for k, w in enumerate(pool) if k != best]
    return picked


class Bench:
    """The data on the device, and trainings of it with their lines."""

    def __init__(self, data: str, out: Path, until: float, device: str, format_: str) -> None:
        splits = load(data)
        self.device = torch.device(device)
        self.images = Images(splits.train, splits.val, splits.test, self.device)  # type: ignore[arg-type]
        self.recipe = Recipe(batch_size=128, precision="fp32")
        self.out, self.until, self.format = out, until, format_
        self.lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []

    def course(self, longest: float) -> Course:
        """Tables of a training."""
        return Course(self.recipe, len(self.images.labels), self.device, longest)

    def trainings(
        self, cell: Cell, named: Iterable[tuple[str, Widths]], epochs: float, seeds: Sequence[int], at_once: int
    ) -> None:
        """Those that have no line yet."""
        course = self.course(epochs)
        wanted = list(named)
        for start in range(0, len(wanted), at_once):
            part = wanted[start : start + at_once]
            lanes: list[Lane] | None = None
            for seed in seeds:
                if all(self.find(cell, widths, epochs, seed) for _, widths in part) or time.monotonic() > self.until:
                    continue
                if lanes is None:
                    lanes = [
                        Lane(partial(cell.graph.resize, widths), self.images, course, channels_last=self.last(cell))
                        for _, widths in part
                    ]
                began = time.monotonic()
                for (name, widths), outcome in zip(part, train(lanes, epochs, seed, self.until), strict=True):
                    if outcome is None:
                        continue
                    line = {
                        "network": cell.network,
                        "budget": cell.budget,
                        "shape": name,
                        "epochs": epochs,
                        "seed": seed,
                        "val_loss": outcome.val_loss,
                        "val": outcome.val,
                        "test": outcome.test,
                        "costs": cell.budgets.costs(widths),
                        "widths": widths,
                        "seconds": (time.monotonic() - began) / len(part),
                        "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
                        "torch": torch.__version__,
                    }
                    self.lines.append(line)
                    with self.out.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                print(
                    f"{cell.network} {cell.budget} {epochs:g} epochs, seed {seed}: {len(part)} trainings "
                    f"{time.monotonic() - began:.1f} s",
                    flush=True,
                )
            del lanes

    def last(self, cell: Cell) -> bool:
        """Whether channels come last: quicker where there are no depthwise convolutions, unless the user says."""
        return self.format == "last" or (self.format == "auto" and "mobilenet" not in cell.network)

    def of(self, cell: Cell, epochs: float) -> list[dict[str, Any]]:
        """The lines of a cell."""
        return [
            e for e in self.lines if (e["network"], e["budget"], e["epochs"]) == (cell.network, cell.budget, epochs)
        ]

    def find(self, cell: Cell, widths: Widths, epochs: float, seed: int) -> bool:
        """Whether there is a line."""
        return any(e["widths"] == widths and e["seed"] == seed for e in self.of(cell, epochs))


def run(args: argparse.Namespace) -> None:
    """One cell, as far as the time goes."""
    bench = Bench(args.data, args.out, time.monotonic() + args.seconds, args.device, args.format)
    cell = Cell(args.network[0], args.budget)
    start = first(cell, args.first)
    if args.short:
        bench.trainings(cell, start, args.short, [0], args.at_once)
    bench.trainings(cell, start, args.epochs, [0], args.at_once)
    for number, count in enumerate(args.next):
        known = [(e["widths"], e["val"]) for e in bench.of(cell, args.epochs) if e["seed"] == 0]
        near = chosen(cell, known, count, 0.25 * 0.7**number, number)
        bench.trainings(cell, [(f"near {number}.{k}", w) for k, w in enumerate(near)], args.epochs, [0], args.at_once)
    once = [e for e in bench.of(cell, args.epochs) if e["seed"] == 0]
    finals = named([(e["shape"], e["widths"]) for e in sorted(once, key=lambda e: -e["val"])[: args.last]], start)
    bench.trainings(cell, finals, args.epochs, [1, 2, 3], args.at_once)
    if args.long:
        means = {
            name: statistics.mean(e["val"] for e in bench.of(cell, args.epochs) if e["shape"] == name)
            for name, _ in finals
        }
        best = sorted(finals, key=lambda one: -means[one[0]])[:3]
        bench.trainings(cell, named(best, start), args.long, [0, 1], args.at_once)


def named(chosen_: list[tuple[str, Widths]], start: list[tuple[str, Widths]]) -> list[tuple[str, Widths]]:
    """With what they are compared to."""
    names = {name for name, _ in chosen_}
    return chosen_ + [(n, w) for n, w in start if n in ("uniform", "point 0.5 0") and n not in names]


def speed(args: argparse.Namespace) -> None:
    """Milliseconds a step, of so many at once."""
    bench = Bench(args.data, args.out, time.monotonic() + args.seconds, args.device, args.format)
    course = bench.course(1.0)
    course.begin(1.0, 0)
    for network in args.network or NETWORKS:
        cell = Cell(network, args.budget)
        widths = cell.point(0.0)
        for last in (False, True):
            for count in args.counts:
                began = time.monotonic()
                build = partial(cell.graph.resize, widths)
                lanes = [Lane(build, bench.images, course, channels_last=last) for _ in range(count)]
                made = time.monotonic() - began
                for lane in lanes:
                    lane.begin(0)
                torch.cuda.synchronize()
                began = time.monotonic()
                for _ in range(args.steps):
                    for lane in lanes:
                        lane.step()
                torch.cuda.synchronize()
                each = (time.monotonic() - began) / args.steps / count
                print(
                    f"{network} channels_last={last} {count} at once: {1e3 * each:.3f} ms a step of one "
                    f"({course.batch / each:.0f} images/s), {made:.1f} s to begin",
                    flush=True,
                )
                del lanes


def summary(args: argparse.Namespace) -> None:
    """What docs/experiments.md quotes: kinds of shapes, those with several seeds, short trainings, a smooth fit."""
    lines = [json.loads(line) for line in args.out.read_text().splitlines()]
    cells = dict.fromkeys((e["network"], e["budget"]) for e in lines)
    for network, budget in cells:
        cell = Cell(network, budget)
        own = [e for e in lines if (e["network"], e["budget"]) == (network, budget)]
        whole = [e for e in own if e["epochs"] == args.epochs and e["val"] > DIVERGED]
        print(f"{network} {budget}: {len(whole)} trainings of {args.epochs:g} epochs, and", end=" ")
        print(f"{sum(e['epochs'] == args.epochs and e['val'] <= DIVERGED for e in own)} that diverged")
        once = {e["shape"]: e for e in whole if e["seed"] == 0}
        for kind in dict.fromkeys(name.split()[0] for name in once):
            tests = [100 * e["test"] for name, e in once.items() if name.split()[0] == kind]
            spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
            print(f"| {kind} | {len(tests)} | {statistics.mean(tests):.2f} +- {spread:.2f} | {max(tests):.2f} |")
        for name in dict.fromkeys(e["shape"] for e in whole if e["seed"]):
            fresh = [100 * e["test"] for e in whole if e["shape"] == name and e["seed"]]
            others = f"{statistics.mean(fresh):.2f} +- {statistics.stdev(fresh):.2f}"
            print(f"| {name} | {100 * once[name]['test']:.2f} | {others} | {list(once[name]['widths'].values())} |")
        short = {e["shape"]: e for e in own if e["epochs"] == args.short and e["shape"] in once}
        if short:
            rank = spearmanr([-e["val_loss"] for e in short.values()], [once[name]["test"] for name in short]).statistic
            print(f"rank correlation of {args.short:g} epochs with whole trainings: {rank:.2f}")
        smooth_fit(cell, whole)


def smooth_fit(cell: Cell, lines: Sequence[dict[str, Any]]) -> None:
    """Accuracy as a quadratic in the two axes of `trials`, less so much for what no axis explains."""
    z = np.linspace(-1, 1, len(cell.free))
    axes = np.array([-z, 0.5 - 1.5 * z**2])
    logs = np.array([cell.logs({**cell.graph.widths, **e["widths"]}) for e in lines])
    centred = axes - axes.mean(1, keepdims=True)
    points = logs @ np.linalg.pinv(centred)
    rough = ((logs - points @ centred) ** 2).mean(1)
    early, middle = points.T
    basis = np.stack([np.ones_like(early), early, middle, early**2, middle**2, early * middle, rough], axis=1)
    y = np.array([100 * e["test"] for e in lines])
    found = np.linalg.lstsq(basis, y, rcond=None)[0]
    left = y - basis @ found
    share = 1 - (left**2).sum() / ((y - y.mean()) ** 2).sum()
    bend = np.array([[2 * found[3], found[5]], [found[5], 2 * found[4]]])
    top = np.linalg.solve(bend, -found[1:3])
    gain = float(found[1:3] @ top + 0.5 * top @ bend @ top)
    print(
        f"fit (R^2 {share:.2f}, {left.std():.2f} left): best at early {top[0]:+.2f}, middle {top[1]:+.2f}, {gain:.1f}"
        f" points over uniform scaling; {found[6]:+.1f} points for each unit of mean squared roughness"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in (("speed", speed), ("run", run), ("summary", summary)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("--out", type=Path, default=RESULTS)
        command.add_argument("--epochs", type=float, default=EPOCHS)
        command.add_argument("--short", type=float, default=SHORT, help="epochs of the first ones' short trainings")
        if name == "summary":
            continue
        command.add_argument("data")
        command.add_argument("--network", action="append")
        command.add_argument("--budget", default="flops=50%")
        command.add_argument("--seconds", type=float, default=1e9, help="no training goes on after so many")
        command.add_argument("--device", default="cuda")
        command.add_argument("--format", choices=("auto", "last", "first"), default="auto")
        command.add_argument("--at-once", type=int, default=18)
        command.add_argument("--counts", type=int, nargs="+", default=[1, 8, 24])
        command.add_argument("--steps", type=int, default=60)
        command.add_argument("--first", type=int, default=36)
        command.add_argument("--next", type=int, nargs="*", default=[20, 16])
        command.add_argument("--last", type=int, default=8)
        command.add_argument("--long", type=float, default=0.0, help="epochs of the best ones' longest trainings")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    sys.exit(main())
