"""Predicted peak memory against the memory that PyTorch's CPU allocator hands out while the network runs.

    python benchmarks/memory.py [--quick] [--out benchmarks/results/memory.json]

For every network, at the seed's widths and at random ones, batch 2 and 8, inference (``memory``) and one training step
of SGD with momentum (``memory-training``). Measured: every allocation and release of the step, as ``torch.profiler``
reports them, from what was there before. The random widths are predicted from the seed's graph, before the network of
those widths exists.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from morphsearch import record
from morphsearch.costs import bind, vector
from morphsearch.models import build_seed
from morphsearch.strategies.widths import scale

MIB = 2.0**20
NETWORKS = {
    "resnet20": 32,
    "resnet56": 32,
    "vgg16_bn": 32,
    "mobilenet_v1": 32,
    "digits_net": 8,
    "torchvision:resnet18": 128,
    "torchvision:resnet50": 128,
    "torchvision:mobilenet_v2": 128,
    "torchvision:mobilenet_v3_small": 128,
    "torchvision:densenet121": 128,
    "torchvision:shufflenet_v2_x1_0": 128,
    "torchvision:efficientnet_b0": 128,
    "torchvision:squeezenet1_1": 128,
    "torchvision:googlenet?aux_logits=false&init_weights=false": 128,
    "torchvision:regnet_y_400mf": 128,
    "torchvision:convnext_tiny": 128,
}
KERNELS = frozenset(
    "aten::mkldnn_convolution aten::mkldnn_convolution_backward aten::_slow_conv2d_forward aten::_slow_conv2d_backward"
    " aten::slow_conv_dilated2d aten::convolution_backward aten::thnn_conv2d aten::_nnpack_spatial_convolution".split()
)
QUICK = ("resnet20", "mobilenet_v1", "torchvision:mobilenet_v3_small", "torchvision:densenet121")


def peaks_of(work: Callable[[], Any]) -> tuple[float, float]:
    """The most bytes that `work` has allocated at once, beyond what was there before.

    Returns:
        Of all allocations; and without the scratch space of convolutions (what one allocates and releases inside).
    """
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
            kept = work()
        prof.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    del kept
    memory = [event for event in events if event.get("name") == "[memory]"]
    memory.sort(key=lambda event: event["ts"])
    kernels = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") in KERNELS and "dur" in e)
    scratch: set[int] = set()
    open_: dict[int, int] = {}
    for index, event in enumerate(memory):
        address = event["args"]["Addr"]
        if event["args"]["Bytes"] > 0:
            open_[address] = index
        elif address in open_:
            began = memory[open_[address]]["ts"]
            if any(start <= began and event["ts"] <= end for start, end in kernels):
                scratch |= {index, open_[address]}
    most = [0.0, 0.0]
    now = [0.0, 0.0]
    for index, event in enumerate(memory):
        for kind in range(2):
            now[kind] += 0.0 if kind and index in scratch else event["args"]["Bytes"]
            most[kind] = max(most[kind], now[kind])
    return most[0], most[1]


def held(model: nn.Module, x: Tensor, copies: int) -> float:
    """Bytes that are there before the step: the input, parameters `copies` times, buffers."""
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    return float(copies * parameters + buffers + x.numel() * x.element_size())


def inference(model: nn.Module, x: Tensor) -> list[float]:
    """Measured MiB, with and without the scratch space of convolutions."""
    model.eval()
    with torch.no_grad():
        model(x)
        return [(held(model, x, 1) + peak) / MIB for peak in peaks_of(lambda: model(x))]


def training(model: nn.Module, x: Tensor) -> list[float]:
    """Measured MiB of the second step, as :func:`inference`; the first makes the optimizer's state."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def step() -> None:
        out = model(x)
        out.square().mean().backward()
        optimizer.step()

    step()
    optimizer.zero_grad(set_to_none=True)
    return [(held(model, x, 2) + peak) / MIB for peak in peaks_of(step)]


def random_widths(graph: Any, rng: np.random.Generator) -> dict[str, int]:
    """Half to one and a half times the seed's, group by group."""
    return scale(graph, 1.0, {name: width * rng.uniform(0.5, 1.5) for name, width in graph.widths.items()})


def rows_of(spec: str, size: int, batch: int, draws: int) -> list[dict[str, Any]]:
    """One row for each set of widths and each of the two costs."""
    torch.manual_seed(0)
    model = build_seed(spec).model
    channels = 1 if spec == "digits_net" else 3
    x = torch.randn(batch, channels, size, size)
    graph = record(model, x)
    rng = np.random.default_rng(0)
    bound = {name: bind(graph, name) for name in ("memory", "memory-training")}
    found = []
    for draw in range(draws + 1):
        widths = dict(graph.widths) if draw == 0 else random_widths(graph, rng)
        network = graph.resize(widths)
        point = vector(graph, widths)
        for name, measure in (("memory", inference), ("memory-training", training)):
            predicted = float(bound[name].total(point))
            whole, tensors = measure(network, x)
            found.append(
                {
                    "network": spec,
                    "input": list(x.shape),
                    "widths": "seed" if draw == 0 else f"random {draw}",
                    "cost": name,
                    "predicted_mib": predicted,
                    "measured_mib": tensors,
                    "measured_with_scratch_mib": whole,
                    "error": predicted / tensors - 1,
                    "error_with_scratch": predicted / whole - 1,
                }
            )
            told = f"{predicted:9.3f} {tensors:9.3f} {found[-1]['error']:+8.2%} {found[-1]['error_with_scratch']:+8.2%}"
            print(f"{spec:50} batch {batch} {found[-1]['widths']:9} {name:16} {told}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four networks, one draw")
    parser.add_argument("--only", nargs="*", help="these networks")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/memory.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = given.only or (QUICK if given.quick else NETWORKS)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(given.out.read_text())["rows"] if given.out.exists() else []
    done = {(row["network"], row["input"][0]) for row in rows}
    for spec in chosen:
        for batch in (2, 8):
            if (spec, batch) not in done:
                rows += rows_of(spec, NETWORKS[spec], batch, 1 if given.quick else 2)
                write(given.out, rows)
    print(json.dumps(write(given.out, rows), indent=1))


def write(path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Save what is measured so far, and return its summary; what is saved is not measured again."""
    summary = {}
    for name in ("memory", "memory-training"):
        for key in ("error", "error_with_scratch"):
            found = np.abs([row[key] for row in rows if row["cost"] == name])
            summary[f"{name} {key}"] = {
                "cases": int(found.size),
                "networks": len({row["network"] for row in rows}),
                "mean_absolute": float(found.mean()),
                "median": float(np.median(found)),
                "worst": float(found.max()),
                "within_1_percent": float((found <= 0.01).mean()),
                "within_5_percent": float((found <= 0.05).mean()),
            }
    path.write_text(json.dumps({"torch": torch.__version__, "summary": summary, "rows": rows}, indent=1) + "\n")
    return summary


if __name__ == "__main__":
    main()
