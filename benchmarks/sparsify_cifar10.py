"""Sparsify MobileNetV1 on CIFAR-10 to 70%, beside the dense network trained as long by the same recipe.

    python benchmarks/sparsify_cifar10.py DATA [--model mobilenet_v1?alpha=0.25] [--epochs 8] [--seeds 3]
        [--arms dense,global,layer] [--from WORK]

DATA is a spec such as ``imagefolder:cifar10`` or ``cifar10:cifar-10-batches-bin``. Arms: ``dense``; ``layer``, 70% of
all parameters zero, every layer alike (--of network); ``global``, the same by one ranking of all weights (--scope
global); ``early`` and ``late``, as ``global``, with the schedule from 0 to 40% of the training and from 40% to 90%;
``clipped``, as ``global``, with gradients clipped to a norm of 1;
``prunable``, 70% of every convolution and linear layer, depthwise kernels and norms out of the count.
``--from WORK`` begins all arms with the weights of the dense arm of another run of this script, of the same seed, at a
learning rate of 0.02: what is already trained is made sparse, beside the dense network trained on for as long.
``--images N`` trains on the first N of a random order (a probe), and ``--results FILE`` writes elsewhere.
Resumable: stop it at any time and give the same command again; finished trainings are not repeated. Prints a JSON line
a training, and after each writes benchmarks/results/sparsify_cifar10.json, which docs/benchmarks.md quotes;
``--report`` writes it from what is finished, and trains nothing.
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
from morphsearch.data.arrays import ArraySplit
from morphsearch.files import read_json, read_tensors, write_json
from morphsearch.models import build_seed
from morphsearch.report.progress import progress
from morphsearch.sparsity import SparsifyConfig, sizes
from morphsearch.sparsity.run import resume, start
from morphsearch.training import Recipe, retrain

TARGET, CLASSES, SHAPE = "70%", 10, (3, 32, 32)
TRAINING: dict[str, Any] = {"precision": "fp32", "channels_last": True, "batch_size": 128}
TUNED = 0.02  # learning rate of networks that are trained already
RESULTS = Path(__file__).parent / "results" / "sparsify_cifar10.json"
SPARSE: dict[str, dict[str, Any]] = {
    "layer": {"of": "network"},
    "global": {"of": "network", "scope": "global"},
    "early": {"of": "network", "scope": "global", "begin": 0, "end": 0.4},
    "late": {"of": "network", "scope": "global", "begin": 0.4, "end": 0.9},
    "clipped": {"of": "network", "scope": "global"},
    "prunable": {},
}
ARMS = ("dense", *SPARSE)


def network(model: str) -> torch.nn.Module:
    return build_seed(model, num_classes=CLASSES, input_shape=SHAPE).model


def train(
    arm: str,
    seed: int,
    folder: Path,
    model: str,
    source: str,
    data: DataSplits,
    epochs: float,
    training: dict[str, Any],
    begin: Path | None,
    hear: Any,
) -> None:
    """One training, or what is left of it; from the weights in the file `begin`, if any."""
    if arm == "dense":
        recipe = Recipe(epochs=epochs, **training)

        def made() -> torch.nn.Module:
            net = network(model)
            if begin is not None:
                net.load_state_dict(read_tensors(begin))
            return net

        retrain(made, data, recipe, seed=seed, folder=folder, label="dense", on_event=hear)
    elif (folder / "run.json").exists():
        resume(folder, listener=hear)
    else:
        if arm == "clipped":
            training = {**training, "clip_norm": 1.0}
        options: dict[str, Any] = {**SPARSE[arm], **({"weights": str(begin)} if begin is not None else {})}
        config = SparsifyConfig(
            model, TARGET, data=source, epochs=epochs, seed=seed, data_seed=0, recipe=training, **options
        )
        start(config, folder, listener=hear, data=data)


def collect(arm: str, seed: int, folder: Path, model: str) -> dict[str, Any] | None:
    """What a finished training came to; None for one that is not finished."""
    if not (folder / "result.json").exists():
        return None
    found = read_json(folder / "result.json")
    one = {"arm": arm, "model": model, "seed": seed}
    if arm == "dense":
        net = network(model)
        net.load_state_dict(read_tensors(folder / "weights.safetensors"))
        more = {"test_accuracy": found["accuracy"], "sparsity": 0.0, "sizes": asdict(sizes(net))}
        return {**one, "epochs": found["epochs"], "seconds": found["seconds"], **more}
    metrics, report = found["metrics"], found["sparsity"]
    return {
        **one,
        "epochs": metrics["epochs"],
        "seconds": metrics["seconds"],
        "test_accuracy": metrics["test_accuracy"],
        "sparsity": report["network"],
        "reached_of_prunable": report["reached"],
        "sizes": report["after"],
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


def subset(data: DataSplits, images: int) -> DataSplits:
    """The first `images` of a random order of the training images."""
    split = data.train
    assert isinstance(split, ArraySplit)
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:images].numpy()
    split.images, split.labels = split.images[chosen], split.labels[chosen]
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-sparsify"))
    parser.add_argument("--model", default="mobilenet_v1?alpha=0.25")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", default="dense,global,layer")
    parser.add_argument("--images", type=int, help="train on so many only")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--from", dest="begin", type=Path, help="the --work of a run whose dense networks begin")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    model, training = args.model, {**TRAINING, "precision": args.precision}
    if args.begin is not None:
        training["lr"] = TUNED
    data = None if args.report else load(args.data, seed=0)
    if data is not None and args.images:
        data = subset(data, args.images)
    with progress(every=30.0) as listener:
        for seed in range(args.seeds):
            for arm in args.arms.split(","):
                folder = args.work / f"{arm}-seed{seed}"
                begin = args.begin / f"dense-seed{seed}" / "weights.safetensors" if args.begin is not None else None
                if data is not None:
                    train(arm, seed, folder, model, args.data, data, args.epochs, training, begin, listener)
                print(json.dumps(collect(arm, seed, folder, model)), flush=True)
                found = [collect(a, s, args.work / f"{a}-seed{s}", model) for a in ARMS for s in range(args.seeds)]
                trainings = [one for one in found if one is not None]
                about = {"torch": torch.__version__, "python": platform.python_version()}
                write_json(args.results, {"about": about, "trainings": trainings, "summary": summary(trainings)})


if __name__ == "__main__":
    main()
