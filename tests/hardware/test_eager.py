"""What the graph foresees is what PyTorch runs, operation by operation, at any widths."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import hardware_fakes as fakes
import numpy as np
import pytest
import torch
from torch import nn

from morphsearch.hardware import Settings
from morphsearch.hardware.eager import Eager, _described
from morphsearch.hardware.kinds import WEIGHTED, Fusion, canonical
from morphsearch.hardware.measure import finish, profile
from morphsearch.hardware.sampling import Made, Target, build, draw_widths, spread_widths, sweep
from morphsearch.hardware.work import COLUMNS, row_of, works_of
from morphsearch.models import build_seed
from morphsearch.testing.networks import NETWORKS, example_inputs


def _target(name: str) -> Target:
    torch.manual_seed(0)
    if name in NETWORKS:
        return Target.of(name, NETWORKS[name](), example_inputs())
    if name == "made":
        return Target.of(name, Made(3), torch.zeros(1, 3, 64, 64))
    return Target.of(name, build_seed(name).model, torch.zeros(1, 3, 32, 32))


def _weighted(families: list[str], rows: np.ndarray) -> Counter[Any]:
    found = zip(families, rows, strict=True)
    return Counter((name, tuple(np.round(row, 6))) for name, row in found if name in WEIGHTED)


@pytest.mark.parametrize("name", [*sorted(NETWORKS), "made", "mobilenet_v1", "resnet20"])
@pytest.mark.parametrize("batch", [1, 3])
def test_convolutions_are_foreseen_exactly(name: str, batch: int) -> None:
    target = _target(name)
    widths = draw_widths(target.graph, np.random.default_rng(5))
    shape = target.graph.example_inputs.shape
    seen = Eager().observe(build(target, widths), [torch.randn(batch, *shape[1:])], Settings(batch=batch), repeats=1)
    observed = [row_of(one) for one in seen]
    works = works_of(target.graph, Fusion(), batch)
    at = np.array([{**target.graph.widths, **widths}[group] for group in target.graph.groups], float)
    expected = _weighted(works.families, works.rows(at))
    assert _weighted([name for name, _ in observed], np.array([row for _, row in observed])) == expected
    kinds = {canonical(operation.kind) for operation in target.graph.operations} - {"view"}
    if "batch_norm" in kinds:
        assert any(name == "batch_norm" for name, _ in observed)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_pass_that_adds_a_bias_on_a_gpu_is_seen_as_foreseen(groups: int, bias: bool) -> None:
    """A call as PyTorch's dispatcher gets it, with an input that says it is on a GPU."""
    net = nn.Sequential(nn.Conv2d(8, 6 if groups < 8 else 8, 3, groups=groups, bias=bias)).eval()
    x = torch.zeros(1, 8, 8, 8)
    out = net(x)
    there: Any = SimpleNamespace(shape=x.shape, is_cuda=True)
    args = (there, net[0].weight, net[0].bias, [1, 1], [0, 0], [1, 1], False, [0, 0], groups)
    name, seen = row_of(_described(torch.ops.aten.convolution.default, args, out))
    graph = Target.of("net", net, x).graph
    at = np.array([float(width) for width in graph.widths.values()])
    for device, expected in (("cuda", seen), ("cpu", [*seen[:-1], 0.0])):
        works = works_of(graph, Fusion.of(Eager(), Settings(device=device)), 1)
        assert works.families == [name]
        assert works.rows(at)[0] == pytest.approx(expected)
    assert seen[COLUMNS.index("again")] == (out.numel() if bias and groups < 8 else 0)


def test_fusion_takes_what_follows_a_convolution() -> None:
    target = fakes.target()
    plain = works_of(target.graph, Fusion(), 1).families
    fused = works_of(target.graph, Fusion(into_weights=frozenset(("batch_norm", "relu"))), 1).families
    assert Counter(plain) - Counter(fused) == {"batch_norm": 3, "relu": 4}


def test_what_two_operations_read_is_not_fused_away() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return torch.relu(y) + y

    target = Target.of("twice", Twice(), torch.zeros(1, 3, 8, 8))
    fused = works_of(target.graph, Fusion(into_weights=frozenset(("relu", "add"))), 1).families
    assert "relu" in fused


def test_a_sum_that_is_fused_in_is_read_by_what_it_is_fused_into() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.one(x).relu()
            return (x + self.two(x)).relu()

    graph = Target.of("residual", Residual(), torch.zeros(1, 3, 6, 6)).graph
    works = works_of(graph, Fusion(frozenset(("relu", "add"))), 1)
    assert works.families == ["conv_1x1", "conv"]
    read = works.rows(np.array([float(width) for width in graph.widths.values()]))[:, COLUMNS.index("read")]
    assert read.tolist() == [3 * 36, 2 * 8 * 36]


def test_a_device_is_measured_and_the_profile_says_how_well() -> None:
    found = profile([fakes.target()], Settings(), limit=60, networks=8)
    assert len(found.samples) == 8
    assert {"conv", "conv_depthwise", "conv_1x1", "linear", "batch_norm", "relu"} <= set(found.predictor.families)
    assert found.error["networks"] == 8
    assert all(sample.low <= sample.ms <= sample.high for sample in found.samples)
    assert torch.get_num_threads() == 1
    total = float(
        found.bind(fakes.target().graph).total(torch.tensor([*fakes.target().graph.widths.values()]).double())
    )
    assert total > 0


def test_too_little_measured_is_refused() -> None:
    from morphsearch.errors import InputError
    from morphsearch.hardware.measure import Session

    with pytest.raises(InputError, match="raise --limit"):
        finish(fakes.samples(fakes.target(), count=3), Session(Settings()))


def test_the_general_sweep_holds_the_usual_operations() -> None:
    kinds = {canonical(operation.kind) for target in sweep(32, count=6) for operation in target.graph.operations}
    assert {"conv", "batch_norm", "relu", "silu", "hardswish", "add", "cat", "mul", "mean", "linear"} <= kinds


def test_few_variants_hold_every_rounding_and_all_of_the_range() -> None:
    graph = Target.of("made", Made(3, base=40), torch.zeros(1, 3, 64, 64)).graph
    stream = spread_widths(graph, np.random.default_rng(0))
    drawn = [next(stream) for _ in range(5)]
    shares = [np.mean([width % 16 == 0 for width in widths.values()]) for widths in drawn]
    uneven = [np.mean([width % 4 > 0 for width in widths.values() if width > 16]) for widths in drawn]
    assert max(shares) > 0.5
    assert sum(share > 0.2 for share in uneven) == 2  # two of five are rounded to nothing
    sizes = sorted(sum(widths.values()) for widths in drawn)
    assert sizes[-1] / sizes[0] > 2.5
