"""The pace of a machine, which a network that never changes tells, and what other networks have of it.

A machine that runs slower for minutes slows all networks. What one small network takes also changes for reasons of its
own, of which others have nothing. How much of its changes is everybody's is a power that is fitted: what networks take
beyond what is predicted of them, against the pace at which they were measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from morphsearch.hardware import queue as queueing
from morphsearch.hardware.predictor import NetworkSample, fit

ROUNDS = 3  # of fits to networks freed of the pace
LEAST = 20  # networks that tell a power
SWAYING = 0.01  # mean distance of paces from their median, below which nothing tells it
FINE = 0.01  # logarithm up to which an error counts by its square


def even_pace(samples: Sequence[NetworkSample], power: float = 1.0) -> list[NetworkSample]:
    """The samples as they would have been at the pace that the machine had in the median.

    Args:
        power: of the pace that networks are slowed by.
    """
    usual = usual_pace(samples)
    return [sample if sample.pace <= 0 else _at_pace(sample, usual, power) for sample in samples]


def usual_pace(samples: Sequence[NetworkSample]) -> float:
    """The median; 0 where no pace was measured."""
    paces = [sample.pace for sample in samples if sample.pace > 0]
    return float(np.median(paces)) if paces else 0.0


def _at_pace(sample: NetworkSample, pace: float, power: float) -> NetworkSample:
    factor = (pace / sample.pace) ** power
    whole, times = factor, sample.seen[2] * factor
    if sample.issued.size:  # what changes is the processor's pace, not that of the device it queues for
        whole, times = queueing.at_pace(sample.issued, sample.seen[2], sample.ms, factor), sample.seen[2]
    sample = replace(sample, issued=sample.issued * factor, seen=(*sample.seen[:2], times))
    return replace(sample, ms=sample.ms * whole, low=sample.low * whole, high=sample.high * whole)


def suffered(samples: Sequence[NetworkSample], seed: int = 0) -> float:
    """The power of the pace that networks are slowed by, from 0 to 1: 1 where too little tells it.

    Begins with 1, and moves it by the slope of what networks take beyond a fit to all of them, freed of the pace so
    far, over the logarithm of the pace. The least absolute errors, so that a few odd networks decide nothing.
    """
    paced = [sample for sample in samples if sample.pace > 0]
    paces = np.array([sample.pace for sample in paced])
    if len(paced) < LEAST or any(sample.issued.size for sample in paced) or drift(paces) < SWAYING:
        return 1.0
    x, power = np.log(paces / np.median(paces)), 1.0
    for _ in range(ROUNDS):
        even = even_pace(paced, power)
        predictor = fit(even, seed, bent=False)
        y = np.log([s.ms / max(1e-9, predictor.network(s.families, s.rows, s.steps)) for s in even])
        power = float(np.clip(power + _slope(x, y), 0.0, 1.0))
    return power


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    basis, weight, found = np.stack([np.ones_like(x), x], axis=1), np.ones_like(x), np.zeros(2)
    for _ in range(20):
        found = np.linalg.lstsq(basis * weight[:, None], y * weight, rcond=None)[0]
        weight = 1 / np.sqrt(np.maximum(np.abs(y - basis @ found), FINE))
    return float(found[1])


def drift(paces: np.ndarray) -> float:
    """Mean distance of paces from their median, as a share; 0 where none was measured."""
    known = paces[paces > 0]
    return float(np.abs(known / np.median(known) - 1).mean()) if known.size else 0.0
