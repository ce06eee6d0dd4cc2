from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from morphsearch import costs
from morphsearch.costs import LayerwiseCost, Polynomial, cost, elements_of, flops_of
from morphsearch.errors import GraphError, UnknownName
from morphsearch.graph import record
from morphsearch.testing import NETWORKS, CostModelConformance, example_inputs
from tests.costs.test_flops_operators import fvcore_total


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


class _Scattered(nn.Module):
    """Points become columns of one image (PointPillars, arXiv 1812.05784)."""

    def __init__(self) -> None:
        super().__init__()
        self.points, self.conv = nn.Linear(4, 8), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, pillars: Tensor, places: Tensor) -> Tensor:
        features = self.points(pillars).amax(1)
        canvas = torch.zeros(8, 64)
        canvas[:, places] = features.t()
        return self.conv(canvas.view(1, 8, 8, 8))


class _TokensAndImage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.conv = nn.Linear(4, 8), nn.Conv2d(3, 8, 1)

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        return self.conv(image) * self.words(tokens).mean(0)[:, None, None]


class _OneMoreDimension(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.b(self.a(image[None]))[0]


class _Masked(nn.Module):
    """A second input without a batch, and a loss beside the result."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(image) * mask
        return self.b(x), x.square().mean()


def _two_convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))


IMAGES: dict[str, tuple[nn.Module, tuple[Tensor, ...], int]] = {
    "one image without a batch": (_two_convolutions(), (torch.rand(3, 8, 8),), 1),
    "one image that gets a batch": (_OneMoreDimension(), (torch.rand(3, 8, 8),), 1),
    "points in one image": (_Scattered(), (torch.rand(5, 8, 4), torch.arange(5)), 1),
    "tokens, then an image": (_TokensAndImage(), (torch.rand(5, 4), torch.rand(1, 3, 8, 8)), 1),
    "three images": (_two_convolutions(), (torch.rand(3, 3, 8, 8),), 3),
    "two images and a mask": (_Masked(), (torch.rand(2, 3, 8, 8), torch.ones(8, 8)), 2),
}


@pytest.mark.parametrize("case", IMAGES)
def test_flops_are_divided_by_the_images_that_came_and_by_nothing_else(case: str) -> None:
    network, inputs, images = IMAGES[case]
    graph = record(network, inputs)
    found = cost(graph, "flops")
    assert found.total == fvcore_total(network, *inputs) / images
    widths = dict.fromkeys(graph.free, 2)
    assert cost(graph, "flops", widths).total == fvcore_total(graph.resize(widths), *inputs) / images
    assert bool(found.notes) == (images == 1)
    assert f"a batch of {images} image" in cost(graph, "memory").notes[0]


def test_one_image_is_priced_alike_with_and_without_a_batch() -> None:
    network = _two_convolutions()
    image = torch.rand(3, 8, 8)
    alone, batch = record(network, image), record(network, image[None])
    for metric in ("flops", "activations", "memory"):
        assert cost(alone, metric).total == cost(batch, metric).total


def test_parameters_that_are_not_trained_are_parameters() -> None:
    network = _two_convolutions()
    network[0].requires_grad_(False)
    assert cost(record(network, torch.rand(1, 3, 8, 8)), "params").total == sum(p.numel() for p in network.parameters())
