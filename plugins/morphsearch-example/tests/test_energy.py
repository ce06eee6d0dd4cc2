"""What an author tests: that the plugin is found, and that its figures are what they claim to be."""

from __future__ import annotations

import morphsearch_example
import pytest
import torch
from torch import nn

from morphsearch import costs, plugins
from morphsearch.graph import record
from morphsearch.testing import CostModelConformance

MAC, BYTE = morphsearch_example.MILLIJOULES_PER_MAC, morphsearch_example.MILLIJOULES_PER_BYTE


def _graph(images=1):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False))
    return record(model, torch.zeros(images, 3, 6, 6))


class TestConformance(CostModelConformance):
    """What morphsearch expects of every cost model."""

    def cost_model(self):
        return plugins.create("cost_models", "energy")


def test_it_is_found_through_its_entry_point():
    found = plugins.record("cost_models", "energy")
    assert found.origin == "morphsearch-example 0.1.0"
    assert not plugins.problems()


@pytest.mark.parametrize("images", [1, 5])
def test_energy_adds_up(images):
    found = costs.cost(_graph(images), "energy")
    first = MAC * 3 * 8 * 9 * 16 + BYTE * 4 * (3 * 36 + 8 * 16 + 3 * 8 * 9)
    second = MAC * 8 * 4 * 16 + BYTE * 4 * (8 * 16 + 4 * 16 + 8 * 4)
    assert found.unit == "mJ"
    assert found.per_layer == pytest.approx({"0": first, "2": second})
    assert found.total == pytest.approx(first + second)


def test_narrower_is_cheaper():
    graph = _graph()
    (free,) = graph.free
    narrow = costs.cost(graph, "energy", {**graph.widths, free: 2})
    assert narrow.total < costs.cost(graph, "energy").total
    assert narrow.total == pytest.approx(
        costs.cost(record(graph.resize({free: 2}), torch.zeros(1, 3, 6, 6)), "energy").total
    )
