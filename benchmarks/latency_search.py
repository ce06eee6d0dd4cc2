"""A search for ``latency=50%`` against one for ``flops=50%``, on one network and data set: latency and accuracy.

    python benchmarks/latency_search.py DATA [--network N] [--work FOLDER] [--search-epochs 3] [--epochs 4] [--seeds 2]

DATA is a spec such as ``imagefolder:cifar10``. The device is measured first, for the seed at batch BATCH and 32 x 32;
then both searches run with equal settings, and what they find is retrained by one recipe. At the end the seed and both
architectures are timed in turns, beside a reference network. Resumable: stop it at any time and give the same command
again. Writes benchmarks/results/latency_search_NETWORK.json, which docs/benchmarks.md quotes.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch

import morphsearch as ms
from morphsearch.files import write_json
from morphsearch.hardware import Settings, profiles
from morphsearch.hardware import profile as measure
from morphsearch.hardware.measure import Session
from morphsearch.hardware.sampling import Target, build
from morphsearch.loop.config import SearchConfig
from morphsearch.loop.retraining import retrain_run
from morphsearch.loop.run import resume, start
from morphsearch.models import build_seed
from morphsearch.report.progress import progress

NETWORK = "vgg16_bn?alpha=0.25"
BATCH = 16
BUDGETS = ("latency=50%", "flops=50%")
RESULTS = Path(__file__).parent / "results"


def timed(target: Target, found: dict[str, dict[str, int]]) -> dict[str, dict[str, float]]:
    """Measured milliseconds of architectures, in turns, with the interval and how far two measurements lie apart."""
    session = Session(Settings(batch=BATCH), rounds=21, seconds=0.1)
    timings = session.time([(build(target, widths), target.graph.example_inputs) for widths in found.values()])
    return {
        name: {"ms": t.ms, "low": t.low, "high": t.high, "repeated": t.repeated}
        for name, t in zip(found, timings, strict=True)
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--network", default=NETWORK)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-latency"))
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--search-epochs", type=float, default=3)
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    network = build_seed(args.network, num_classes=10, input_shape=(3, 32, 32)).model
    target = Target.of(args.network, network, torch.zeros(1, 3, 32, 32))
    work = args.work / args.network.partition("?")[0]
    hardware = work / "profile.json"
    if not hardware.exists():
        measure([target], Settings(batch=BATCH), limit=240, networks=60).save(hardware)
    profile = profiles.read(hardware)
    training = {"precision": "fp32", "channels_last": True, "batch_size": 128}
    done: dict[str, Any] = {}
    for budget in BUDGETS:
        folder = work / budget.replace("=", "-").replace("%", "")
        config = SearchConfig(
            args.network,
            data=args.data,
            budget=(budget,),
            hardware=str(hardware),
            iterations=1,
            epochs=args.search_epochs,
            recipe=training,
        )
        with progress(every=20.0) as listener:
            found = resume(folder, listener=listener) if folder.exists() else start(config, folder, listener=listener)
            comparison = retrain_run(folder, baselines=[], seeds=args.seeds, epochs=args.epochs, recipe=training)
        widths = found.architectures[-1].widths
        done[budget] = {
            "widths": widths,
            "predicted_ms": ms.cost(target.graph, "latency", widths, hardware=profile).total,
            "flops": ms.cost(target.graph, "flops", widths).total,
            "params": ms.cost(target.graph, "params", widths).total,
            "comparison": comparison.to_dict(),
        }
    times = timed(target, {"seed": target.graph.widths, **{budget: done[budget]["widths"] for budget in BUDGETS}})
    seed = {
        "predicted_ms": ms.cost(target.graph, "latency", hardware=profile).total,
        "flops": ms.cost(target.graph, "flops").total,
        "params": ms.cost(target.graph, "params").total,
    }
    result = {
        "about": {"torch": torch.__version__, "python": platform.python_version(), "threads": 1},
        "network": args.network,
        "settings": profile.settings.to_dict(),
        "profile": {"error": profile.error, "noise": profile.noise, "networks": 60},
        "search_epochs": args.search_epochs,
        "retrain_epochs": args.epochs,
        "seed": seed,
        "found": done,
        "measured": times,
    }
    write_json(RESULTS / f"latency_search_{work.name}.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
