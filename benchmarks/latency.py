"""Held-out error of the latency predictor on this machine: networks that were never used in the fit.

    python benchmarks/latency.py measure --out runs/latency --slice 280     # repeat until it says that all is done
    python benchmarks/latency.py evaluate --out runs/latency                # the table, and OUT/latency.json
    python benchmarks/latency.py measure --out runs/others --seed 1         # other held-out networks

Ten architectures at random widths. Each of them gives FIT variants, whose operations and totals are what a profile
holds, and TEST other variants, which are only timed. `measure` appends one line a network and goes on where it stopped,
so that it can run in short slices on a quiet machine. `plain` is a predictor that knows FLOPs alone, for comparison.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from morphsearch import plugins
from morphsearch.costs import bind, vector
from morphsearch.files import append_line, read_lines, write_json
from morphsearch.hardware.algorithms import rule_of
from morphsearch.hardware.kinds import Fusion
from morphsearch.hardware.measure import CHUNK, Session, backend_of
from morphsearch.hardware.pace import drift, even_pace, suffered
from morphsearch.hardware.predictor import NetworkSample, errors, fit
from morphsearch.hardware.sampling import Target, draw_widths, spread_widths
from morphsearch.hardware.settings import Settings, describe_device, describe_versions
from morphsearch.hardware.work import works_of
from morphsearch.models import build_seed

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "plugins" / "morphsearch-onnxruntime"))

ARCHITECTURES = (
    *("resnet20", "mobilenet_v1"),
    *("resnet18", "mobilenet_v2", "densenet121", "squeezenet1_0", "regnet_y_400mf"),
    *("efficientnet_b0", "googlenet", "shufflenet_v2_x1_0"),
)
BUILT_IN = ("resnet20", "mobilenet_v1")
CONFIGS = {
    "eager-b1": (Settings("eager", batch=1, threads=1), 96),
    "onnxruntime-b1": (Settings("onnxruntime", batch=1, threads=1), 96),
    "eager-b16": (Settings("eager", batch=16, threads=1), 64),
    "onnxruntime-b16": (Settings("onnxruntime", batch=16, threads=1), 64),
}
# Where there is a GPU: one that waits for the processor, and one that has enough to do.
CUDA = {
    "cuda-eager-b1": (Settings("eager", device="cuda", batch=1), 224),
    "cuda-eager-b64": (Settings("eager", device="cuda", batch=64), 224),
}
ALL = {**CONFIGS, **CUDA}
FIT, TEST = 7, 6


def target(name: str, size: int) -> Target:
    """One of the architectures, recorded."""
    torch.manual_seed(0)
    if name in BUILT_IN:
        return Target.of(name, build_seed(name).model, torch.zeros(1, 3, size, size))
    import torchvision_shim

    return Target.of(name, torchvision_shim.build(name), torch.zeros(1, 3, size, size))


def plan() -> list[tuple[str, str, int]]:
    """Architecture, role and number of every network, so that roles and architectures take turns."""
    roles = [(role, number) for number in range(max(FIT, TEST)) for role in ("fit", "test")]
    return [
        (name, role, number) for role, number in roles for name in ARCHITECTURES if number < (FIT, TEST)[role == "test"]
    ]


def widths_of(found: Target, role: str, number: int, seed: int) -> dict[str, int]:
    """The widths of a network: drawn by its name, role and number alone. Those of a fit are spread as a profile's, and
    the same whatever the seed."""
    if role == "fit":
        spread = spread_widths(found.graph, np.random.default_rng([ARCHITECTURES.index(found.name)]))
        return next(islice(spread, number, None))
    return draw_widths(found.graph, np.random.default_rng([ARCHITECTURES.index(found.name), 1 + seed, number]))


def measure(out: Path, seconds: float, only: list[str], seed: int = 0) -> bool:
    """Measure until the slice is over; whether all is done. What was begun with another seed goes on in another OUT."""
    started = time.monotonic()
    for config in only:
        settings, size = ALL[config]
        path = out / f"{config}.jsonl"
        lines = read_lines(path)
        begun = {line.get("seed", 0) for line in lines} - {seed}
        if begun:
            raise SystemExit(f"{path} was measured with --seed {begun.pop()}: take that, or another --out")
        done = {(line["network"], line["role"], line["number"]) for line in lines}
        missing = [item for item in plan() if item not in done]
        if not missing:
            continue
        session = Session(settings, rounds=8 if settings.batch == 1 else 6, seconds=0.02)
        targets: dict[str, Target] = {}
        for start in range(0, len(missing), CHUNK):
            if time.monotonic() - started > seconds:
                print(f"{config}: {len(missing) - start} networks are left")
                return False
            chunk = missing[start : start + CHUNK]
            for name, _, _ in chunk:
                targets.setdefault(name, target(name, size))
            chosen = [(targets[name], widths_of(targets[name], role, number, seed)) for name, role, number in chunk]
            for (name, role, number), sample in zip(chunk, session.sample(chosen), strict=True):
                found = {"network": name, "role": role, "number": number, "seed": seed}
                append_line(path, {**found, **line_of(sample)})
        for note in session.notes:
            print(note)
    print("all is measured")
    return True


def line_of(sample: NetworkSample) -> dict[str, Any]:
    """A sample as a line of the file; its rows are computed again from the widths."""
    families, rows, seconds = sample.seen
    return {
        "widths": sample.widths,
        "ms": sample.ms,
        "low": sample.low,
        "high": sample.high,
        "repeated": sample.repeated,
        "pace": sample.pace,
        "seen": [families, [[float(v) for v in row] for row in rows], [float(v) for v in seconds]],
        "issued": [float(v) for v in sample.issued],
    }


def samples(config: str, lines: list[dict[str, Any]], graphs: dict[str, Target]) -> list[NetworkSample]:
    """The samples behind lines of a file."""
    settings, size = ALL[config]
    fusion, rule = Fusion.of(backend_of(settings.backend), settings), rule_of(settings)
    found, works = [], {}
    for line in lines:
        name = line["network"]
        if name not in works:
            graphs.setdefault(f"{name}@{size}", target(name, size))
            works[name] = works_of(graphs[f"{name}@{size}"].graph, fusion, settings.batch)
        own = works[name]
        families, rows, seconds = line["seen"]
        rows = [row + [0.0] * (own.constant.shape[1] - len(row)) for row in rows]  # measured when rows were shorter
        seen = (families, np.array(rows, np.float64).reshape(-1, own.constant.shape[1]), np.array(seconds))
        at = own.rows(np.array(line["widths"], np.float64))
        times = (line["ms"], line["low"], line["high"], line["repeated"], line.get("pace", 0.0))
        issued = np.array(line.get("issued", ()), np.float64)
        found.append(NetworkSample(name, line["widths"], own.families, at, own.steps, seen, *times, issued, rule))
    return found


def by_flops(config: str, fitted: list[NetworkSample], tested: list[NetworkSample], graphs: dict[str, Target]) -> Any:
    """Predicted over measured by a line through FLOPs, the usual stand-in for latency."""
    size = ALL[config][1]

    def flops(sample: NetworkSample) -> float:
        graph = graphs[f"{sample.name}@{size}"].graph
        return float(bind(graph, "flops").total(vector(graph, dict(zip(graph.groups, sample.widths, strict=True)))))

    x, y = np.array([flops(s) for s in fitted]), np.array([s.ms for s in fitted])
    basis = np.stack([x, np.ones_like(x)], axis=1) / y[:, None]
    slope, constant = np.linalg.lstsq(basis, np.ones_like(y), rcond=None)[0]
    return np.array([slope * flops(s) + constant for s in tested])


def described(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Errors and rank correlation."""
    return {
        **errors(predicted / measured),
        "bias": float(np.median(predicted / measured) - 1),
        "rank": float(spearmanr(predicted, measured).statistic),
    }


def evaluate(out: Path, only: list[str]) -> dict[str, Any]:
    """Fit on the one part, predict the other."""
    graphs: dict[str, Target] = {}
    result: dict[str, Any] = {"device": describe_device("cpu"), "versions": describe_versions(), "configs": {}}
    for config in only:
        lines = read_lines(out / f"{config}.jsonl")
        parts = {role: [line for line in lines if line["role"] == role] for role in ("fit", "test")}
        if not parts["fit"] or not parts["test"]:
            continue
        raw = samples(config, [*parts["fit"], *parts["test"]], graphs)
        paces = np.array([s.pace for s in raw])
        power = suffered(raw[: len(parts["fit"])])
        even = even_pace(raw, power)
        fitted, tested = even[: len(parts["fit"])], even[len(parts["fit"]) :]
        predictor = fit(fitted)
        measured = np.array([s.ms for s in tested])
        predicted = np.array([predictor.network(s.families, s.rows, s.steps) for s in tested])
        ratios = predicted / measured
        noise = np.array([s.repeated for s in tested])
        result["configs"][config] = {
            "settings": {**ALL[config][0].to_dict(), "image": ALL[config][1]},
            "fitted": len(fitted),
            "seed": lines[0].get("seed", 0),
            "held_out": described(predicted, measured),
            "plain": described(by_flops(config, fitted, tested, graphs), measured),
            "noise": {
                "mean": float(noise.mean()),
                "within_10": float((noise <= 0.1).mean()),
                "drift": drift(paces),
                "pace_power": power,
                "unscaled": described(predicted, np.array([s.ms for s in raw[len(fitted) :]])),
            },
            "by_architecture": {
                name: float(np.mean([abs(r - 1) for r, s in zip(ratios, tested, strict=True) if s.name == name]))
                for name in ARCHITECTURES
                if any(s.name == name for s in tested)
            },
            "networks": [
                {"network": s.name, "measured_ms": s.ms, "predicted_ms": float(p)}
                for s, p in zip(tested, predicted, strict=True)
            ],
        }
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("measure", "evaluate"))
    parser.add_argument("--out", type=Path, default=Path("runs/latency"))
    parser.add_argument("--slice", type=float, default=280.0, help="seconds after which measuring stops")
    parser.add_argument("--only", nargs="*", choices=list(ALL), default=list(CONFIGS))
    parser.add_argument("--seed", type=int, default=0, help="another one draws other held-out networks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if "onnxruntime" not in plugins.registry("latency_backends"):
        plugins.register("morphsearch_onnxruntime")
    if given.action == "measure":
        sys.exit(0 if measure(given.out, given.slice, given.only, given.seed) else 1)
    result = evaluate(given.out, given.only)
    write_json(given.out / "latency.json", result)
    for config, entry in result["configs"].items():
        held, plain = entry["held_out"], entry["plain"]
        print(
            f"{config}: {held['networks']:.0f} networks, {100 * held['within_10']:.0f}% within 10%, "
            f"MAPE {100 * held['mape']:.1f}%, rank {held['rank']:.3f}, noise {100 * entry['noise']['mean']:.1f}% "
            f"(FLOPs alone: {100 * plain['within_10']:.0f}%, {100 * plain['mape']:.1f}%, {plain['rank']:.3f})"
        )
        print(json.dumps({k: round(v, 3) for k, v in entry["by_architecture"].items()}))


if __name__ == "__main__":
    main()
