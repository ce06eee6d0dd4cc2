"""Forward code that keeps what it made outside of modules: the network is as usable after a recording as before."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from morphsearch.graph import record
from tests.graph import proofs

IN_THE_FILE: dict[Any, Tensor] = {}
REBOUND: Tensor | None = None


def made(h: int, w: int) -> Tensor:
    return torch.linspace(0.5, 1, h).view(1, 1, h, 1) * torch.ones(1, 1, h, w)


@functools.lru_cache
def memoised(h: int, w: int) -> Tensor:
    return made(h, w)


def decorated(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    kept: dict[Any, Tensor] = {}

    @functools.wraps(function)
    def call(*sizes: int) -> Tensor:
        if sizes not in kept:
            kept[sizes] = function(*sizes)
        return kept[sizes]

    return call


in_a_closure = decorated(made)


def in_a_default(sizes: Any, kept: dict[Any, Tensor] = {}) -> Tensor:  # noqa: B006
    if sizes not in kept:
        kept[sizes] = made(*sizes)
    return kept[sizes]


class Grids:
    def __init__(self) -> None:
        self.kept: dict[Any, Tensor] = {}
        self.last: Tensor | None = None

    def __call__(self, sizes: Any) -> Tensor:
        if sizes not in self.kept:
            self.kept[sizes] = made(*sizes)
        self.last = self.kept[sizes]
        return self.last


GRIDS = Grids()


class Network(nn.Module):
    in_the_class: dict[Any, Tensor] = {}  # noqa: RUF012
    rebound: Tensor | None = None

    def __init__(self, grid: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)
        self.grid, self.grids = grid, Grids()

    @staticmethod
    @functools.cache
    def memoised(h: int, w: int) -> Tensor:
        return made(h, w)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.b(x * self.grid(self, tuple(x.shape[2:])).to(x))


def of_the_file(_: Network, sizes: Any) -> Tensor:
    if sizes not in IN_THE_FILE:
        IN_THE_FILE[sizes] = made(*sizes)
    return IN_THE_FILE[sizes]


def of_the_class(network: Network, sizes: Any) -> Tensor:
    if sizes not in network.in_the_class:
        network.in_the_class[sizes] = made(*sizes)
    return network.in_the_class[sizes]


def a_global(_: Network, sizes: Any) -> Tensor:
    global REBOUND
    if REBOUND is None:
        REBOUND = made(*sizes)
    return REBOUND


def an_attribute_of_the_class(_: Network, sizes: Any) -> Tensor:
    if Network.rebound is None:
        Network.rebound = made(*sizes)
    return Network.rebound


FORMS: dict[str, Callable[[Any, Any], Tensor]] = {
    "file": of_the_file,
    "class": of_the_class,
    "global": a_global,
    "attribute of the class": an_attribute_of_the_class,
    "lru_cache": lambda _, sizes: memoised(*sizes),
    "lru_cache of a class": lambda network, sizes: network.memoised(*sizes),
    "closure": lambda _, sizes: in_a_closure(*sizes),
    "default": lambda _, sizes: in_a_default(sizes),
    "object": lambda _, sizes: GRIDS(sizes),
    "object of a module": lambda network, sizes: network.grids(sizes),
}


@pytest.fixture(autouse=True)
def empty() -> None:
    global REBOUND
    REBOUND = Network.rebound = None


@pytest.mark.parametrize("ran", [False, True], ids=["new", "ran before"])
@pytest.mark.parametrize("form", FORMS)
def test_caches_outside_of_modules(form: str, ran: bool) -> None:
    inputs = torch.rand(2, 3, 9, 9)
    network = proofs.in_double(Network(FORMS[form]))
    if ran:
        network.eval()(inputs.double())
    graph = record(network, inputs)
    assert proofs.free_share(graph) == 1
    expected = network.eval()(inputs.double())  # fills the caches where nothing did
    assert expected.device.type == "cpu"
    proofs.shrinks_exactly(graph, inputs, 0)
    proofs.widens_exactly(graph, inputs)
    torch.testing.assert_close(network(inputs.double()), expected)


def test_what_was_kept_is_kept() -> None:
    """What a cache held before, and names that code only reads, are the same objects after a recording."""
    IN_THE_FILE.clear()
    mine = IN_THE_FILE["mine"] = torch.ones(1)
    record(Network(of_the_file), torch.rand(1, 3, 9, 9))
    assert list(IN_THE_FILE) == ["mine"]
    assert IN_THE_FILE["mine"] is mine


def test_a_graph_can_be_copied() -> None:
    graph = copy.deepcopy(record(Network(FORMS["closure"]), torch.rand(1, 3, 9, 9)))
    assert graph.shrink({name: [0, 2] for name in graph.free})(torch.rand(1, 3, 9, 9)).shape == (1, 4, 7, 7)
