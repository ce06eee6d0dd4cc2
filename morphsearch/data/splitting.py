"""Carving one part out of another: seeded, with the classes in proportion, and recorded."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def carve(labels: npt.ArrayLike, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Indices that stay and indices that are carved out, both ascending.

    Of every class with two images or more, `fraction` is carved out (rounded; at least one image, never all). A class
    of one image stays whole.

    Args:
        labels: `n`.
        fraction: above 0, below 1.
        seed: the same seed and labels give the same split, everywhere.
    """
    array = np.asarray(labels)
    rng = np.random.default_rng(seed)
    carved: list[Indices] = []
    for value in np.unique(array):
        members = np.flatnonzero(array == value)
        shuffled = rng.permutation(members)
        if len(members) > 1:
            carved.append(shuffled[: min(max(1, round(fraction * len(members))), len(members) - 1)])
    out = np.sort(np.concatenate(carved)) if carved else np.empty(0, np.int64)
    stay = np.setdiff1d(np.arange(len(array)), out, assume_unique=True)
    return stay.astype(np.int64), out.astype(np.int64)


def describe_carving(source: str, indices: Indices, fraction: float, seed: int) -> dict[str, Any]:
    """How a part was made, JSON-ready; `fingerprint` tells whether two runs used the same images."""
    return {
        "carved_from": source,
        "fraction": fraction,
        "seed": seed,
        "stratified": True,
        "count": len(indices),
        "fingerprint": hashlib.sha256(np.ascontiguousarray(indices, dtype="<i8").tobytes()).hexdigest()[:16],
    }
