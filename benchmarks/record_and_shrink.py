"""Seconds to record a network and to halve it, beside one forward pass in the same process.

    python benchmarks/record_and_shrink.py [--size 224] [--repeats 5]

Halving includes the check that records the result again. Writes benchmarks/results/record_and_shrink.json.
Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import morphsearch as ms
from morphsearch.files import write_json
from morphsearch.models import build_seed

NETWORKS = (
    "resnet18 resnet50 mobilenet_v2 efficientnet_b0 densenet121 googlenet regnet_y_400mf squeezenet1_1"
    " shufflenet_v2_x1_0"
).split()
RESULTS = Path(__file__).parent / "results" / "record_and_shrink.json"


def median(action: Callable[[], object], repeats: int) -> float:
    """Median seconds of `repeats` calls, after one to warm up."""
    action()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows = {}
    for name in NETWORKS:
        arguments = "?init_weights=true" if name == "googlenet" else ""
        model = build_seed(f"torchvision:{name}{arguments}", input_shape=(3, args.size, args.size)).model.eval()
        x = torch.zeros(1, 3, args.size, args.size)
        with torch.no_grad():
            forward = median(lambda model=model, x=x: model(x), args.repeats)
        recording = median(lambda model=model, x=x: ms.record(model, x), args.repeats)
        graph = ms.record(model, x)
        keep = {group: range(0, graph.widths[group], 2) for group in graph.free}
        halving = median(lambda graph=graph, keep=keep: graph.shrink(keep), args.repeats)
        rows[name] = {"forward_s": forward, "record_s": recording, "halve_s": halving, "groups": len(graph.groups)}
        print(
            f"{name:20s} forward {forward:.3f} s   record {recording:.3f} s   halve {halving:.3f} s   "
            f"together {(recording + halving) / forward:.1f} forward passes"
        )
    about = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    write_json(RESULTS, {"about": about, "settings": vars(args), "networks": rows})


if __name__ == "__main__":
    main()
