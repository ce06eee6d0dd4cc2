"""What a user leaves open is decided by the budget, the network and the data, and written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_fakes import EXACT, counted, data, example, network, train

import morphsearch as ms
from morphsearch.errors import UsageError
from morphsearch.loop.run import resume, start
from morphsearch.sparsity import SparsifyConfig


def chosen(budget: Any = "flops=50%", **given: Any) -> str:
    return ms.SearchConfig("digits_net", budget=budget, **given).strategy


def test_parameters_alone_call_for_trials() -> None:
    assert chosen("params=50%") == chosen(("params<=20K",)) == "trials"
    config = ms.SearchConfig("digits_net", budget="params=50%")
    assert config.morphs == 1
    assert config.training(45_000).schedule == "cosine"


@pytest.mark.parametrize(
    ("budget", "given"),
    [
        ("flops=50%", {}),
        (("params=50%", "flops=80%"), {}),
        ("params=80%,60%", {}),
        ("params=50%", {"iterations": 2}),
        ("params=50%", {"strength": 0.1}),
        ("params=50%", {"shrink_to": 0.5}),
        ("params=50%", {"expand": False}),
    ],
)
def test_whatever_wants_pressure_or_several_morphs_gets_them(budget: Any, given: dict[str, Any]) -> None:
    assert chosen(budget, **given) == "auto"
    config = ms.SearchConfig("digits_net", budget=budget, **given)
    assert config.morphs == 2


def settled(images: int, **given: Any) -> ms.SearchConfig:
    return ms.SearchConfig("digits_net", **given).settled(images)


@pytest.mark.parametrize("budget", ["flops=50%", ("params=50%", "flops=80%")])
def test_flops_call_for_trials_where_data_makes_them_long_enough(budget: Any) -> None:
    """Six thousand steps of 45,000 images tell candidates apart; fifty epochs of a thousand do not."""
    config = settled(45_000, budget=budget)
    assert (config.strategy, config.iterations, config.epochs) == ("trials", 1, 17.0)
    assert config.settled(45_000) == config
    config = settled(1_300, budget=budget)
    assert (config.strategy, config.iterations) == ("auto", 2)
    assert config.settled(1_300) == config
    assert settled(45_000, budget=budget, epochs=8).strategy == "auto"
    assert settled(45_000, budget=budget, epochs=8, recipe={"batch_size": 32}).strategy == "trials"


@pytest.mark.parametrize(
    "given",
    [
        {"budget": "flops=80%,60%"},
        {"budget": "latency=50%"},
        {"budget": ("flops=50%", "activations=50%")},
        {"iterations": 2},
        {"strength": 0.1},
        {"steps": 3000},
    ],
)
def test_whatever_wants_pressure_gets_it_with_much_data_too(given: dict[str, Any]) -> None:
    assert settled(45_000, **given).strategy == "auto"


def test_a_strategy_that_is_named_stays() -> None:
    assert chosen("params=50%", strategy="gamma-l1") == "gamma-l1"


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("residual", None, "gamma-l1"),
        ("bare", None, "taylor"),
        ("bare", 0.1, "group-lasso"),
    ],
)
def test_norms_are_judged_where_there_are_any(name: str, strength: float | None, expected: str) -> None:
    search = ms.Search(network(name), example(), "flops=50%", steps=20, strength=strength)
    assert search.strategy_name == expected
    search.follow(optimizer := torch.optim.SGD(search.model.parameters(), lr=0.02))
    train(search, optimizer, 20)
    assert search.morph().costs["flops"]["total"] <= counted(network(name))["flops"] / 2


def test_options_need_a_strategy() -> None:
    with pytest.raises(UsageError, match="memory") as caught:
        chosen(strategy_options={"memory": 5})
    assert "name the strategy" in caught.value.repair
    with pytest.raises(UsageError, match="threshold"):
        ms.Search(network(), example(), "flops=50%", strategy_options={"threshold": 0.1})


@pytest.mark.parametrize(
    ("strategy", "images", "epochs"),
    [
        ("auto", 45_000, 5.5),
        ("trials", 45_000, 17.0),
        ("auto", 1_300, 49.0),
        ("auto", 100, 50.0),
        ("auto", 1_200_000, 1.0),
    ],
)
def test_a_search_trains_so_many_steps_whatever_the_data(strategy: str, images: int, epochs: float) -> None:
    config = ms.SearchConfig("digits_net", strategy=strategy)
    assert config.training(images).epochs == epochs
    assert ms.SearchConfig("digits_net", strategy=strategy, epochs=3).training(images).epochs == 3


def test_smaller_batches_make_fewer_epochs() -> None:
    config = ms.SearchConfig("digits_net", recipe={"batch_size": 16})
    assert config.training(10_000).epochs == 3.0


def test_the_decision_is_written_down_and_kept(tmp_path: Path) -> None:
    config = ms.SearchConfig("digits_net", budget="params=50%", epochs=1, recipe={**EXACT, "batch_size": 256})
    found = start(config, tmp_path / "run").architectures[-1]
    assert found.strategy == "trials"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["strategy"] == "trials"
    assert [one.name for one in resume(tmp_path / "run").architectures] == ["001"]


def test_a_call_from_python_decides_too() -> None:
    found = ms.search(network(), data(), budget="params=50%", epochs=1, recipe=EXACT)
    assert found.best.strategy == "trials"
    assert found.best.costs["params"]["total"] <= counted(network())["params"] / 2


def test_length_and_device_may_stand_in_the_recipe() -> None:
    """They are options too; what a recipe says of them is not dropped without a word."""
    config = ms.SearchConfig("digits_net", recipe={"epochs": 3, "device": "cpu"})
    assert (config.training(1_300).epochs, config.training(1_300).device) == (3, "cpu")
    assert config.settled(1_300).epochs == 3
    assert ms.SearchConfig("digits_net", epochs=3, recipe={"epochs": 3}).training().epochs == 3
    with pytest.raises(UsageError, match="epochs=2, and epochs=3 in the recipe"):
        ms.SearchConfig("digits_net", epochs=2, recipe={"epochs": 3})
    with pytest.raises(UsageError, match="device"):
        SparsifyConfig("digits_net", "70%", device="cpu", recipe={"device": "mps"}).training()
    sparse = SparsifyConfig("digits_net", "70%", recipe={"epochs": 3, "device": "cpu"})
    assert (sparse.training().epochs, sparse.training().device) == (3, "cpu")
