"""Which networks are measured: random widths of the networks at hand, or of made-up ones for a general sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from morphsearch.graph import ConvGraph, record
from morphsearch.graph.fresh import initialise

ROUNDINGS = (1, 1, 4, 8, 16)
NARROWEST, WIDEST = 0.2, 1.15


@dataclass
class Target:
    """A network to measure variants of, with example inputs; recorded once."""

    name: str
    graph: ConvGraph

    @classmethod
    def of(cls, name: str, model: nn.Module, example_inputs: Any) -> Target:
        """Record a network in evaluation mode."""
        return cls(name, record(model.eval(), example_inputs))


def draw_widths(
    graph: ConvGraph,
    rng: np.random.Generator,
    jitter: float = 0.5,
    *,
    step: int | None = None,
    level: float | None = None,
) -> dict[str, int]:
    """Legal random widths: one factor for the network, one for each group, rounded to nothing, 4, 8 or 16.

    Args:
        step: what they are rounded to. level: the factor of the network, from 0 for the narrowest to 1 for the widest.
            Both are drawn where they are not given.
    """
    level = rng.random() if level is None else level
    overall = np.exp((1 - level) * np.log(NARROWEST) + level * np.log(WIDEST))
    step = int(rng.choice(ROUNDINGS)) if step is None else step
    widths = {}
    for name, group in graph.groups.items():
        if group.frozen is not None:
            continue
        own = group.width * overall * np.exp(rng.uniform(-jitter, jitter))
        unit = max(group.multiple, 1)
        least = max(group.floor, unit)
        rounded = round(own / step) * step if own >= step else round(own)
        legal = -(-max(rounded, 1) // unit) * unit
        widths[name] = int(max(legal, -(-least // unit) * unit))
    return widths


def spread_widths(graph: ConvGraph, rng: np.random.Generator) -> Iterator[dict[str, int]]:
    """:func:`draw_widths` without end, in which every five hold each rounding and each fifth of the range of widths.

    A handful of independent draws may miss one: seven networks whose widths all happened to divide by 4 taught nothing
    of what ONNX Runtime does to depthwise convolutions that do not.
    """
    count = len(ROUNDINGS)
    while True:
        for step, level in zip(rng.permutation(ROUNDINGS), rng.permutation(count), strict=True):
            yield draw_widths(graph, rng, step=int(step), level=(level + rng.random()) / count)


def variants(targets: Sequence[Target], seed: int = 0) -> Iterator[tuple[Target, dict[str, int]]]:
    """Without end: each target at its own widths, then all of them in turns at random ones."""
    for target in targets:
        yield target, {}
    streams = [spread_widths(target.graph, np.random.default_rng([seed, n])) for n, target in enumerate(targets)]
    while True:
        for target, stream in zip(targets, streams, strict=True):
            yield target, next(stream)


def batch_of(example_inputs: Any, batch: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Random inputs of the shapes of the examples with another batch size."""
    given = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)
    generator = torch.Generator().manual_seed(0)
    made = []
    for value in given:
        shape = (batch, *value.shape[1:])
        made.append(torch.randn(shape, generator=generator).to(device=device, dtype=dtype))
    return made


def build(target: Target, widths: dict[str, int]) -> nn.Module:
    """A network of these widths with fresh weights, in evaluation mode."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return target.graph.resize(widths).eval()


BIASED = 3  # of so many made-up networks one has convolutions with biases, which some backends add in a pass apart


class Block(nn.Module):
    """One block of a made-up network: a plain, inverted or grouped convolution with what usually goes with it."""

    def __init__(self, kind: str, c: int, o: int, kernel: int, stride: int, activation: str, bias: bool) -> None:
        super().__init__()
        act = {"relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU, "hardswish": nn.Hardswish}[activation]
        same = kernel // 2
        middle = 2 * o if kind == "inverted" else o
        if kind == "plain":
            layers: list[nn.Module] = [nn.Conv2d(c, o, kernel, stride, same, bias=bias), nn.BatchNorm2d(o), act()]
        else:
            groups = middle if kind == "inverted" else 4
            layers = [nn.Conv2d(c, middle, 1, bias=False), nn.BatchNorm2d(middle), act()]
            layers += [nn.Conv2d(middle, middle, kernel, stride, same, groups=groups, bias=False)]
            layers += [nn.BatchNorm2d(middle), act(), nn.Conv2d(middle, o, 1, bias=False), nn.BatchNorm2d(o)]
        self.body = nn.Sequential(*layers)
        self.gate = (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(o, max(4, o // 4), 1), act(), nn.Conv2d(o // 4, o, 1))
            if kind == "inverted" and o >= 16
            else None
        )
        self.joins = "add" if stride == 1 and c == o else "cat" if stride == 1 and kind == "grouped" else ""

    def forward(self, x: Tensor) -> Tensor:
        """`n x c x h x w` to `n x o x h x w`, or to `c + o` channels where it concatenates."""
        y: Tensor = self.body(x)
        if self.gate is not None:
            y = y * torch.sigmoid(self.gate(y))
        if self.joins == "add":
            y = y + x
        return torch.cat([x, y], 1) if self.joins == "cat" else y


class Made(nn.Module):
    """A made-up network: random blocks at falling resolutions, then a linear layer."""

    def __init__(self, seed: int, base: int = 24) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        c = 4 * int(rng.integers(3, 10))
        first = int(rng.choice([3, 7]))
        self.stem = nn.Sequential(nn.Conv2d(3, c, first, 2, first // 2, bias=False), nn.BatchNorm2d(c), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1) if rng.random() < 0.5 else nn.AvgPool2d(2)
        blocks: list[nn.Module] = []
        for stage in range(4):
            for place in range(int(rng.integers(1, 4))):
                kind = str(rng.choice(["plain", "plain", "inverted", "grouped"]))
                kernel = int(rng.choice([3, 3, 5, 1]))
                stride = 2 if place == 0 and stage else 1
                o = c if rng.random() < 0.4 and stride == 1 else 4 * int(base * 2**stage * rng.uniform(0.5, 1.5) / 4)
                activation = str(rng.choice(["relu", "relu6", "silu", "hardswish"]))
                block = Block(kind, c, o, kernel, stride, activation, bias=seed % BIASED == 0)
                blocks.append(block)
                c = c + o if block.joins == "cat" else o
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(c, 10)

    def forward(self, x: Tensor) -> Tensor:
        """`n x 3 x h x w` to `n x 10`."""
        x = self.blocks(self.pool(self.stem(x)))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def sweep(size: int = 96, count: int = 12, seed: int = 0) -> list[Target]:
    """Made-up networks that together hold the usual operations, for profiles of no network in particular."""
    found = []
    for number in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            model = Made(1000 * seed + number, base=(16, 24, 40)[number % 3])
            initialise(model)
        shape = (1, 3, *(((size, size), (size * 3 // 2,) * 2, (max(32, size // 2),) * 2)[number % 3]))
        found.append(Target.of(f"sweep-{number}", model, torch.zeros(shape)))
    return found
