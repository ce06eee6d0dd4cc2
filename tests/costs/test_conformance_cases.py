"""The cases for cost models catch what they are for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from morphsearch.costs import LayerwiseCost, Polynomial, PolynomialCost, flops_of, vector
from morphsearch.graph import record
from morphsearch.testing import NETWORKS, CostModelConformance, example_inputs


class Wrong(LayerwiseCost):
    """FLOPs, with one mistake."""

    name, unit, per_image = "wrong", "FLOPs", True

    def __init__(self, mistake: str) -> None:
        self.mistake = mistake

    def price(self, op: Any, graph: Any) -> Polynomial | None:
        price = flops_of(op)
        if self.mistake == "seed widths" and price is not None:
            return Polynomial.constant(price.at(list(graph.widths.values())))
        return price

    def bind(self, graph: Any) -> PolynomialCost:
        bound = super().bind(graph)
        if self.mistake == "gradient for price":
            point = vector(graph, graph.widths).requires_grad_()
            (gradient,) = torch.autograd.grad(bound.total(point), point)
            bound.marginal = lambda widths: gradient - 1  # type: ignore[method-assign]
        if self.mistake == "rounds":
            total = bound.total
            bound.total = lambda widths: total(widths).round()  # type: ignore[method-assign]
        if self.mistake == "forgets a layer":
            layers = bound.per_layer
            bound.per_layer = lambda widths: dict(list(layers(widths).items())[1:])  # type: ignore[method-assign]
        if self.mistake == "falls":
            total, marginal = bound.total, bound.marginal
            bound.total = lambda widths: 1e9 - total(widths)  # type: ignore[method-assign]
            bound.marginal = lambda widths: -marginal(widths)  # type: ignore[method-assign]
        if self.mistake == "pays a layer":
            shifted = bound.per_layer
            bound.per_layer = lambda widths: {  # type: ignore[method-assign]
                name: value * (-1 if name == "head" else 1) for name, value in shifted(widths).items()
            }
        if self.mistake == "names no module":
            named = bound.per_layer
            bound.per_layer = lambda widths: {f"{name}!": v for name, v in named(widths).items()}  # type: ignore[method-assign]
        if self.mistake == "pays for units":
            bound.prices = lambda widths: -bound.marginal(widths)  # type: ignore[attr-defined]
        if self.mistake == "details of others":
            bound.details = lambda widths: {"nowhere": {"bound": "memory"}}  # type: ignore[attr-defined]
        return bound


@pytest.mark.parametrize(
    ("mistake", "case"),
    [
        ("seed widths", "test_equals_the_cost_of_the_rebuilt_network"),
        ("gradient for price", "test_marginal_is_the_price_of_one_more_unit"),
        ("forgets a layer", "test_layers_add_up_to_the_total"),
        ("falls", "test_wider_never_costs_less"),
        ("rounds", "test_is_differentiable_in_fractional_widths"),
        ("pays a layer", "test_layers_are_modules_that_cost_something"),
        ("names no module", "test_layers_are_modules_that_cost_something"),
        ("pays for units", "test_what_steers_a_search_is_a_price_for_every_group"),
        ("details of others", "test_details_are_of_its_layers"),
    ],
)
def test_mistakes_are_caught(mistake: str, case: str) -> None:
    class Cases(CostModelConformance):
        def cost_model(self) -> Any:
            return Wrong(mistake)

    cases = Cases()
    graph = record(NETWORKS["plain"](), example_inputs())
    facts: dict[str, Any] = {
        "graph": graph,
        "bound": cases.cost_model().bind(graph),
        "points": [vector(graph, {**graph.widths, graph.free[0]: width}) for width in (4, 8)],
    }
    method = getattr(cases, case)
    names = method.__func__.__code__.co_varnames[1 : method.__func__.__code__.co_argcount]
    with pytest.raises(AssertionError):
        method(**{name: facts[name] for name in names})


def test_what_a_cost_declares_is_not_asked_of_it() -> None:
    class Cases(CostModelConformance):
        def cost_model(self) -> Any:
            return Wrong("falls")

    graph = record(NETWORKS["plain"](), example_inputs())
    bound = Cases().cost_model().bind(graph)
    bound.monotone = False
    with pytest.raises(pytest.skip.Exception, match="not monotone"):
        Cases().test_wider_never_costs_less(bound, [vector(graph, graph.widths)])
