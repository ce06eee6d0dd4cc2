"""What budgets may say, what they mean, and that what cannot be met is refused with what can be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loop_fakes import example, network

import morphsearch as ms
from morphsearch import plugins
from morphsearch.costs import LayerwiseCost, Polynomial
from morphsearch.errors import BudgetError, UnknownName, UsageError
from morphsearch.loop.budget import Budgets, figure, parse_budget
from morphsearch.models import build_seed
from morphsearch.types import CostModelRecord


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("flops=50%", 500),
        ("flops = 50 %", 500),
        ("flops<=50%", 500),
        ("flops=.5%", 5),
        ("flops=150%", 1500),
        ("flops<=400", 400),
        ("flops<=1_200", 1200),
        ("flops<=1.2K", 1200),
        ("flops<=1.2k", 1200),
        ("flops<=3M", 3e6),
        ("flops<=3MFLOPs", 3e6),
        ("flops<=2e6", 2e6),
        ("flops<=2GFLOPs", 2e9),
        ("params<=1.2M", 1.2e6),
        ("params<=7B", 7e9),
        ("params<=300 parameters", 300),
        ("params<=300kparams", 3e5),
        (" params<=4 ", 4),
    ],
)
def test_a_budget_is_a_share_of_the_seed_or_a_bound(text: str, limit: float) -> None:
    assert parse_budget(text).limit(1000) == pytest.approx(limit, rel=1e-12)


def test_a_share_of_a_whole_cost_is_exact() -> None:
    # 0.57 * 100 is 56.99999999999999 in floating point; widths that cost 57 do meet 57%
    assert parse_budget("params=57%").limit(100) == 57


@pytest.mark.parametrize(
    "text",
    [
        "",
        "flops",
        "flops=",
        "=50%",
        "flops=fifty",
        "flops=-5%",
        "flops=5%%",
        "flops>=5M",
        "50%",
        "flops=nan%",
        "flops<=inf",
    ],
)
def test_what_does_not_parse_says_how_a_budget_reads(text: str) -> None:
    with pytest.raises(UsageError, match=r"does not parse") as caught:
        parse_budget(text)
    assert "METRIC=N%" in caught.value.rule
    assert "flops=50%" in caught.value.repair


@pytest.mark.parametrize("text", ["flops=0%", "flops<=0", "params<=0.0M"])
def test_nothing_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError, match="leaves nothing"):
        parse_budget(text)


def test_a_number_without_percent_or_bound_is_neither() -> None:
    with pytest.raises(UsageError, match="neither a share nor a bound") as caught:
        parse_budget("flops=50")
    assert "flops=50%" in caught.value.repair
    assert "flops<=50" in caught.value.repair


@pytest.mark.parametrize("text", ["params<=8ms", "flops<=3MiB", "flops<=5x", "params<=3Mflops"])
def test_a_unit_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="ends in"):
        parse_budget(text)


@pytest.mark.parametrize(("name", "meant"), [("flpos", "flops"), ("FLOP", "flops"), ("parms", "params")])
def test_a_misspelt_cost_gets_the_nearest_names(name: str, meant: str) -> None:
    with pytest.raises(UnknownName) as caught:
        parse_budget(f"{name}=50%")
    assert meant in caught.value.repair


class Latency(LayerwiseCost):
    """Thousandths of what a convolution multiplies, called milliseconds."""

    name, unit = "slowness", "ms"

    def price(self, op: Any, graph: Any) -> Polynomial | None:
        return Polynomial.product(op.rows, op.columns) * 0.001 if op.kind == "conv" else None


class Launches(LayerwiseCost):
    """Most of it is there at any widths."""

    name, unit = "launches", "ms"

    def price(self, op: Any, graph: Any) -> Polynomial | None:
        return Polynomial.constant(1.0) + Polynomial.product(op.rows, op.columns) * 0.001 if op.kind == "conv" else None


class Plugin:
    @ms.hookimpl
    def morphsearch_cost_models(self) -> list[CostModelRecord]:
        return [
            CostModelRecord("slowness", "a cost that is not whole", Latency),
            CostModelRecord("launches", "a cost that widths change little", Launches),
        ]


@pytest.fixture
def slowness() -> Any:
    plugin = Plugin()
    plugins.register(plugin)
    yield
    plugins.unregister(plugin)


@pytest.mark.usefixtures("slowness")
def test_bounds_of_a_cost_convert_within_its_units() -> None:
    assert parse_budget("slowness<=8ms").limit(1) == 8
    assert parse_budget("slowness<=8").limit(1) == 8
    assert parse_budget("slowness<=0.5s").limit(1) == 500
    assert parse_budget("slowness<=500us").limit(1) == pytest.approx(0.5)


@pytest.mark.usefixtures("slowness")
def test_an_impossible_budget_of_a_small_cost_is_told_in_figures_that_say_something() -> None:
    with pytest.raises(BudgetError) as caught:
        ms.Search(network("plain"), example(), "slowness<=0.0012ms")
    assert "0.0012 ms at most" in caught.value.arrived
    assert "0.004 ms" in caught.value.rule  # both convolutions at one channel: 3 * 1 + 1 * 1 thousandths
    search = ms.Search(network("plain"), example(), "slowness=50%")
    architecture = search.morph()
    assert architecture.costs["slowness"]["total"] <= 0.5 * search.budgets.seed_costs["slowness"]


@pytest.mark.usefixtures("slowness")
def test_a_budget_that_leaves_little_to_choose_is_told() -> None:
    search = ms.Search(network("plain"), example(), "slowness=50%")
    assert not search.budgets.notes
    seed, least = search.budgets.seed_costs["slowness"], 0.004
    limit = 2 + least + 0.1 * (seed - least)
    (note,) = ms.Search(network("plain"), example(), f"launches<={limit}ms").budgets.notes
    assert "leaves 10% of what widths can change" in note
    assert "the narrowest network costs 2 of" in note


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567, "1,234,567"), (0.00123456, "0.001235"), (8.5, "8.5"), (608512.5, "608,512"), (3.0, "3")],
)
def test_figures(value: float, text: str) -> None:
    assert figure(value) == text


def test_an_impossible_budget_is_refused_before_training_with_the_lowest_possible() -> None:
    graph = ms.record(network(), example())
    lowest = Budgets(graph, "flops=50%").rows()[0].lowest
    with pytest.raises(BudgetError) as caught:
        ms.Search(network(), example(), "flops<=100")
    assert caught.value.exit_code == 3
    assert f"{lowest:,.0f} FLOPs" in caught.value.rule
    repaired = caught.value.repair.removeprefix("ask for ").removesuffix(" or more")
    found = ms.Search(network(), example(), repaired).morph()
    assert found.costs["flops"]["total"] <= parse_budget(repaired).limit(ms.cost(graph, "flops").total)


def test_of_several_budgets_the_impossible_one_is_named() -> None:
    with pytest.raises(BudgetError, match="params<=5"):
        ms.Search(network(), example(), ["flops=50%", "params<=5"])


def test_several_budgets_hold_at_once() -> None:
    seed = ms.record(network(), example())
    search = ms.Search(network(), example(), ["flops=60%", "params=35%"], strategy="uniform")
    costs = search.morph().costs
    assert costs["flops"]["total"] <= 0.60 * ms.cost(seed, "flops").total
    assert costs["params"]["total"] <= 0.35 * ms.cost(seed, "params").total


def test_a_budget_above_the_seed_needs_expansion() -> None:
    with pytest.raises(UsageError, match="above the seed"):
        ms.Search(network(), example(), "flops=150%", expand=False)
    grown = ms.Search(network(), example(), "flops=150%", strategy="uniform").morph()
    assert grown.costs["flops"]["total"] > ms.cost(ms.record(network(), example()), "flops").total


def test_no_budget_at_all() -> None:
    with pytest.raises(UsageError, match="no budget"):
        ms.Search(network(), example(), [])


@pytest.mark.parametrize(
    ("text", "mebibytes"),
    [
        ("memory<=64MiB", 64),
        ("memory<=64", 64),
        ("memory<=64mib", 64),
        ("memory-training<=2GiB", 2048),
        ("memory<=512KiB", 0.5),
        ("memory<=1MB", 1e6 / 2**20),
        ("memory=50%", 5),
    ],
)
def test_memory_is_bounded_in_bytes_of_any_size(text: str, mebibytes: float) -> None:
    assert parse_budget(text).limit(10) == pytest.approx(mebibytes)


@pytest.mark.parametrize(
    ("text", "meant"), [("memory<=64M", "64MiB"), ("memory<=1G", "1GiB"), ("memory<=64k", "64KiB")]
)
def test_a_scale_without_its_unit_is_no_number_of_mebibytes(text: str, meant: str) -> None:
    with pytest.raises(UsageError, match="alone") as caught:
        parse_budget(text)
    assert meant in caught.value.repair


def test_all_budgets_in_the_way_are_named_with_what_holds_them() -> None:
    with pytest.raises(BudgetError) as caught:
        ms.Search(network(), example(), ["flops=60%", "params<=5", "memory<=1KiB"])
    assert "params<=5" in caught.value.arrived
    assert "memory<=1KiB" in caught.value.arrived
    assert "the others can be met: flops=60%" in caught.value.arrived
    assert "head" in caught.value.rule
    assert "params=" in caught.value.repair
    assert "memory=" in caught.value.repair
    wanted = caught.value.repair.removeprefix("ask for ").removesuffix(" or more").split(" and ")
    assert ms.Search(network(), example(), ["flops=60%", *wanted]).budgets.rows()[-1].satisfiable


def test_rounding_that_no_budget_could_allow_is_what_to_change() -> None:
    with pytest.raises(BudgetError) as caught:
        ms.Search(network(), example(), "flops=50%", round_to=512)
    assert "%" not in caught.value.repair
    assert "smaller multiple than 512" in caught.value.repair


def test_rounding_that_makes_a_budget_impossible_is_named() -> None:
    lowest = Budgets(ms.record(network(), example()), "flops=50%").rows()[0]
    share = 100 * lowest.lowest / lowest.seed + 0.1
    with pytest.raises(BudgetError, match="at most") as caught:
        ms.Search(network(), example(), f"flops={share:.3f}%", round_to=8)
    assert "multiples of 8" in caught.value.rule


def test_the_fullest_budget_binds() -> None:
    graph = ms.record(network(), example())
    budgets = Budgets(graph, ["flops=60%", "params=35%"])
    seed = budgets.loads(graph.widths)
    assert seed == pytest.approx({"flops=60%": 1 / 0.6, "params=35%": 1 / 0.35})
    assert budgets.binding(graph.widths) == "params=35%"
    rows = {row.text: row for row in budgets.rows()}
    assert [text for text, row in rows.items() if row.binds] == ["params=35%"]
    binding = rows["params=35%"]
    assert binding.uniform is not None
    assert 0.6 * binding.requested < binding.uniform <= binding.requested
    other = rows["flops=60%"]
    assert other.uniform is not None
    assert other.uniform / other.requested < binding.uniform / binding.requested


def test_a_search_says_which_budget_binds_as_it_goes() -> None:
    search = ms.Search(network(), example(), ["flops=60%", "params=35%"])
    status = search.status()
    assert status["binding"] == "params=35%"
    assert status["load"] == pytest.approx(1 / 0.35)


def test_a_schedule_has_a_binding_budget_at_every_stage() -> None:
    graph = ms.record(network(), example())
    rows = {row.text: row for row in Budgets(graph, ["flops=80%,20%", "params=50%"]).rows()}
    assert not rows["flops=80%"].binds  # params=50% is tighter at first
    assert rows["flops=20%"].binds


@pytest.mark.parametrize("metric", ["memory", "memory-training", "activations"])
@pytest.mark.parametrize("strategy", ["uniform", "magnitude"])
def test_searches_meet_budgets_that_are_peaks(metric: str, strategy: str) -> None:
    seed = ms.record(network(), example())
    search = ms.Search(network(), example(), [f"{metric}=60%", "params=80%"], strategy=strategy)
    found = search.morph()
    assert found.costs[metric]["total"] <= 0.6 * ms.cost(seed, metric).total
    assert found.costs["params"]["total"] <= 0.8 * ms.cost(seed, "params").total
    assert ms.cost(ms.record(search.model, example()), metric).total == pytest.approx(found.costs[metric]["total"])


def test_the_price_of_a_peak_counts_every_moment_over_the_limit() -> None:
    graph = ms.record(build_seed("resnet20").model, torch.zeros(64, 3, 32, 32))
    budgets = Budgets(graph, "memory=30%")
    exact = budgets.bound["memory"].marginal(ms.costs.vector(graph, graph.widths))
    prices = budgets.prices(graph.widths)
    exact, prices = exact / exact.max(), prices / prices.max()
    # At the peak some groups have only their parameters in memory, but what they make must come down as well.
    assert (exact < 0.01).sum() >= 4
    assert (prices[exact < 0.01] > 1.5 * exact[exact < 0.01]).all()
