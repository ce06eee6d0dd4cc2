"""Tied weights: one tensor that makes units and reads them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphsearch.errors import GraphError
from morphsearch.graph import record
from tests.graph import proofs
from tests.graph.mechanisms import net

WORDS = torch.zeros(2, 9, dtype=torch.long)


def _language_model() -> nn.Module:
    """Words, convolutions between, and the same table to say which word comes next (arXiv 1608.05859)."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.table(x).transpose(1, 2)
        return s.next(s.b(F.relu(s.a(x))).transpose(1, 2))

    layers = {"a": nn.Conv1d(8, 12, 3, padding=1), "b": nn.Conv1d(12, 8, 3, padding=1)}
    network = net(forward, table=nn.Embedding(20, 8), **layers, next=nn.Linear(8, 20, bias=False))
    network.next.weight = network.table.weight  # type: ignore[union-attr, assignment]
    return network


def _autoencoder() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, s.weight)), s.weight.t())

    return net(forward, weight=nn.Parameter(torch.randn(6, 9)))


@pytest.mark.parametrize(
    ("build", "inputs", "free"),
    [(_language_model, WORDS, {"table", "a"}), (_autoencoder, torch.zeros(2, 9), {"weight"})],
)
def test_tied_weights_shrink_exactly_and_say_why_they_do_not_widen(build, inputs, free) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    graph = record(proofs.in_double(build()), inputs)
    assert set(graph.free) == free
    for seed in (0, 1):
        shrunk = proofs.shrinks_exactly(graph, inputs, seed)
    for factor in (0.5, 1.5):
        proofs.resizes(graph, inputs, factor)
    proofs.trains(shrunk, inputs)
    name = min(free, key=lambda one: one == "a")
    with pytest.raises(GraphError, match="tied weight"):
        graph.resize({name: graph.groups[name].width + 1}, weights="widen")


def test_layers_that_share_a_weight_know_their_sizes() -> None:
    shrunk = record(_language_model(), WORDS).shrink({"table": [0, 3, 5]})
    assert shrunk.next.weight is shrunk.table.weight  # type: ignore[union-attr]
    assert (shrunk.table.embedding_dim, shrunk.next.in_features, shrunk.next.out_features) == (3, 3, 20)  # type: ignore[union-attr]
