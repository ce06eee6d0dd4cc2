"""Forward code that keeps what it made outside of modules: the network is as usable after a recording as before."""

from __future__ import annotations

import copy

import pytest
import torch

from morphsearch.graph import record
from tests.graph import proofs
from tests.graph.caches import FORMS, IN_THE_FILE, Network, forget, of_the_file


@pytest.fixture(autouse=True)
def empty() -> None:
    forget()


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
    mine = IN_THE_FILE["mine"] = torch.ones(1)
    record(Network(of_the_file), torch.rand(1, 3, 9, 9))
    assert list(IN_THE_FILE) == ["mine"]
    assert IN_THE_FILE["mine"] is mine


def test_a_graph_can_be_copied() -> None:
    graph = copy.deepcopy(record(Network(FORMS["closure"]), torch.rand(1, 3, 9, 9)))
    assert graph.shrink({name: [0, 2] for name in graph.free})(torch.rand(1, 3, 9, 9)).shape == (1, 4, 7, 7)
