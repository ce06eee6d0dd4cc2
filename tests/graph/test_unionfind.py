"""Connected components of pairs of identifiers."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphsearch.graph import unionfind
from morphsearch.graph.unionfind import components


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_components_are_those_of_a_graph_numbered_by_their_first_member(
    case: tuple[int, list[tuple[int, int]]],
) -> None:
    size, edges = case
    graph = nx.Graph(edges)
    graph.add_nodes_from(range(size))
    parts = sorted(nx.connected_components(graph), key=min)
    expected = {node: number for number, part in enumerate(parts) for node in part}
    half = len(edges) // 2
    pairs = [
        (np.array([a for a, _ in some], int), np.array([b for _, b in some], int))
        for some in (edges[:half], edges[half:])
    ]
    assert components(size, pairs).tolist() == [expected[node] for node in range(size)]


def test_long_chains_in_any_order() -> None:
    size = 5000
    order = np.random.default_rng(0).permutation(size)
    chain = (order[:-1], order[1:])
    assert not components(size, [chain]).any()
    assert components(size, []).tolist() == list(range(size))


def test_components_reach_over_the_blocks_that_pairs_are_looked_at_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unionfind, "BLOCK", 10)
    size = 600
    order = np.random.default_rng(0).permutation(size - 1)
    chain = [(order[start : start + 7], order[start : start + 7] + 1) for start in range(0, order.size, 7)]
    assert not components(size, chain).any()
    thirds = [(left[left % 3 > 0], right[left % 3 > 0]) for left, right in chain]  # 0 | 1 2 3 | 4 5 6 ...
    assert components(size, thirds).tolist() == [(one + 2) // 3 for one in range(size)]
