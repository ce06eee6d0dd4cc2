"""The work that a backend does for a network without a branch is that of the network that comes out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from morphsearch.graph import record
from morphsearch.hardware.kinds import Fusion
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
    assert placed(["conv", "relu", "view"], rows)[:, -1] == pytest.approx(found.sum())
