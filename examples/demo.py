"""``make demo``: the whole of morphsearch on a small scale, in under three minutes on two cores.

Inspects a small network for scikit-learn's handwritten digits, searches for better widths at half its FLOPs (two
morphs), retrains what was found from scratch beside the seed, uniform scaling and random widths at equal FLOPs, and
prints one table. Everything lands in a new folder under runs/, which the `morphsearch` commands read.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

import morphsearch as ms
from morphsearch.loop import run
from morphsearch.loop.retraining import retrain_run
from morphsearch.models import build_seed
from morphsearch.report import console, layers, tables
from morphsearch.report.inspection import inspect
from morphsearch.report.progress import progress

BUDGET = "flops=50%"
TRAINING = {"precision": "fp32", "channels_last": False}


def main(search_epochs: float = 12, epochs: float = 12, seeds: int = 3) -> None:
    began = time.perf_counter()
    seed = build_seed("digits_net", num_classes=10, input_shape=(1, 8, 8))
    graph = ms.record(seed.model, torch.zeros(1, 1, 8, 8))
    console.show(console.err(), layers.layers(inspect(graph, ["flops", "params"], name="digits_net")))

    folder = Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    config = ms.SearchConfig(
        "digits_net", data="digits", budget=(BUDGET,), iterations=2, epochs=search_epochs, recipe=TRAINING
    )
    with progress() as listener:
        run.start(config, folder, listener=listener)
        comparison = retrain_run(
            folder,
            iterations="all",
            baselines=["uniform", "random", "seed"],
            seeds=seeds,
            epochs=epochs,
            recipe=TRAINING,
            listener=listener,
        )
    console.show(console.out(), *tables.comparison(comparison))
    console.err().print(
        f"{time.perf_counter() - began:.0f} s; everything is in {folder}: try morphsearch report {folder}"
    )


if __name__ == "__main__":
    main()
