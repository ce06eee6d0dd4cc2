"""How recording and halving grow with depth: plain and densely connected stacks of 50 to 400 layers.

    python benchmarks/scaling.py [--repeats 3]

Seconds are processor time on one thread, medians. Writes benchmarks/results/scaling.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import morphsearch as ms
from morphsearch.files import write_json

RESULTS = Path(__file__).parent / "results" / "scaling.json"
DEPTHS = (50, 100, 200, 400)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


class Dense(nn.Module):
    """Dense blocks of 25 layers: every layer reads all before it in its block."""

    def __init__(self, layers: int, growth: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        self.between = nn.ModuleList()
        for _ in range(layers // 25):
            self.between.append(Block(3 if not self.blocks else 16 + 24 * growth, 16))
            self.blocks.append(nn.ModuleList(Block(16 + i * growth, growth) for i in range(24)))

    def forward(self, x: Tensor) -> Tensor:
        for between, block in zip(self.between, self.blocks, strict=True):
            x = between(x)
            for layer in block:
                x = torch.cat([x, layer(x)], 1)
        return x


def plain(layers: int) -> nn.Module:
    return nn.Sequential(*(Block(3 if i == 0 else 32, 32) for i in range(layers)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    x = torch.zeros(1, 3, 32, 32)
    ms.record(plain(2), x)  # imports
    rows = []
    for kind, make in (("plain", plain), ("dense", Dense)):
        for depth in DEPTHS:
            model = make(depth).eval()
            times = []
            for _ in range(args.repeats):
                began = time.process_time()
                graph = ms.record(model, x)
                middle = time.process_time()
                graph.shrink({name: range(0, graph.widths[name], 2) for name in graph.free})
                times.append((middle - began, time.process_time() - middle))
            record, halve = (statistics.median(part) for part in zip(*times, strict=True))
            operations = len(graph.operations)
            rows.append({"kind": kind, "layers": depth, "operations": operations, "record_s": record, "halve_s": halve})
            print(
                f"{kind:6s} {depth:4d} layers {operations:5d} operations   record {record:.3f} s   halve {halve:.3f} s"
                f"   {1000 * (record + halve) / operations:.3f} ms an operation"
            )
    write_json(RESULTS, {"torch": torch.__version__, "rows": rows})


if __name__ == "__main__":
    main()
