"""Connected components of pairs of identifiers."""

from __future__ import annotations

import networkx as nx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

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
