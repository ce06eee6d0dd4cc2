"""Which identifiers are one: connected components over pairs, all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def components(size: int, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """`size` whole numbers (see :func:`narrow`): for each of ``0..size-1`` the number of its component under the
    `pairs` of index arrays.

    Components are numbered by their first member. Trees are hooked together and flattened, all at once and until
    nothing changes (Shiloach and Vishkin, An O(log n) Parallel Connectivity Algorithm, 1982), for so many pairs at a
    time that what is made on the way stays small: fresh memory takes longer than the work. As quick as SciPy's, whose
    import alone would take longer than recording most networks.
    """
    kind = narrow(size)
    head = np.arange(size, dtype=kind)
    for some in _blocks(pairs):
        left, right = (np.concatenate(side, dtype=kind) for side in zip(*some, strict=True))
        while True:
            left, right = _roots(head, left, right)
            apart = left != right
            if not apart.any():
                break
            left, right = left[apart], right[apart]
            np.minimum.at(head, np.maximum(left, right), np.minimum(left, right))
    while not np.array_equal(further := head[head], head):
        head = further
    first = np.cumsum(head == np.arange(size, dtype=kind), dtype=kind)
    first -= 1
    numbers: np.ndarray = first[head]
    return numbers


BLOCK = 1 << 15  # pairs that are looked at together


def _blocks(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """`pairs` in their order, about as many members at a time as a block has."""
    some: list[tuple[np.ndarray, np.ndarray]] = []
    count = 0
    for pair in pairs:
        some.append(pair)
        count += pair[0].size
        if count >= BLOCK:
            yield some
            some, count = [], 0
    if some:
        yield some


NEAR = 4  # steps that are gone before ways are shortened


def _roots(head: np.ndarray, *sides: np.ndarray) -> list[np.ndarray]:
    """Where the trees of some nodes begin; where that is far from them, they are brought nearer to it, so that the way
    is halved at every step."""
    near = [head[nodes] for nodes in sides]
    steps = 0
    while True:
        further = [head[nodes] for nodes in near]
        if all(map(np.array_equal, further, near)):
            return near
        steps += 1
        if steps > NEAR:
            for nodes, found in zip(sides, further, strict=True):
                head[nodes] = found
        near = further


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
