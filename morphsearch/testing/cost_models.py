"""What every cost model must do; subclass :class:`CostModelConformance` in a test module to check yours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from morphsearch.costs.pricing import cost, vector
from morphsearch.strategies.widths import scale
from morphsearch.testing.networks import NETWORKS, example_inputs

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph
    from morphsearch.types import BoundCost, CostModel


class CostModelConformance:
    """Cases for a cost model::

        class TestEnergy(CostModelConformance):
            def cost_model(self):
                return Energy()

    What a cost cannot promise it declares, here or as an attribute of the same name of what it binds.

    Attributes:
        monotone: a wider group never costs less (set False for measured costs that step).
        additive: the layers add up to the total (also those of a peak, which are what each holds at that moment).
        differentiable: gradients flow to the widths, and are the slope.
        tolerance: relative error between figures that should be equal.
    """

    monotone = True
    additive = True
    differentiable = True
    tolerance = 1e-9

    def cost_model(self) -> CostModel:
        """The cost model under test."""
        raise NotImplementedError("return the cost model under test")

    @pytest.fixture(params=sorted(NETWORKS))
    def graph(self, request: pytest.FixtureRequest) -> ConvGraph:
        """One of the tiny networks, recorded."""
        from morphsearch.graph import record

        return record(NETWORKS[request.param](), example_inputs())

    @pytest.fixture
    def bound(self, graph: ConvGraph) -> BoundCost:
        """The cost model bound to `graph`."""
        return self.cost_model().bind(graph)

    @pytest.fixture
    def points(self, graph: ConvGraph) -> list[Tensor]:
        """Widths: the network's own, the lowest, and three random draws from a half to double."""
        rng = np.random.default_rng(0)
        draws = [scale(graph, 1.0), scale(graph, 0.0)]
        for _ in range(3):
            draws.append(scale(graph, 1.0, {n: w * rng.uniform(0.5, 2) for n, w in graph.widths.items()}))
        return [vector(graph, widths) for widths in draws]

    def declares(self, promise: str, bound: BoundCost) -> bool:
        """Whether the cost makes a promise: "monotone", "additive" or "differentiable"."""
        return bool(getattr(bound, promise, True)) and bool(getattr(self, promise))

    def close(self, left: float, right: float) -> bool:
        """Equal up to :attr:`tolerance`."""
        return abs(left - right) <= self.tolerance * max(1.0, abs(left), abs(right))

    def test_has_a_name_and_a_unit(self, bound: BoundCost) -> None:
        """Both are printed beside every figure."""
        model = self.cost_model()
        assert model.name, "name is what --budget calls it"
        assert model.unit == bound.unit, "the unit of the model is the unit of what it binds"

    def test_total_is_a_finite_non_negative_scalar(self, bound: BoundCost, points: list[Tensor]) -> None:
        """At every legal width."""
        for widths in points:
            total = bound.total(widths)
            assert total.shape == (), f"total has shape {tuple(total.shape)}"
            assert total.dtype == torch.float64, f"total is {total.dtype}; float32 cannot count FLOPs exactly"
            assert torch.isfinite(total), f"total is {float(total)}"
            assert total >= 0, f"total is {float(total)}"

    def test_layers_add_up_to_the_total(self, bound: BoundCost, points: list[Tensor]) -> None:
        """So that a table's footer is the sum of its column."""
        if not self.declares("additive", bound):
            pytest.skip("declared not additive")
        for widths in points:
            layers = {name: float(value) for name, value in bound.per_layer(widths).items()}
            total = float(bound.total(widths))
            assert self.close(sum(layers.values()), total), f"{layers} add up to {sum(layers.values())}, not {total}"

    def test_marginal_is_the_price_of_one_more_unit(
        self, graph: ConvGraph, bound: BoundCost, points: list[Tensor]
    ) -> None:
        """Exactly: the difference of two totals."""
        for widths in points:
            marginal = bound.marginal(widths)
            assert marginal.shape == (len(graph.groups),), f"marginal has shape {tuple(marginal.shape)}"
            for index, name in enumerate(graph.groups):
                wider = widths.clone()
                wider[index] += 1
                difference = float(bound.total(wider) - bound.total(widths))
                assert self.close(float(marginal[index]), difference), (
                    f"group {name}: {float(marginal[index])} against a difference of {difference}"
                )

    def test_wider_never_costs_less(self, bound: BoundCost, points: list[Tensor]) -> None:
        """Or the cost model says ``monotone = False``."""
        if not self.declares("monotone", bound):
            pytest.skip("declared not monotone")
        for widths in points:
            assert (bound.marginal(widths) >= -self.tolerance).all(), "one more unit makes it cheaper"

    def test_layers_are_modules_that_cost_something(
        self, graph: ConvGraph, bound: BoundCost, points: list[Tensor]
    ) -> None:
        """Each has a module of the network to stand under, and none is paid for being there."""
        modules = {name for name, _ in graph.model.named_modules()}
        for widths in points:
            for name, value in bound.per_layer(widths).items():
                assert name in modules, f"{name!r} is no module of the network"
                assert float(value) >= 0, f"{name} costs {float(value)}"

    def test_what_steers_a_search_is_a_price_for_every_group(
        self, graph: ConvGraph, bound: BoundCost, points: list[Tensor]
    ) -> None:
        """Where a cost says for itself what units are worth: ``pressure(widths, limit)`` or ``prices(widths)``."""
        for widths in points:
            asked = [bound.prices(widths)] if hasattr(bound, "prices") else []
            if hasattr(bound, "pressure"):
                total = float(bound.total(widths))
                asked += [bound.pressure(widths, share * total) for share in (0.5, 1.0, 2.0)]
            for found in asked:
                assert found.shape == (len(graph.groups),), f"it has shape {tuple(found.shape)}"
                assert torch.isfinite(found).all(), f"it is {found.tolist()}"
                assert (found >= -self.tolerance).all(), "a unit that is paid for being there would never leave"

    def test_details_are_of_its_layers(self, bound: BoundCost, points: list[Tensor]) -> None:
        """Where a cost says what its layers are made of, they are the layers that it prices."""
        for widths in points:
            details = bound.details(widths) if hasattr(bound, "details") else {}
            assert set(details) <= set(bound.per_layer(widths))
            for layer, parts in details.items():
                assert parts.get("bound", "") in {"", *parts}, f"{layer} is bound by {parts.get('bound')!r}"

    def test_is_differentiable_in_fractional_widths(self, bound: BoundCost, points: list[Tensor]) -> None:
        """The gradient is the slope: it agrees with a central difference."""
        if not self.declares("differentiable", bound):
            pytest.skip("declared not differentiable")
        direction = torch.linspace(0.5, 1.5, points[0].numel(), dtype=torch.float64)
        for widths in points:
            at = (widths + 0.25).requires_grad_()
            (gradient,) = torch.autograd.grad(bound.total(at), at)
            with torch.no_grad():
                rise = float(bound.total(at + 1e-3 * direction) - bound.total(at - 1e-3 * direction)) / 2e-3
            slope = float(gradient @ direction)
            assert abs(slope - rise) <= 1e-4 * max(1.0, abs(slope)), f"gradient {slope}, difference {rise}"

    def test_equals_the_cost_of_the_rebuilt_network(self, graph: ConvGraph, points: list[Tensor]) -> None:
        """What the polynomial says at other widths is what a network of those widths costs when recorded afresh."""
        from morphsearch.graph import record

        model = self.cost_model()
        for point in points:
            widths = {name: round(float(width)) for name, width in zip(graph.groups, point, strict=True)}
            predicted = cost(graph, model, widths)
            rebuilt = cost(record(graph.resize(widths), example_inputs()), model)
            assert self.close(predicted.total, rebuilt.total), f"at {widths}: {predicted.total}, not {rebuilt.total}"

    def test_binding_leaves_the_graph_as_it_was(self, graph: ConvGraph) -> None:
        """Cost models read; two bindings agree."""
        before = graph.widths
        model = self.cost_model()
        widths = vector(graph, graph.widths)
        assert float(model.bind(graph).total(widths)) == float(model.bind(graph).total(widths))
        assert graph.widths == before
