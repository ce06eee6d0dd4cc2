"""Attention in one call shrinks to what the seed computes, but for the scale of its products."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from morphsearch.graph import record
from morphsearch.loop.verification import relative_error, zeroed
from tests.graph import multihead, proofs
from tests.graph.mechanisms import CASES

assert multihead.attention_pool.__name__ in CASES  # that file registers its networks
X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("multihead_attention", "attention.in_proj_weight"),
        ("multihead_that_gives_its_weights", "attention.in_proj_weight"),
        ("multihead_without_bias", "attention.in_proj_weight"),
        ("multihead_with_learned_keys", "attention.in_proj_weight"),
        ("multihead_across_equal_widths", "attention.in_proj_weight"),
        ("multihead_across", "attention.q_proj_weight"),
        ("learned_queries", "attention.in_proj_weight"),
        ("attention_pool", "q.weight"),
        ("multihead_at_a_written_width", "packed"),
    ],
)
def test_the_right_channels_of_every_head_stay(name: str, query: str) -> None:
    case = CASES[name]
    graph = record(proofs.in_double(case.build()), case.inputs)
    group = next(group for group in graph.groups.values() if any("its scale" in mixed for mixed in group.mixes))
    assert group.width == 4  # of twelve channels in three heads
    keep = {group.name: [0, 2, 3]}
    shrunk, seed = graph.shrink(keep), copy.deepcopy(zeroed(graph, keep))
    # The seed's products are divided by the root of four channels, the new network's by that of three.
    with torch.no_grad():
        tensors = dict(seed.named_parameters())
        for held in (query, "attention.in_proj_bias" if query.startswith("attention") else f"{query[0]}.bias"):
            if held in tensors:
                tensors[held][:12] *= math.sqrt(4 / 3)
        found = shrunk(X)
        assert found.shape == (2, 5)
        assert relative_error(seed(X), found) < 1e-12


def test_the_module_knows_its_new_width() -> None:
    case = CASES["multihead_across"]
    graph = record(case.build(), case.inputs)
    name = next(name for name, group in graph.groups.items() if group.mixes)
    layer = graph.resize({name: 5, "b.0": 4}).attention
    assert (layer.embed_dim, layer.head_dim, layer.num_heads, layer.kdim, layer.vdim) == (15, 5, 3, 4, 6)
    assert (layer.out_proj.in_features, layer.out_proj.out_features) == (15, 15)


def test_pytorchs_quick_form_of_attention_runs_too() -> None:
    case = CASES["transformer_layers"]
    graph = record(case.build(), case.inputs)
    small = graph.shrink({name: [0, 1] for name in graph.free}).eval()
    x = X.float()
    with torch.no_grad():
        quick = small(x)
    torch.testing.assert_close(quick, small(x), rtol=1e-4, atol=1e-5)
