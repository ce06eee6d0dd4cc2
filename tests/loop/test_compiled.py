"""Networks that are compiled: before a search, during it, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from loop_fakes import example, images, network
from torch import nn

import morphsearch as ms
from morphsearch.errors import GraphError, UsageError

STEPS = 60


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def searched(strategy: str, how: str) -> tuple[ms.Search, nn.Module, list[float]]:
    """A search whose network is compiled in some way, after its training; what was called, and the losses."""
    torch.manual_seed(0)
    model = network()
    if how == "before":
        model.compile(backend="eager")
    search = ms.Search(model, example(), "flops=30%", strategy=strategy, steps=STEPS)
    called: Any = search.model
    if how == "within":
        search.model.compile(backend="eager")
    if how == "around":
        called = torch.compile(search.model, backend="eager")
    optimizer = torch.optim.SGD(search.model.parameters(), lr=0.05)
    search.follow(optimizer)
    x, y = images(64)
    losses = []
    for step in range(STEPS):
        chosen = torch.randint(len(y), (16,), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(called(x[chosen]), y[chosen])
        (loss + search.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()
        losses.append(loss.item())
    return search, called, losses


@pytest.mark.parametrize("how", ["before", "within", "around"])
def test_a_compiled_network_is_searched_as_a_plain_one(how: str) -> None:
    plain, _, losses = searched("taylor", "never")
    compiled, called, others = searched("taylor", how)
    assert compiled.leaving.gone == plain.leaving.gone > 0
    assert others == pytest.approx(losses, rel=1e-4)
    assert not compiled.notes
    x = images(8)[0]
    torch.testing.assert_close(called(x), plain.model(x), rtol=1e-4, atol=1e-5)
    found = compiled.morph()
    assert found.widths == plain.morph().widths
    assert compiled.model.train()(x).shape == (8, 5)
    assert compiled.model._compiled_call_impl is None, "what was compiled is the former network"


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("how", ["within", "around"])
def test_gates_that_hear_nothing_are_found_out(how: str) -> None:
    with pytest.raises(UsageError, match="no gradient in 5 steps") as caught:
        searched("logistic-sigmoid", how)
    assert "taylor" in caught.value.repair
    searched("logistic-sigmoid", "never")


def test_what_torch_compile_returns_is_refused_with_what_to_pass() -> None:
    with pytest.raises(GraphError, match=r"compiled by torch\.compile") as caught:
        ms.Search(torch.compile(network(), backend="eager"), example(), "flops=50%")
    assert "_orig_mod" in caught.value.repair
    part = nn.Sequential(torch.compile(network(), backend="eager"))
    with pytest.raises(GraphError, match="the module 0 was compiled"):
        ms.record(part, example())


def test_recording_leaves_a_network_compiled() -> None:
    model = network()
    model.compile(backend="eager")
    graph = ms.record(model, example())
    assert graph.widths == ms.record(network(), example()).widths
    assert model._compiled_call_impl is not None
