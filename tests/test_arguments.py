"""Misspelt arguments of the Python API are answered in three parts."""

from __future__ import annotations

import inspect

import pytest
import torch

import morphsearch as ms
from morphsearch.errors import UnknownName, UsageError
from morphsearch.testing.networks import NETWORKS, example_inputs


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
    ],
)
def test_a_keyword_that_there_is_not_gets_the_nearest(call, near):
    with pytest.raises(UsageError) as caught:
        call(NETWORKS["plain"](), example_inputs())
    assert f"did you mean {near}" in caught.value.repair


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
