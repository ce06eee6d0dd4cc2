"""Sparsify MobileNetV1 x0.25 on CIFAR-10 to 70%, beside the dense network trained as long by the same recipe.

    python benchmarks/sparsify_cifar10.py DATA [--work FOLDER] [--epochs 8] [--seeds 3] [--arms dense,network,prunable]

DATA is a spec such as ``imagefolder:cifar10`` or ``cifar10:cifar-10-batches-bin``. Arms: ``dense``; ``network``, 70% of
all parameters zero (--of network); ``prunable``, 70% of every convolution and linear layer, depthwise kernels apart.
Resumable: stop it at any time and give the same command again; finished trainings are not repeated. Prints a JSON line
a training, and writes benchmarks/results/sparsify_cifar10.json, which docs/benchmarks.md quotes.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from morphsearch.data import DataSplits, load
from morphsearch.files import read_tensors, write_json
from morphsearch.models import build_seed
from morphsearch.report.progress import progress
from morphsearch.sparsity import SparsifyConfig, sizes
from morphsearch.sparsity.run import resume, start
from morphsearch.training import Recipe, retrain

MODEL, TARGET = "mobilenet_v1?alpha=0.25", "70%"
TRAINING: dict[str, Any] = {"precision": "fp32", "channels_last": True, "batch_size": 128}
RESULTS = Path(__file__).parent / "results" / "sparsify_cifar10.json"
ARMS = ("dense", "network", "prunable")


def network(data: DataSplits) -> torch.nn.Module:
    return build_seed(MODEL, num_classes=data.num_classes, input_shape=data.shape).model


def dense(data: DataSplits, folder: Path, epochs: float, seed: int, listener: Any) -> dict[str, Any]:
    recipe = Recipe(epochs=epochs, **TRAINING)
    found = retrain(lambda: network(data), data, recipe, seed=seed, folder=folder, label="dense", on_event=listener)
    model = network(data)
    model.load_state_dict(read_tensors(folder / "weights.safetensors"))
    return {"test_accuracy": found.accuracy, "seconds": found.seconds, "sizes": asdict(sizes(model)), "sparsity": 0.0}


def sparse(
    source: str, data: DataSplits, of: str, folder: Path, epochs: float, seed: int, listener: Any
) -> dict[str, Any]:
    config = SparsifyConfig(MODEL, TARGET, data=source, of=of, epochs=epochs, seed=seed, data_seed=0, recipe=TRAINING)
    begun = (folder / "run.json").exists()
    result = resume(folder, listener=listener) if begun else start(config, folder, listener=listener, data=data)
    return {
        "test_accuracy": result.metrics["test_accuracy"],
        "seconds": result.metrics["seconds"],
        "sizes": asdict(result.report.after),
        "sparsity": result.report.network,
        "reached_of_prunable": result.report.reached,
        "asked_of_prunable": result.report.asked,
    }


def summary(trainings: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds that every arm has; accuracy and gzip against the dense arm, seed by seed."""
    by_arm = {arm: {one["seed"]: one for one in trainings if one["arm"] == arm} for arm in ARMS}
    plain, found = by_arm["dense"], {}
    for arm, own in by_arm.items():
        seeds = sorted(set(own) & set(plain))
        if not seeds:
            continue
        points = [100 * own[s]["test_accuracy"] for s in seeds]
        differences = [100 * (own[s]["test_accuracy"] - plain[s]["test_accuracy"]) for s in seeds]
        found[arm] = {
            "seeds": seeds,
            "accuracy": statistics.mean(points),
            "spread": statistics.stdev(points) if len(points) > 1 else None,
            "difference": statistics.mean(differences),
            "difference_spread": statistics.stdev(differences) if len(points) > 1 else None,
            "zeros": statistics.mean(own[s]["sparsity"] for s in seeds),
            "gzip": statistics.mean(own[s]["sizes"]["gzip"] for s in seeds),
            "gzip_of_dense": statistics.mean(own[s]["sizes"]["gzip"] / plain[s]["sizes"]["gzip"] for s in seeds),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-sparsify"))
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", default=",".join(ARMS))
    args = parser.parse_args()
    data = load(args.data, seed=0)
    trainings: list[dict[str, Any]] = []
    with progress(every=30.0) as listener:
        for seed in range(args.seeds):
            for arm in args.arms.split(","):
                folder = args.work / f"{arm}-seed{seed}"
                if arm == "dense":
                    one = dense(data, folder, args.epochs, seed, listener)
                else:
                    one = sparse(args.data, data, arm, folder, args.epochs, seed, listener)
                trainings.append({"arm": arm, "seed": seed, "epochs": args.epochs, **one})
                print(json.dumps(trainings[-1]), flush=True)
    about = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    write_json(RESULTS, {"about": about, "model": MODEL, "trainings": trainings, "summary": summary(trainings)})


if __name__ == "__main__":
    main()
