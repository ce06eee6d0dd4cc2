"""Arguments of the wrong kind are answered in three parts, before anything is trained or written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loop_fakes import example, images, network, train
from torch import nn

import morphsearch as ms
from morphsearch.errors import DivergedError, InputError, MorphError, UsageError
from morphsearch.loop.checks import RESERVED
from morphsearch.loop.run import status


def refused(call: Callable[[], Any], *words: str, kind: type[MorphError] = UsageError) -> MorphError:
    with pytest.raises(kind) as caught:
        call()
    error = caught.value
    assert error.arrived
    assert error.rule
    assert error.repair
    for word in words:
        assert word in str(error)
    return error


def searched(strategy: str = "taylor", **options: Any) -> ms.Search:
    return ms.Search(network(), example(), "flops=50%", strategy=strategy, **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("budget", None),
        ("budget", 50),
        ("budget", {}),
        ("strategy", None),
        ("strategy", 5),
        ("strategy_options", 5),
        ("strategy_options", {3: 4}),
        ("pricing", None),
        ("record_extra", 3),
        ("record_extra", {3: 1}),
        ("run_dir", 5),
        ("run_dir", ""),
        ("hardware", 3),
        ("expand", "no"),
        ("resume", "yes"),
        ("seed_spec", 3),
    ],
)
def test_arguments_of_another_kind(name: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"budget": "flops=50%", "strategy": "taylor", name: value}
    refused(lambda: ms.Search(network(), example(), **given), f"{name}={value!r}")
    if name not in ("pricing", "hardware", "expand", "resume", "seed_spec"):
        refused(lambda: ms.search(network(), images(40), **given), f"{name}={value!r}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [object(), np.float32(3), torch.zeros(2)])
def test_what_json_cannot_hold(value: Any, tmp_path: Path) -> None:
    refused(lambda: searched(record_extra={"a": [value]}, run_dir=tmp_path / "a"), "record_extra['a']")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "extra",
    [
        {"budgets": "half"},
        {"schema_version": 7},
        {"kind": "resnet"},
        {"iterations": "many"},
        {"config": {"lr": 0.1}},
        {"config": 7},
        {"data": 3},
    ],
)
def test_extras_that_would_replace_what_the_record_of_a_run_says(extra: dict[str, Any], tmp_path: Path) -> None:
    refused(lambda: searched(record_extra=extra, run_dir=tmp_path / "a"), f"record_extra['{next(iter(extra))}']")
    assert not (tmp_path / "a").exists()


def test_every_field_of_the_record_is_the_searchs_own(tmp_path: Path) -> None:
    searched(run_dir=tmp_path / "a")
    assert json.loads((tmp_path / "a" / "run.json").read_text()).keys() <= RESERVED


def test_data_may_be_named_by_a_word(tmp_path: Path) -> None:
    searched(record_extra={"data": "my photos"}, run_dir=tmp_path / "a")
    assert status(tmp_path / "a")["data"] == "my photos"


class Wrapped(nn.Module):
    """A network around the usual one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.inner, self.kind = network(), kind
        if kind == "double":
            self.double()

    def forward(self, x: torch.Tensor) -> Any:
        assert self.kind != "asserts" or len(x) <= 2, "two images at most"
        scores = self.inner(x)
        return {"few": scores[:, :2], "detached": scores.detach()}.get(self.kind, scores)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("few", {}, "the network has 2 outputs"),
        ("asserts", {}, "AssertionError: two images at most"),
        ("detached", {}, "does not depend on its parameters"),
        ("double", {}, "model.float()"),
        ("", {"device": "cudaa"}, "device 'cudaa'"),
    ],
)
@pytest.mark.parametrize("call", [ms.search, ms.sparsify])
def test_a_refused_run_leaves_nothing_behind(
    call: Any, kind: str, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    own = {"budget": "flops=50%", "iterations": 1} if call is ms.search else {"target": "50%"}
    run = tmp_path / "runs" / "a"
    refused(lambda: call(Wrapped(kind), images(40), run_dir=run, epochs=1, **own, **options), words, kind=MorphError)
    assert not run.exists()


def test_what_was_there_before_a_refused_run_stays(tmp_path: Path) -> None:
    run = tmp_path / "a"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    options: dict[str, Any] = {"budget": "flops=50%", "iterations": 1, "epochs": 1, "run_dir": run}
    refused(lambda: ms.search(Wrapped("few"), images(40), **options), "2 outputs", kind=InputError)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]
    ms.Search(Wrapped("few"), torch.zeros(1, 3, 8, 8), "flops=50%", run_dir=run, record_extra={"data": "kept"})
    before = (run / "run.json").read_text()
    refused(lambda: ms.search(Wrapped("few"), images(40), **options), "already holds a run")
    assert (run / "run.json").read_text() == before


def test_example_inputs_that_are_none() -> None:
    refused(lambda: ms.Search(network(), (3, 8, 8), "flops=50%"), "torch.zeros(1, 3, 8, 8)")
    refused(lambda: ms.Search(network(), torch.zeros(0, 3, 8, 8), "flops=50%"), "(0, 3, 8, 8)")
    refused(lambda: ms.Search(network(), (example(), 3), "flops=50%"), "example input 2 is a int")
    refused(lambda: ms.Search(None, example(), "flops=50%"), "NoneType", kind=InputError)  # type: ignore[arg-type]


@pytest.mark.parametrize("lr", ["a", float("nan"), float("inf"), -1, True, [0.1]])
def test_learning_rates_of_a_step(lr: Any) -> None:
    search = searched()
    refused(lambda: search.step(lr), "lr=")
    search.step(torch.tensor(0.1))
    assert search.total_steps == 1


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda search: search.follow(None), "NoneType"),
        (lambda search: search.follow(search.model), "optimizer"),
        (lambda search: search.follow(search.model.parameters()), "generator"),
        (lambda search: search.follow([]), "no optimizer"),
        (lambda search: search.follow(), "Search.follow"),
        (lambda search: search.follow(None, schedulr=1), "did you mean scheduler?"),
        (lambda search: search.step(rl=0.1), "did you mean lr?"),
        (lambda search: search.penalty(3), "it takes no argument"),
        (lambda search: search.load_state(None, None), "load_state(*state)"),
        (lambda search: search.load_state(search.state()), "Search.load_state"),
        (lambda search: search.run_phase(3), "loss"),
        (lambda search: search.morph(3), "judge=3"),
        (lambda search: search.morph(jugde=print), "did you mean judge?"),
    ],
)
def test_calls_of_a_search(call: Any, word: str) -> None:
    search = searched()
    refused(lambda: call(search), word)
    assert not search.architectures


@pytest.mark.parametrize("found", [None, 0.5, "x", {"a": "x"}, {"a": torch.zeros(2)}, {3: 0.5}])
def test_a_judge_that_returns_something_else(found: Any) -> None:
    search = searched()
    refused(lambda: search.morph(lambda model: found), "judge() returned")
    assert not search.architectures


def test_a_judge_may_return_tensors(tmp_path: Path) -> None:
    search = searched(run_dir=tmp_path / "a")
    numbers = {"accuracy": torch.tensor(0.5), "loss": np.float32(2), "none": None, "nan": torch.tensor(float("nan"))}
    metrics = search.morph(lambda model: numbers).metrics  # type: ignore[arg-type, return-value]
    assert metrics == {"accuracy": 0.5, "loss": 2.0, "none": None, "nan": None}
    assert all(type(value) in (float, type(None)) for value in metrics.values())
    assert json.loads((tmp_path / "a" / "run.json").read_text())["strategy"] == "taylor"


def test_data_of_the_wrong_shape() -> None:
    x, y = images(40)
    for data in ((x, y, y), (x,)):
        refused(lambda data=data: ms.search(network(), data, budget="flops=50%"), "pair", kind=InputError)
    refused(lambda: ms.search(network(), (x, y), budget="flops=50%", recipe=[1]), "recipe=[1]")  # type: ignore[arg-type]
    refused(lambda: ms.search(network(), (x, y), budget="flops=50%", listener=3), "listener=3")  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["trials", "slimmable"])
def test_losses_that_are_not_numbers(strategy: str) -> None:
    for value, kind in ((float("nan"), DivergedError), (None, UsageError), ("x", UsageError)):
        search = searched(strategy)
        call = lambda search=search, value=value: search.run_phase(lambda: value, train=lambda widths, share: value)  # noqa: E731
        refused(call, "returned", kind=kind)
    search = searched(strategy)
    search.run_phase(lambda: torch.tensor(1.0), train=lambda widths, share: float("inf"))
    assert not any("run_phase()" in note for note in search.morph().notes)


def test_a_morph_without_the_phase_that_it_needs_says_so() -> None:
    for strategy in ("trials", "slimmable"):
        assert any("run_phase() was not called" in note for note in searched(strategy).morph().notes)
    given = searched("trials", strategy_options={"point": [0.5]})
    assert not given.morph().notes


# -- messages ------------------------------------------------------------------------------------------------------


def test_a_run_of_a_program_is_gone_on_with_by_the_program(tmp_path: Path) -> None:
    searched(run_dir=tmp_path / "a")
    error = refused(lambda: searched(run_dir=tmp_path / "a"), "resume=True", "run_dir")
    assert "morphsearch resume" not in str(error)
    again = searched(run_dir=tmp_path / "a", resume=True)
    assert again.run is not None


def test_a_state_of_a_later_morph_says_what_it_needs(tmp_path: Path) -> None:
    def trained(**options: Any) -> ms.Search:
        search = ms.Search(network(), example(), "flops=80%,50%", strategy="magnitude", steps=10, **options)
        return search

    first = trained(run_dir=tmp_path / "a")
    optimizer = torch.optim.SGD(first.model.parameters(), lr=0.05)
    first.follow(optimizer)
    train(first, optimizer, 10)
    first.morph()
    train(first, optimizer, 4)
    state = first.state()
    refused(lambda: trained().load_state(*state), "morph 2", "run_dir", "resume=True", kind=InputError)
    second = trained(run_dir=tmp_path / "a", resume=True)
    second.load_state(*state)
    assert second.morph_step == 4


def test_a_frozen_network_is_told_of_strategies_that_can_judge_it() -> None:
    for strategy in ("gamma-l1", "taylor", "group-lasso"):
        model = network()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("head"))
        error = refused(
            lambda model=model, s=strategy: ms.Search(model, example(), "flops=50%", strategy=s), "magnitude"
        )
        offered = [name for name in ("taylor", "group-lasso", "magnitude", "logistic-sigmoid") if name in error.repair]
        assert offered == ["magnitude", "logistic-sigmoid"]
        for name in offered:
            ms.Search(model, example(), "flops=50%", strategy=name).detach()


@pytest.mark.parametrize("whole", [True, False])
def test_frozen_networks_and_norms_get_a_strategy_that_judges_them_as_they_are(whole: bool) -> None:
    model = network()
    for module in model.modules():
        if whole or isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    assert ms.Search(model, example(), "flops=50%").strategy_name == "magnitude"
    assert ms.Search(model, example(), "flops=50%", strength=0.1).strategy_name == "logistic-sigmoid"


def test_a_network_that_another_search_holds() -> None:
    first = ms.Search(network(), example(), "flops=50%", strategy="logistic-sigmoid", steps=20, warmup=0)
    train(first, torch.optim.SGD(first.model.parameters(), lr=0.05), 5)
    refused(lambda: ms.Search(first.model, example(), "flops=50%"), "another search", "detach()")
    ms.Search(first.detach(), example(), "flops=50%")


def test_without_a_run_nothing_is_said_to_be_kept(tmp_path: Path) -> None:
    for run_dir in (None, tmp_path / "a"):
        search = searched("magnitude", run_dir=run_dir)
        with torch.no_grad():
            next(search.model.parameters()).fill_(float("nan"))
        error = refused(search.morph, "not finite", kind=DivergedError)
        assert ("is kept" in error.repair) == (run_dir is not None)
