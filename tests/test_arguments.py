"""Misspelt arguments of the Python API are answered in three parts."""

from __future__ import annotations

import inspect

import pytest
import torch

import morphsearch as ms
from morphsearch.costs import ParamsCost
from morphsearch.errors import MorphError, UnknownName, UsageError
from morphsearch.sparsity import MagnitudeSparsity, SparsifyConfig
from morphsearch.testing.networks import NETWORKS, example_inputs
from morphsearch.training import Recipe


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda model, x: ms.search(model, "digits", bugdet="flops=50%"), "budget"),
        (lambda model, x: ms.search(model, "digits", budget="flops=50%", round_too=8), "round_to"),
        (lambda model, x: ms.Search(model, x, "flops=50%", stratgy="taylor"), "strategy"),
        (lambda model, x: ms.record(model, x, chek=False), "check"),
        (lambda model, x: ms.verify(model, x, trails=2), "trials"),
        (lambda model, x: ms.cost(ms.record(model, x), metrics="flops"), "metric"),
        (lambda model, x: ms.sparsify(model, "digits", targt="70%"), "target"),
        (lambda model, x: ms.Sparsifier(model, "70%", stpes=100), "steps"),
        (lambda model, x: ms.Schedule.polynomial(0.7, finl=0.2), "final"),
        (lambda model, x: ms.Schedule(0.7, finall=3), "final"),
        (lambda model, x: ms.SearchConfig("resnet20", bugdet="flops=50%"), "budget"),
        (lambda model, x: SparsifyConfig("resnet20", targt="70%"), "target"),
        (lambda model, x: Recipe(epoch=3), "epochs"),
        (lambda model, x: ms.record(model, x).resize(width={"0": 3}), "widths"),
        (lambda model, x: ms.record(model, x).shrink(keeep={"0": [1]}), "keep"),
        (lambda model, x: ms.Architecture.load(pth="architecture.json"), "path"),
    ],
)
def test_a_keyword_that_there_is_not_gets_the_nearest(call, near):
    with pytest.raises(UsageError) as caught:
        call(NETWORKS["plain"](), example_inputs())
    assert f"did you mean {near}" in caught.value.repair


WRONG = [
    # what arrived, in the words of the error; the call
    ("the model is a str", lambda model, x: ms.Sparsifier("resnet20", "70%", steps=10)),
    ("the model is the class Linear", lambda model, x: ms.Sparsifier(torch.nn.Linear, "70%", steps=10)),
    ("include=None", lambda model, x: ms.Sparsifier(model, "70%", steps=10, include=None)),
    ("exclude=None", lambda model, x: ms.Sparsifier(model, "70%", steps=10, exclude=None)),
    ("exclude=3", lambda model, x: ms.Sparsifier(model, "70%", steps=10, exclude=3)),
    ("include=['a', 3]", lambda model, x: ms.Sparsifier(model, "70%", steps=10, include=["a", 3])),
    ("strategy_options=3", lambda model, x: ms.Sparsifier(model, "70%", steps=10, strategy_options=3)),
    ("strategy=None", lambda model, x: ms.Sparsifier(model, "70%", steps=10, strategy=None)),
    ("the class MagnitudeSparsity", lambda model, x: ms.Sparsifier(model, 0.7, steps=10, strategy=MagnitudeSparsity)),
    (
        "strategy_options beside",
        lambda model, x: ms.Sparsifier(
            model, 0.7, steps=10, strategy=MagnitudeSparsity(), strategy_options={"power": 2}
        ),
    ),
    ("unknown pool 'maen'", lambda model, x: ms.Sparsifier(model, "70%", steps=10, pool="maen")),
    ("depthwise='yes'", lambda model, x: ms.Sparsifier(model, "70%", steps=10, depthwise="yes")),
    ("schedule=3", lambda model, x: ms.Sparsifier(model, steps=10, schedule=3)),
    ("schedule='constant' without a target", lambda model, x: ms.Sparsifier(model, steps=10, schedule="constant")),
    ("unknown schedule 'constnt'", lambda model, x: ms.Sparsifier(model, "70%", steps=10, schedule="constnt")),
    ("the model is a str", lambda model, x: ms.sparsify("resnet20", images(), target="70%")),
    ("seed='a'", lambda model, x: ms.sparsify(model, images(), target="70%", seed="a")),
    ("recipe=3", lambda model, x: ms.sparsify(model, images(), target="70%", recipe=3)),
    ("run_dir=3", lambda model, x: ms.sparsify(model, images(), target="70%", run_dir=3)),
    ("run_dir=''", lambda model, x: ms.sparsify(model, images(), target="70%", run_dir="")),
    ("listener=3", lambda model, x: ms.sparsify(model, images(), target="70%", listener=3)),
    ("resume='yes'", lambda model, x: ms.sparsify(model, images(), target="70%", resume="yes")),
    ("include=3", lambda model, x: SparsifyConfig("resnet20", "70%", include=3)),
    ("recipe=3", lambda model, x: SparsifyConfig("resnet20", "70%", recipe=3)),
    ("keep=None", lambda model, x: ms.record(model, x).shrink(None)),
    ("keep=[1]", lambda model, x: ms.record(model, x).shrink([1])),
    ("is [[1, 2], [3]]", lambda model, x: (g := ms.record(model, x)).shrink({next(iter(g.groups)): [[1, 2], [3]]})),
    ("unknown group 3", lambda model, x: ms.record(model, x).shrink({3: [1]})),
    ("widths=None", lambda model, x: ms.record(model, x).resize(None)),
    ("name=None", lambda model, x: ms.record(model, x).explain(None)),
    ("metric=None", lambda model, x: ms.cost(ms.record(model, x), None)),
    ("metric=<class", lambda model, x: ms.cost(ms.record(model, x), ParamsCost)),
    ("cost() got a Sequential", lambda model, x: ms.cost(torch.nn.Sequential(), "flops")),
    ("widths=[1]", lambda model, x: ms.cost(ms.record(model, x), "flops", [1])),
    ("the model is a NoneType", lambda model, x: ms.verify(None, None)),
    ("the example inputs are a NoneType", lambda model, x: ms.verify(model, None)),
    ("trials=0", lambda model, x: ms.verify(model, x, trials=0)),
    ("seed='a'", lambda model, x: ms.verify(model, x, seed="a")),
    ("path=3", lambda model, x: ms.Architecture.load(3)),
    ("path=''", lambda model, x: ms.Architecture.load("")),
]


def images():
    return torch.zeros(40, 3, 8, 8), torch.arange(40) % 4


@pytest.mark.parametrize(("arrived", "call"), WRONG, ids=[f"{index}-{words}" for index, (words, _) in enumerate(WRONG)])
def test_what_is_of_a_wrong_type_is_answered_in_three_parts(arrived, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MorphError) as caught:
        call(NETWORKS["plain"](), example_inputs())
    assert arrived in caught.value.arrived
    assert caught.value.rule
    assert caught.value.repair
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named():
    with pytest.raises(UsageError, match="budget"):
        ms.Search(NETWORKS["plain"](), example_inputs())
    with pytest.raises(UsageError, match=r"Schedule\.constant"):
        ms.Schedule.constant()


def test_a_type_error_of_the_network_itself_passes():
    """Only the call is checked: what goes wrong inside keeps its own error."""

    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.relu(x, 1, 2, 3)

    with pytest.raises(Exception) as caught:  # noqa: PT011
        ms.record(Odd(), example_inputs())
    assert not isinstance(caught.value, UnknownName)


def test_signatures_stay_what_they_are():
    assert list(inspect.signature(ms.record).parameters) == ["model", "example_inputs", "check", "decisions"]
    assert "steps" in inspect.signature(ms.Sparsifier).parameters
