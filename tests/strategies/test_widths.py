from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphsearch.costs import bind, vector
from morphsearch.errors import BudgetError, UsageError
from morphsearch.graph import record
from morphsearch.strategies.widths import largest_multiplier, lowest, scale
from morphsearch.testing import NETWORKS, example_inputs
from tests.strategies.fake_graph import FakeGraph, group


@st.composite
def graphs(draw: Any) -> FakeGraph:
    groups = {}
    for index in range(draw(st.integers(1, 5))):
        multiple = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
        name, made = group(
            f"g{index}",
            multiple * draw(st.integers(1, 12)),
            floor=draw(st.integers(1, 9)),
            multiple=multiple,
            frozen=draw(st.sampled_from([None, None, None, "it is the network's output"])),
        )
        groups[name] = made
    return FakeGraph(groups)


def cost_of(widths: dict[str, int]) -> int:
    """Any function that grows with every width: neighbours multiplied, as in a chain of convolutions."""
    values = [3, *widths.values()]
    return sum(a * b for a, b in pairwise(values))


@given(graphs(), st.floats(0, 4), st.floats(0, 4), st.sampled_from([1, 4, 8]))
def test_scaled_widths_are_legal_and_grow_with_the_multiplier(
    graph: Any, one: float, other: float, round_to: int
) -> None:
    low, high = sorted((one, other))
    narrow, wide = scale(graph, low, round_to=round_to), scale(graph, high, round_to=round_to)
    for name, found in graph.groups.items():
        assert narrow[name] <= wide[name]
        if found.frozen:
            assert narrow[name] == found.width
        else:
            assert narrow[name] >= found.floor
            assert narrow[name] % found.multiple == 0
            assert narrow[name] % round_to == 0


@given(graphs())
def test_multiplier_one_keeps_widths_above_the_floors(graph: Any) -> None:
    for name, width in scale(graph, 1.0).items():
        found = graph.groups[name]
        assert width == found.width or width == lowest(graph)[name] > found.width


def test_scaling_rounds_to_the_nearest_width() -> None:
    graph: Any = FakeGraph(dict([group("a", 10), group("b", 24, multiple=8), group("c", 7, frozen="why")]))
    assert scale(graph, 0.5) == {"a": 5, "b": 16, "c": 7}
    assert scale(graph, 0.44) == {"a": 4, "b": 8, "c": 7}
    assert scale(graph, 0.45) == {"a": 5, "b": 8, "c": 7}
    assert scale(graph, 1.5, {"a": 2.5}) == {"a": 4, "b": 40, "c": 7}
    assert scale(graph, 0.01) == {"a": 1, "b": 8, "c": 7}
    assert scale(graph, 1.0, round_to=4) == {"a": 12, "b": 24, "c": 7}


@given(graphs(), st.integers(1, 4000), st.sampled_from([0.75, 2.0, 16.0]), st.sampled_from([1, 4]), st.data())
def test_no_larger_multiplier_fits(graph: Any, budget: int, limit: float, round_to: int, data: Any) -> None:
    base = {name: data.draw(st.floats(0.3, 40), label=name) for name in graph.groups}
    calls = []

    def fits(widths: dict[str, int]) -> bool:
        calls.append(widths)
        return cost_of(widths) <= budget

    if cost_of(lowest(graph, round_to=round_to)) > budget:
        with pytest.raises(BudgetError):
            largest_multiplier(graph, base, fits, limit, round_to=round_to)
        return
    multiplier, widths = largest_multiplier(graph, base, fits, limit, round_to=round_to)
    assert fits(widths)
    assert 0 <= multiplier <= limit
    assert scale(graph, multiplier, base, round_to=round_to) == widths
    assert len(calls) < 40
    # Walk up through every multiplier at which any group could change: the first change is over the budget.
    points = sorted(
        {
            (k + 0.5) * step / base[name]
            for name, found in graph.groups.items()
            if not found.frozen
            for step in (found.multiple * round_to if found.multiple != 2 and found.multiple != 8 else found.multiple,)
            for k in range(int(limit * base[name] / step) + 2)
        }
    )
    for point in points:
        if multiplier < point <= limit:
            wider = scale(graph, point, base, round_to=round_to)
            if wider != widths:
                assert cost_of(wider) > budget
                break


def test_a_network_that_always_fits_stops_at_the_limit() -> None:
    graph: Any = FakeGraph(dict([group("a", 10)]))
    multiplier, widths = largest_multiplier(graph, None, lambda widths: True, 4.0)
    assert widths == {"a": 40}
    assert multiplier <= 4


def test_all_groups_frozen() -> None:
    graph: Any = FakeGraph(dict([group("a", 10, frozen="why")]))
    assert largest_multiplier(graph, None, lambda widths: True, 4.0)[1] == {"a": 10}


@pytest.mark.parametrize("bad", [-0.5, float("nan")])
def test_bad_multipliers(bad: float) -> None:
    with pytest.raises(UsageError):
        scale(FakeGraph(dict([group("a", 10)])), bad)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        largest_multiplier(FakeGraph(dict([group("a", 10)])), None, lambda widths: True, bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("share", [0.3, 0.8, 2.0])
def test_widths_of_a_network_use_up_its_budget(name: str, share: float) -> None:
    graph = record(NETWORKS[name](), example_inputs())
    flops = bind(graph, "flops")
    budget = share * float(flops.total(vector(graph, graph.widths)))

    def fits(widths: dict[str, int]) -> bool:
        return float(flops.total(vector(graph, widths))) <= budget

    multiplier, widths = largest_multiplier(graph, None, fits)
    assert fits(widths)
    assert graph.check_widths(widths) == widths
    wider = next(w for w in (scale(graph, multiplier + step / 1000) for step in range(1, 100_000)) if w != widths)
    assert not fits(wider)
