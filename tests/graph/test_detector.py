"""A YOLO-style detector: chunked blocks, a pooled pyramid, a feature pyramid, several heads, boxes decoded in
evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from morphsearch.graph import record
from tests.graph import proofs

CLASSES, BINS = 3, 4


class ConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvNorm(channels, channels, 3), ConvNorm(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x))


class C2f(nn.Module):
    """Halves of one convolution; one of them goes through bottlenecks, and every stage is concatenated."""

    def __init__(self, inputs: int, outputs: int, repeats: int, *, by_split: bool) -> None:
        super().__init__()
        self.c, self.by_split = outputs // 2, by_split
        self.cv1 = ConvNorm(inputs, 2 * self.c)
        self.cv2 = ConvNorm((2 + repeats) * self.c, outputs)
        self.m = nn.ModuleList(Bottleneck(self.c) for _ in range(repeats))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).split((self.c, self.c), 1) if self.by_split else self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvNorm(channels, channels // 2), ConvNorm(channels * 2, channels)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Head(nn.Module):
    """Separate branches for boxes (as distributions over bins) and classes, one pair a scale."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.no = CLASSES + 4 * BINS
        self.box = nn.ModuleList(nn.Sequential(ConvNorm(c, 8, 3), nn.Conv2d(8, 4 * BINS, 1)) for c in channels)
        self.cls = nn.ModuleList(
            nn.Sequential(ConvNorm(c, c, 3, groups=c), ConvNorm(c, 8), nn.Conv2d(8, CLASSES, 1)) for c in channels
        )
        self.dfl = nn.Conv2d(BINS, 1, 1, bias=False).requires_grad_(False)

    def forward(self, maps: list[Tensor]) -> list[Tensor] | Tensor:
        maps = [torch.cat((self.box[i](x), self.cls[i](x)), 1) for i, x in enumerate(maps)]
        if self.training:
            return maps
        flat = torch.cat([x.view(x.shape[0], self.no, -1) for x in maps], 2)
        box, score = flat.split((4 * BINS, CLASSES), 1)
        b, _, a = box.shape
        distance = self.dfl(box.view(b, 4, BINS, a).transpose(2, 1).softmax(1)).view(b, 4, a)
        near, far = distance.chunk(2, 1)
        grid = torch.cat([self._centres(x) for x in maps], 1)
        return torch.cat((grid - near, grid + far, score.sigmoid()), 1)

    @staticmethod
    def _centres(x: Tensor) -> Tensor:
        y, x = torch.meshgrid(*(torch.arange(n, dtype=x.dtype) + 0.5 for n in x.shape[2:]), indexing="ij")
        return torch.stack((x, y)).flatten(1)


class Detector(nn.Module):
    def __init__(self, *, by_split: bool) -> None:
        super().__init__()
        widths = (8, 12, 16, 24)
        self.stem = ConvNorm(3, widths[0], 3, 2)
        self.down = nn.ModuleList(ConvNorm(a, b, 3, 2) for a, b in pairwise(widths))
        self.stages = nn.ModuleList(C2f(w, w, 1 + i % 2, by_split=by_split) for i, w in enumerate(widths[1:]))
        self.sppf = SPPF(widths[-1])
        self.up = nn.Upsample(scale_factor=2)
        self.top = C2f(widths[3] + widths[2], widths[2], 1, by_split=by_split)
        self.low = C2f(widths[2] + widths[1], widths[1], 1, by_split=by_split)
        self.again = ConvNorm(widths[1], widths[1], 3, 2)
        self.out = C2f(widths[1] + widths[2], widths[2], 1, by_split=by_split)
        self.head = Head((widths[1], widths[2]))

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:
        x, maps = self.stem(x), []
        for down, stage in zip(self.down, self.stages, strict=True):
            x = stage(down(x))
            maps.append(x)
        deep = self.sppf(maps[2])
        top = self.top(torch.cat((self.up(deep), maps[1]), 1))
        low = self.low(torch.cat((self.up(top), maps[0]), 1))
        out = self.out(torch.cat((self.again(low), top), 1))
        result: list[Tensor] | Tensor = self.head([low, out])
        return result


@pytest.mark.parametrize("by_split", [False, True])
def test_detector(by_split: bool) -> None:
    torch.manual_seed(0)
    inputs = torch.zeros(2, 3, 32, 32)
    graph = record(proofs.in_double(Detector(by_split=by_split)), inputs)
    # The last convolution of every branch makes the output, and the bins of the distribution are fixed; all else goes.
    frozen = {name for name, group in graph.groups.items() if group.frozen is not None}
    assert all(name.startswith(("head.box", "head.cls", "head.dfl")) for name in frozen), proofs.explained(graph)
    assert proofs.mixing(graph) == []
    shrunk = proofs.shrinks_exactly(graph, inputs, 0)
    proofs.shrinks_exactly(graph, inputs, 1)
    proofs.widens_exactly(graph, inputs)
    half = proofs.resizes(graph, inputs, 0.5)
    makers = {"head.dfl", *(f"head.box.{i}.1" for i in range(2)), *(f"head.cls.{i}.2" for i in range(2))}
    before, after = (
        sum(m.out_channels for name, m in net.named_modules() if isinstance(m, nn.Conv2d) and name not in makers)
        for net in (graph.model, half)
    )
    assert after == before / 2
    proofs.trains(shrunk, inputs)


class CachingHead(Head):
    """Keeps the grid of the size that it saw last, as heads of detectors do."""

    shape: torch.Size | None = None

    def forward(self, maps: list[Tensor]) -> list[Tensor] | Tensor:
        if self.shape != maps[0].shape:
            self.grid = torch.cat([self._centres(x) for x in maps], 1)
            self.shape = maps[0].shape
        return super().forward(maps)

    def _centres(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y, x = torch.meshgrid(*(torch.arange(n, dtype=x.dtype) + 0.5 for n in x.shape[2:]), indexing="ij")
        return torch.stack((x, y)).flatten(1)


@pytest.mark.parametrize("seen", [(), ((3, 64),), ((2, 32),), ((2, 32), (5, 32))])
@pytest.mark.parametrize("later", [(), ((2, 32),), ((4, 32), (3, 64))])
def test_what_a_head_has_cached_before_or_since_is_no_matter(
    seen: Sequence[tuple[int, int]], later: Sequence[tuple[int, int]]
) -> None:
    torch.manual_seed(0)
    network = Detector(by_split=True)
    network.head = CachingHead((12, 16))
    network = proofs.in_double(network)
    inputs = torch.zeros(2, 3, 32, 32)
    for batch, size in seen:
        network(torch.zeros(batch, 3, size, size, dtype=torch.float64))
    graph = record(network, inputs)
    for batch, size in later:
        network(torch.zeros(batch, 3, size, size, dtype=torch.float64))
    held = network.head.shape
    graph.shrink({"head.box.0.0.conv": [0, 3]})
    assert network.head.shape == held
    proofs.shrinks_exactly(graph, inputs, 0)
    proofs.resizes(graph, inputs, 1.5)
