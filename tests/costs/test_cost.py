from __future__ import annotations

from typing import Any

import pytest
import torch

from morphsearch import costs
from morphsearch.costs import LayerwiseCost, Polynomial, cost, elements_of, flops_of
from morphsearch.errors import GraphError, UnknownName
from morphsearch.graph import record
from morphsearch.testing import NETWORKS, CostModelConformance, example_inputs


class Energy(LayerwiseCost):
    """A plugin author's model."""

    name, unit, per_image = "energy", "nJ", True

    def price(self, op: Any, graph: Any) -> Polynomial | None:
        flops = flops_of(op)
        return None if flops is None else 0.0046 * flops + 0.64 * elements_of(op)


class TestFlops(CostModelConformance):
    def cost_model(self) -> Any:
        return costs.get("flops")


class TestParams(CostModelConformance):
    def cost_model(self) -> Any:
        return costs.get("params")


class TestEnergy(CostModelConformance):
    def cost_model(self) -> Any:
        return Energy()


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_params_are_those_of_the_network(name: str) -> None:
    model = NETWORKS[name]()
    found = cost(record(model, example_inputs()), "params")
    assert found.total == sum(p.numel() for p in model.parameters())
    modules = dict(model.named_modules())
    for layer, count in found.per_layer.items():
        assert count == sum(p.numel() for p in modules[layer].parameters(recurse=False))


def test_flops_are_whole_numbers_by_layer_of_one_image() -> None:
    model = NETWORKS["residual"]()
    one = cost(record(model, example_inputs()), "flops")
    two = cost(record(model, example_inputs(2)), "flops")
    assert isinstance(one.total, int)
    assert one == two
    assert one.unit == "FLOPs"
    assert one.metric == "flops"
    assert sum(one.per_layer.values()) == one.total
    assert one.per_layer["stem.0"] == 3 * 8 * 9 * 64


def test_costs_that_are_not_counts_stay_floats() -> None:
    found = cost(record(NETWORKS["plain"](), example_inputs()), Energy())
    assert isinstance(found.total, float)
    assert found.unit == "nJ"


def test_widths_may_be_partial_and_must_be_legal() -> None:
    graph = record(NETWORKS["plain"](), example_inputs())
    name = graph.free[0]
    assert cost(graph, "flops", {name: 1}).total < cost(graph, "flops").total < cost(graph, "flops", {name: 99}).total
    with pytest.raises(GraphError):
        cost(graph, "flops", {name: 0})
    with pytest.raises(GraphError):
        cost(graph, "flops", {"no such group": 3})


def test_misspelt_metric_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="did you mean flops"):
        cost(record(NETWORKS["plain"](), example_inputs()), "flop")


def test_shared_parameters_count_once_and_shared_layers_compute_twice() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)
            self.twin = self.conv

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.twin(self.conv(x))

    graph = record(Twice(), example_inputs())
    assert cost(graph, "params").total == 3 * 3 * 9 + 3
    assert cost(graph, "flops").total == 2 * 3 * 3 * 9 * 64
