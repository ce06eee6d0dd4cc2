"""What an operation takes, from the passes that it was watched in: those in which it and its neighbours were quick.

A slow moment falls on neighbouring operations alike. So the passes that an operation is judged by are those in which
the operations around it took the least, itself left out: chosen by its own time, what is as short as a tick of the
clock would come out too low.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NEIGHBOURS = 6  # operations before and after
QUICKEST = 1 / 3  # of the passes that count


def quiet_middles(times: Sequence[Sequence[float]]) -> np.ndarray:
    """`o` seconds of operations, from those of every pass (`o x passes`; rows may differ in length)."""
    if len({len(row) for row in times}) > 1 or not times:
        return np.array([middle(np.array(row)) for row in times])
    seen = np.array(times)
    if seen.shape[0] < 2 or seen.shape[1] < 1 / QUICKEST:
        return np.array([middle(row) for row in seen])
    sums = np.concatenate([np.zeros((1, seen.shape[1])), np.cumsum(seen, axis=0)])
    places = np.arange(len(seen))
    around = sums[np.minimum(places + NEIGHBOURS + 1, len(seen))] - sums[np.maximum(places - NEIGHBOURS, 0)] - seen
    chosen = np.argsort(around, axis=1, kind="stable")[:, : max(1, round(QUICKEST * seen.shape[1]))]
    return np.array([middle(row) for row in np.take_along_axis(seen, chosen, axis=1)])


def middle(values: np.ndarray) -> float:
    """The mean without the eighth at either end: nearly as steady as a median, and finer than the ticks of a clock."""
    kept = np.sort(values)
    end = len(kept) // 8
    return float(kept[end : len(kept) - end].mean())
