"""One run under a falling schedule of budgets gives a family, each member within its budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loop_fakes import EXACT, counted, data, example, network, train
from test_resume import Interrupting
from torch.optim import SGD

import morphsearch as ms
from morphsearch.errors import BudgetError, StoppedError, UsageError
from morphsearch.loop.budget import Budgets, schedule_length
from morphsearch.loop.retraining import retrain_run
from morphsearch.loop.run import plan, resume, start, status

CONFIG = ms.SearchConfig(
    "digits_net",
    budget=("flops=80%,60%,40%", "params<=90%"),
    epochs=1,
    recipe={**EXACT, "batch_size": 256, "lr": 0.1},
)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ms.SearchResult]:
    """A finished run."""
    path = tmp_path_factory.mktemp("family") / "run"
    return path, start(CONFIG, path)


def test_every_budget_has_its_architecture_within_it(family: tuple[Path, ms.SearchResult]) -> None:
    path, result = family
    assert CONFIG.morphs == 3
    costs = plan(CONFIG).costs
    for share, architecture in zip((0.8, 0.6, 0.4), result.architectures, strict=True):
        model = architecture.build()
        found = counted(model, architecture.example_inputs()[0])
        assert found["flops"] <= share * costs["flops"][0]
        assert found["flops"] > 0.8 * share * costs["flops"][0]  # nor is the budget wasted
        assert found["params"] <= 0.9 * costs["params"][0]
        assert [b["text"] for b in architecture.budgets] == [f"flops={share:.0%}", "params<=90%"]
    assert [a.parent for a in result.architectures] == [None, "001", "002"]
    shown = status(path)
    assert (shown["iterations"], shown["asked"]) == (3, 3)
    assert shown["budgets"] == ["flops=80%", "params<=90%", "flops=60%", "flops=40%"]


def test_it_goes_on_after_an_interruption(family: tuple[Path, ms.SearchResult], tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        start(CONFIG, tmp_path / "run", listener=Interrupting(2, "epoch"))
    again = resume(tmp_path / "run")
    assert again.summary == family[1].summary
    for name in ("001", "002", "003"):
        file = f"iterations/{name}/architecture.json"
        assert (tmp_path / "run" / file).read_text() == (family[0] / file).read_text()


def test_retraining_and_comparing(family: tuple[Path, ms.SearchResult]) -> None:
    path, _ = family
    compared = retrain_run(path, iterations="all", baselines=["uniform"], seeds=1, epochs=0.5)
    assert [row.label for row in compared.rows] == ["001", "002", "003", "uniform", "uniform-001", "uniform-002"]
    rows = {row.label: row for row in compared.rows}
    for found, scaled in (("001", "uniform-001"), ("002", "uniform-002"), ("003", "uniform")):
        assert rows[scaled].baseline_of == found
        assert rows[scaled].costs["flops"] <= rows[found].costs["flops"]
        assert f"{found} is" in compared.verdict


def test_a_dry_run_shows_every_budget() -> None:
    shown = plan(CONFIG)
    assert [row.text for row in shown.budgets] == ["flops=80%", "params<=90%", "flops=60%", "flops=40%"]
    assert shown.satisfiable
    low = plan(ms.SearchConfig("digits_net", budget=("flops=80%,0.0001%",), recipe=EXACT))
    assert [row.satisfiable for row in low.budgets] == [True, False]


def test_in_the_users_loop_the_search_ends_with_its_schedule() -> None:
    search = ms.Search(network(), example(), "flops=80%,50%", steps=20)
    optimizer = SGD(search.model.parameters(), lr=0.05, momentum=0.9)
    search.follow(optimizer)
    seed = counted(network())["flops"]
    for share in (0.8, 0.5):
        train(search, optimizer, 20)
        search.morph()
        assert counted(search.model)["flops"] <= share * seed
        search.model.train()
    for call in (search.penalty, search.step, search.morph):
        with pytest.raises(UsageError, match="after the last of 2 budgets") as caught:
            call()
        assert "without penalty()" in caught.value.repair


def test_ms_search_makes_a_morph_for_each() -> None:
    result = ms.search(network(), data(), budget=["flops=70%,50%"], epochs=1, recipe=EXACT)
    assert len(result.architectures) == 2
    with pytest.raises(UsageError, match="iterations=3 with a schedule of 2"):
        ms.search(network(), data(), budget="flops=70%,50%", iterations=3, recipe=EXACT)


@pytest.mark.parametrize(
    ("text", "message", "repair"),
    [
        ("flops=50%,80%", "rises from 50% to 80%", "flops=80%,50%"),
        ("flops=80%,80%", "stays from 80% to 80%", "flops=80%"),
        ("flops=80%,50", "mixes shares", "flops=80%,65%,50%"),
        ("flops<=80%,1M", "mixes shares", "flops=80%,65%,50%"),
        ("flops=80%,,50%", "no value at place 2", "flops=80%,65%,50%"),
        ("flops=80%,50%,", "no value at place 3", "flops=80%,65%,50%"),
        ("params<=1.2M,2M", "rises from 1.2M to 2M", "params<=2M,1.2M"),
        ("params<=900,2K", "rises from 900 to 2K", "params<=2K,900"),
        ("params<=1,200,000", "commas within a number", "params<=1_200_000"),
        ("params<=120,000", "commas within a number", "params<=120_000"),
        ("flops=80%,half", "does not parse", "flops=50%"),
        ("80%,50%", "does not parse", "flops=50%"),
    ],
)
def test_schedules_that_make_no_sense(text: str, message: str, repair: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        ms.Search(network(), example(), text)
    assert repair in caught.value.repair
    assert caught.value.rule


def test_schedules_of_different_lengths_and_impossible_ones() -> None:
    with pytest.raises(UsageError, match="2 for flops and 3 for params"):
        ms.Search(network(), example(), ["flops=80%,50%", "params=90%,80%,70%"])
    with pytest.raises(BudgetError, match=r"flops=0\.001%"):
        ms.Search(network(), example(), "flops=80%,0.001%")
    assert schedule_length(["flops=80%,50%", "params<=90%"]) == 2
    assert schedule_length("params<=2K,1K,500") == 3


def test_schedules_go_forward_together() -> None:
    graph: Any = ms.record(network(), example())
    budgets = Budgets(graph, ["flops=80%,50%", "params=90%,70%", "params<=1M"])
    assert [b.text for b in budgets.budgets] == ["flops=80%", "params=90%", "params<=1M"]
    last = budgets.following()
    assert [b.text for b in last.budgets] == ["flops=50%", "params=70%", "params<=1M"]
    assert last.last
    assert last.following().budgets == last.budgets
