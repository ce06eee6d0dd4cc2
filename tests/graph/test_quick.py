"""Short ways give what the long ones give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from morphsearch.graph import labels, record
from morphsearch.graph.paths import buffers_of, modules_of, parameters_of
from morphsearch.graph.rewrite import gathered
from morphsearch.graph.unionfind import distinct_values


@pytest.mark.parametrize("shape", [(1200, 900), (2048, 512), (300, 200, 3, 3), (40, 30), (2, 700_000)])
@pytest.mark.parametrize("last", [False, True])
def test_slices_of_a_large_weight_are_those_of_a_small_one(shape: tuple[int, ...], last: bool) -> None:
    weight = torch.randn(shape)
    if last and len(shape) == 4:
        weight = weight.to(memory_format=torch.channels_last)
    rng = np.random.default_rng(0)
    rows = rng.permutation(shape[0])[: shape[0] // 2 + 1]
    columns = np.repeat(np.arange(0, shape[1], 3), 2)
    found = gathered(weight, [(0, rows), (1, columns)])
    assert torch.equal(found, weight[torch.from_numpy(rows)][:, torch.from_numpy(columns)])
    assert found.is_contiguous(
        memory_format=torch.channels_last if last and len(shape) == 4 else torch.contiguous_format
    )
    assert gathered(weight, [(0, rows[:0]), (1, columns)]).shape[:2] == (0, columns.size)


def test_a_table_that_is_indexed_again_is_read_at_the_new_places() -> None:
    ids = labels.numbers(60).view(4, 15)
    index = torch.arange(15).repeat(400)
    first = labels.taken(ids, [None, index])
    assert labels.taken(ids, [None, index.clone()]) is first
    index += 1
    index %= 15
    assert torch.equal(labels.taken(ids, [None, index]), ids[:, index])
    assert torch.equal(labels.taken(ids[:2], [None, index]), ids[:2, index])
    assert torch.equal(labels.taken(ids.T, [index]), ids.T[index])
    labels.forget_numbers()


def test_modules_and_numbers_are_those_that_torch_and_numpy_name() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 4, 1), shared, nn.Sequential(shared, nn.Conv2d(4, 4, 1)))
    model.extra = None
    model.register_module("empty", None)
    assert list(modules_of(model).items()) == list(model.named_modules())
    model[2].append(nn.BatchNorm2d(4))
    model[2].tied, model[2][1].bias = model[0].weight, None
    modules = modules_of(model)
    for found, named in (
        (parameters_of(modules), model.named_parameters()),
        (buffers_of(modules), model.named_buffers()),
    ):
        assert [(name, id(one)) for name, one in found.items()] == [(name, id(one)) for name, one in named]
    for numbers in (np.array([3, 1, 3, 2]), np.zeros(0, np.int64), np.array([[2, 1], [2, 2]])):
        assert np.array_equal(distinct_values(numbers), np.unique(numbers))


def test_patched_networks_inherit_their_weights_from_one_selection() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = nn.Conv2d(3, 64, 1), nn.Conv2d(32, 8, 1), nn.Conv2d(32, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = self.stem(x).split((32, 32), 1)
            return self.left(left) + self.right(right)

    model = Halves()
    graph = record(model, torch.rand(1, 3, 8, 8))
    small = graph.shrink({name: range(3, 20) for name in graph.free if graph.groups[name].width == 32})
    assert torch.equal(small.left.weight, model.left.weight[:, 3:20])
    assert torch.equal(small.right.weight, model.right.weight[:, 3:20])
    assert not {id(one) for one in small.parameters()} & {id(one) for one in model.parameters()}
