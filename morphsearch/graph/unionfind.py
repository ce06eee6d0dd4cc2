"""Which identifiers are one: connected components over pairs, all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def components(size: int, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """`size` whole numbers (see :func:`narrow`): for each of ``0..size-1`` the number of its component under the
    `pairs` of index arrays.

    Components are numbered by their first member. Trees are hooked together and flattened, all at once and until
    nothing changes (Shiloach and Vishkin, An O(log n) Parallel Connectivity Algorithm, 1982). As quick as SciPy's,
    whose import alone would take longer than recording most networks.
    """
    kind = narrow(size)
    one = np.concatenate([np.zeros(0, kind), *(a for a, _ in pairs)], dtype=kind)
    other = np.concatenate([np.zeros(0, kind), *(b for _, b in pairs)], dtype=kind)
    head = np.arange(size, dtype=kind)
    while True:
        left, right = head[one], head[other]
        apart = left != right
        if not apart.any():
            break
        one, other, left, right = one[apart], other[apart], left[apart], right[apart]
        np.minimum.at(head, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(further := head[head], head):
            head = further
    first = np.cumsum(head == np.arange(size, dtype=kind), dtype=kind)
    first -= 1
    numbers: np.ndarray = first[head]
    return numbers


MANY = 1 << 21  # numbers from which on their memory counts for more than the time that short ones take as indices


def narrow(size: int) -> type[np.signedinteger[Any]]:
    """The type of `size` numbers below `size`: int32 for very many, int64 else."""
    return np.int32 if MANY <= size < 2**31 else np.int64


def values_in(numbers: np.ndarray, size: int) -> np.ndarray:
    """The values, in order, of whole numbers from 0 to ``size - 1``; far quicker than sorting or hashing them."""
    there = np.zeros(size, bool)
    there[numbers] = True
    return np.flatnonzero(there)


def distinct_values(numbers: np.ndarray) -> np.ndarray:
    """The values of any numbers, in order: what ``np.unique`` gives, which first imports masked arrays."""
    ordered = np.sort(numbers, axis=None)
    found: np.ndarray = ordered[np.append(True, ordered[1:] != ordered[:-1])[: ordered.size]]
    return found
