"""The budget is a promise: property tests over networks, widths, scores and budgets, counted independently."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_fakes import WITH_NORMS, counted, example, network
from torch import nn

import morphsearch as ms
from morphsearch.graph import ConvGraph
from morphsearch.loop.budget import Budgets
from morphsearch.loop.selection import FULL, expansion, fill_up, from_positions, kept_positions
from morphsearch.strategies.widths import lowest_width, scale, step_of

GRAPHS = {name: ms.record(network(name), example()) for name in WITH_NORMS}


def scramble(model: nn.Module, seed: int, dead: float) -> None:
    """Random scales, a share of them dead."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.05)
                module.weight[torch.rand(module.weight.shape, generator=generator) < dead] = 0.0


@settings(max_examples=25)
@given(
    name=st.sampled_from(WITH_NORMS),
    share=st.integers(8, 170),
    second=st.none() | st.integers(15, 100),
    round_to=st.sampled_from([1, 1, 4, 8]),
    expand=st.booleans(),
    dead=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_every_architecture_meets_every_budget_as_counted_on_the_rebuilt_network(
    name: str, share: int, second: int | None, round_to: int, expand: bool, dead: float, seed: int
) -> None:
    budget = [f"flops={share}%"] + ([f"params={second}%"] if second else [])
    before = counted(network(name))
    try:
        search = ms.Search(network(name), example(), budget, round_to=round_to, expand=expand, seed=seed)
    except ms.MorphError as error:
        assert "lowest that this network can reach" in str(error) or "above the seed" in str(error)  # noqa: PT017
        return
    for morph in range(2):
        scramble(search.model, seed + morph, dead)
        widths_before = dict(search.graph.widths)
        found = search.morph()
        after = counted(copy.deepcopy(search.model))
        assert after["flops"] == found.costs["flops"]["total"]
        assert after["params"] == found.costs["params"]["total"]
        assert after["flops"] <= share * before["flops"] / 100
        if second:
            assert after["params"] <= second * before["params"] / 100
        for group in search.graph.groups.values():
            if group.frozen is None:
                assert found.widths[group.name] % step_of(group, round_to) == 0
                assert found.widths[group.name] >= lowest_width(group, round_to)
        if not expand:
            ceiling = {n: max(w, lowest_width(search.graph.groups[n], round_to)) for n, w in widths_before.items()}
            assert all(found.widths[n] <= ceiling[n] for n in found.widths)
        assert {n: len(units) for n, units in found.kept.items()} == found.widths
        assert all(max(units, default=-1) < widths_before[n] for n, units in found.kept.items())


@settings(max_examples=25)
@given(
    data=st.data(),
    name=st.sampled_from(WITH_NORMS),
    round_to=st.sampled_from([1, 8]),
    limit=st.sampled_from([1.5, 4.0]),
)
def test_no_larger_uniform_multiplier_would_fit(data: st.DataObject, name: str, round_to: int, limit: float) -> None:
    graph = GRAPHS[name]
    kept = draw_widths(data, graph)
    share = data.draw(st.integers(20, 150))
    budgets = Budgets(graph, f"flops={share}%", round_to=round_to)
    if not budgets.fits(scale(graph, 0.0, kept, round_to=round_to)):
        return
    multiplier, widths = expansion(graph, kept, budgets.fits, limit=limit, round_to=round_to)
    assert budgets.fits(widths)
    assert multiplier <= limit
    chosen = scale(graph, multiplier, kept, round_to=round_to)
    assert all(widths[n] >= chosen[n] for n in widths)
    for larger in np.linspace(multiplier, limit, 200)[1:]:
        wider = scale(graph, float(larger), kept, round_to=round_to)
        assert wider == chosen or not budgets.fits(wider)


@settings(max_examples=25)
@given(
    data=st.data(),
    name=st.sampled_from(WITH_NORMS),
    round_to=st.sampled_from([1, 8]),
    limit=st.sampled_from([1.5, 4.0]),
    wary=st.booleans(),
)
def test_the_leftover_fill_never_exceeds_and_leaves_no_room_for_a_step(
    data: st.DataObject, name: str, round_to: int, limit: float, wary: bool
) -> None:
    graph = GRAPHS[name]
    shares = [data.draw(st.integers(20, 150)) for _ in range(2)]
    budgets = Budgets(graph, [f"params={shares[0]}%", f"flops={shares[1]}%"], round_to=round_to)
    base = draw_widths(data, graph)
    start = scale(graph, 0.5, base, round_to=round_to)
    if not budgets.fits(start):
        return
    load = budgets.load if wary else None
    filled = fill_up(graph, start, budgets.fits, base=base, limit=limit, round_to=round_to, load=load)
    assert budgets.fits(filled)
    for name_, width in filled.items():
        step = step_of(graph.groups[name_], round_to)
        assert width >= start[name_]
        assert (width - start[name_]) % step == 0
        assert width in (start[name_], step) or width <= limit * base[name_]
        if name_ in graph.free and width + step <= limit * base[name_]:
            wider = {**filled, name_: width + step}
            full = wary and width > start[name_] and budgets.load(filled) >= FULL
            assert full or not budgets.fits(wider) or (wary and budgets.load(wider) == budgets.load(filled))


@pytest.mark.parametrize("strategy", ["magnitude", "uniform"])
def test_a_small_network_whose_dearest_group_takes_no_step_fills_its_budget_with_others(strategy: str) -> None:
    """One unit of the stream is a tenth of this network: the rest goes to groups that have room, a few units each."""
    search = ms.Search(network("residual"), example(), "flops=30%", strategy=strategy, steps=10)
    seed = counted(network("residual"))["flops"]
    found = search.morph()
    flops, widths = counted(search.model)["flops"], dict(found.widths)
    assert flops <= 0.3 * seed
    graph = search.graph
    for name in graph.free:
        wider = ms.cost(graph, "flops", {**widths, name: widths[name] + 1}).total
        assert flops >= 0.99 * 0.3 * seed or wider > 0.3 * seed or widths[name] + 1 > 4 * len(set(found.kept[name]))


def test_nearly_full_the_cheapest_group_is_not_filled_for_dozens_of_units() -> None:
    """A group whose units cost next to nothing would take all that is left of the budget, a thousandth of it."""
    graph = GRAPHS["residual"]
    cheap = graph.free[-1]

    def load(widths: dict[str, int]) -> float:
        return sum((1e-5 if name == cheap else 1.0) * widths[name] for name in graph.free) / limit

    limit = sum(graph.widths[name] for name in graph.free if name != cheap) + 0.1
    filled = fill_up(graph, dict(graph.widths), lambda widths: load(widths) <= 1, load=load)
    assert filled == {**graph.widths, cheap: graph.widths[cheap] + step_of(graph.groups[cheap], 1)}


@given(data=st.data(), name=st.sampled_from(WITH_NORMS))
def test_kept_positions_say_which_unit_occurs_how_often(data: st.DataObject, name: str) -> None:
    graph = GRAPHS[name]
    multiplicity = np.array(data.draw(st.lists(st.integers(0, 3), min_size=graph.num_units, max_size=graph.num_units)))
    for group in graph.groups:
        if not multiplicity[graph.units_of(group)].any():
            multiplicity[graph.units_of(group)[0]] = 1
    assert (from_positions(graph, kept_positions(graph, multiplicity)) == multiplicity).all()


def draw_widths(data: st.DataObject, graph: ConvGraph) -> dict[str, int]:
    widths = {}
    for name, group in graph.groups.items():
        steps = max(1, group.width // group.multiple)
        free = group.frozen is None
        least = max(1, group.floor // group.multiple)
        widths[name] = group.multiple * data.draw(st.integers(least, max(least, steps))) if free else group.width
    return widths


@pytest.mark.parametrize("strategy", ["uniform", "random"])
@pytest.mark.parametrize("round_to", [1, 2])
def test_proposed_widths_fill_the_budget_too(strategy: str, round_to: int) -> None:
    search = ms.Search(network(), example(), "flops=60%", strategy=strategy, round_to=round_to)
    found = search.morph()
    limit = 0.6 * counted(network())["flops"]
    assert counted(search.model)["flops"] <= limit
    assert found.costs["flops"]["total"] > 0.8 * limit
    assert found.multiplier is None
