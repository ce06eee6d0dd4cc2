from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from morphsearch.costs import Polynomial, PolynomialCost
from morphsearch.errors import UsageError
from morphsearch.graph.extent import Extent

GROUPS = 4
numbers = st.integers(-20, 20)
extents = st.builds(
    Extent, st.integers(0, 9).map(float), st.dictionaries(st.integers(0, GROUPS - 1), st.integers(0, 9).map(float))
)
widths = st.lists(st.integers(0, 100), min_size=GROUPS, max_size=GROUPS)
quadratics = st.builds(lambda a, b, c: Polynomial.product(a, b) + c, extents, extents, extents)


@given(extents, extents, extents, numbers, widths)
def test_arithmetic_agrees_with_numbers(a: Extent, b: Extent, c: Extent, k: int, w: list[int]) -> None:
    value = Polynomial.product(a, b) * k + Polynomial.of(c) * 3 + 2 + c
    assert value.at(w) == a.at(w) * b.at(w) * k + c.at(w) * 3 + 2 + c.at(w)
    assert (Polynomial.of(a) * b).at(w) == (Polynomial.of(b) * a).at(w)
    assert sum([Polynomial.of(a), Polynomial.of(b)], Polynomial()).at(w) == a.at(w) + b.at(w)


@given(st.lists(quadratics, max_size=5), widths)
def test_bound_cost_agrees_with_its_layers_and_its_differences(layers: list[Polynomial], w: list[int]) -> None:
    cost = PolynomialCost(GROUPS, {f"layer{i}": layer for i, layer in enumerate(layers)}, "FLOPs")
    at = torch.tensor(w, dtype=torch.float64)
    assert float(cost.total(at)) == sum(layer.at(w) for layer in layers)
    assert {k: float(v) for k, v in cost.per_layer(at).items()} == {
        f"layer{i}": layer.at(w) for i, layer in enumerate(layers)
    }
    for group in range(GROUPS):
        wider = at.clone()
        wider[group] += 1
        assert float(cost.marginal(at)[group]) == float(cost.total(wider) - cost.total(at))


@given(st.lists(quadratics, min_size=1, max_size=3))
def test_total_is_differentiable(layers: list[Polynomial]) -> None:
    cost = PolynomialCost(GROUPS, {str(i): layer for i, layer in enumerate(layers)}, "FLOPs")
    at = torch.tensor([3.5, 1.25, 8.0, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cost.total, at)
    assert torch.autograd.gradcheck(lambda w: torch.stack(list(cost.per_layer(w).values())), at)


def test_large_counts_are_exact() -> None:
    cost = PolynomialCost(2, {"conv": Polynomial({(0, 1): 9.0 * 112 * 112})}, "FLOPs")
    assert int(cost.total(torch.tensor([4095.0, 4093.0], dtype=torch.float64))) == 9 * 112 * 112 * 4095 * 4093


def test_products_of_three_widths_are_refused() -> None:
    one = Extent(0, {0: 1.0})
    with pytest.raises(UsageError, match="degree 3"):
        Polynomial.product(one, one, one)


def test_fixed_factors_do_not_count_as_widths() -> None:
    one = Extent(0, {0: 1.0})
    assert Polynomial.product(one, Extent(3.0), one, 2).at([5]) == 150
