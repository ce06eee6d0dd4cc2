"""Which identifiers are one: connected components over pairs, all at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def components(size: int, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """`size` int64: for each of ``0..size-1`` the number of its component under the `pairs` of index arrays."""
    left = np.concatenate([a for a, _ in pairs]) if pairs else np.zeros(0, np.int64)
    right = np.concatenate([b for _, b in pairs]) if pairs else np.zeros(0, np.int64)
    matrix = coo_array((np.ones(left.size, np.int8), (left, right)), shape=(size, size))
    _, labels = connected_components(matrix, directed=False)
    found: np.ndarray = labels.astype(np.int64)
    return found
