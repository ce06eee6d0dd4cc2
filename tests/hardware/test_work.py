"""The work that a backend does for a network without a branch is that of the network that comes out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from morphsearch.graph import record
from morphsearch.hardware.kinds import BIAS, Fusion
from morphsearch.hardware.work import ACTIVATIONS, COLUMNS, passing, placed, works_of
from morphsearch.models import build_seed

POINTWISE = frozenset({"relu", "hardtanh"})
FUSIONS = {
    "eager": Fusion(frozenset(), frozenset()),
    "fused": Fusion(POINTWISE | {"batch_norm", "add"}, POINTWISE),
}


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(
    ("spec", "shape"), [("resnet20", (1, 3, 16, 16)), ("torchvision:mobilenet_v2", (1, 3, 32, 32))]
)
def test_work_without_branches_is_that_of_the_rebuilt_network(spec: str, shape: tuple[int, ...], fusion: str) -> None:
    x = torch.zeros(shape)
    graph = record(build_seed(spec, input_shape=shape[1:]).model.eval(), x)
    gone = [name for name in graph.free if graph.groups[name].floor == 0][1:4]
    assert gone
    widths = graph.closed({**graph.widths, **dict.fromkeys(gone, 0)})
    rebuilt = record(graph.resize(dict.fromkeys(gone, 0)), x)
    left, made = (works_of(one, FUSIONS[fusion], 1) for one in (graph.left_at(widths), rebuilt))
    assert Counter(left.families) == Counter(made.families)
    assert Counter(left.families) != Counter(works_of(graph, FUSIONS[fusion], 1).families)
    assert left.steps == made.steps


def test_what_a_network_writes_passes_through_the_caches_too() -> None:
    rows = np.zeros((3, len(COLUMNS)))
    rows[0, [COLUMNS.index(name) for name in ("channels_out", "per_group", "kernel")]] = [8, 4, 9]
    rows[:, COLUMNS.index("written")] = [1000, 500, 500]
    found = passing(["conv", "relu", "view"], rows)
    assert found == pytest.approx([8 * 4 * 9 + ACTIVATIONS * 1000, ACTIVATIONS * 500, 0])
    assert placed(["conv", "relu", "view"], rows)[:, COLUMNS.index("resident")] == pytest.approx(found.sum())


def test_an_activation_that_is_no_operation_may_go_over_the_results_again() -> None:
    """And depends on the widths as these do; one that costs nothing, or is an operation of its own, adds nothing."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 4, 1), nn.ReLU()).eval()
    graph = record(net, torch.zeros(1, 3, 8, 8))
    kinds = frozenset({"batch_norm", "relu", "hardtanh"})
    again = COLUMNS.index("again")
    for width in (8.0, 5.0):
        at = np.array([width, 4.0])
        found = works_of(graph, Fusion(kinds, frozenset(), {"hardtanh": 1.5}), batch=2).rows(at)
        assert found[:, again].tolist() == [1.5 * width * 36 * 2, 0]
    assert not works_of(graph, Fusion(kinds), 2).rows(at)[:, again].any()
    apart = works_of(graph, Fusion(kinds - {"hardtanh"}, frozenset(), {"hardtanh": 1.5}), 2)
    assert apart.families == ["conv", "hardtanh", "conv_1x1"]
    assert not apart.rows(at)[:, again].any()


def test_a_bias_may_be_added_in_a_pass_of_its_own() -> None:
    """Of convolutions that are dense or have few groups; kernels that go channel by channel add theirs on the way."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.Conv2d(8, 8, 1, groups=2),
        nn.Conv2d(8, 8, 1, groups=8),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    graph = record(net.eval(), torch.zeros(1, 3, 8, 8))
    at = np.array([float(width) for width in graph.widths.values()])
    found = works_of(graph, Fusion(again={BIAS: 1.0}), batch=1)
    paid = {name: row[COLUMNS.index("again")] for name, row in zip(found.modules, found.rows(at), strict=True)}
    assert {name: value for name, value in paid.items() if value} == {"0": 8 * 36, "2": 8 * 16}
