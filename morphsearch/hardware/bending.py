"""Whole networks correct the fits of single operations.

An operation that is watched does not take what it takes when nobody looks: a clock interrupts it, caches are warmer or
colder, and what it leaves behind is paid for by the next. Whole networks know better, but there are few of them. So the
fit of every family is bent along a few directions, ``seconds * exp(bend . tilts(row))``, by ridge regression on what
whole networks take beyond their prediction (Hoerl and Kennard 1970). How far it may bend is the ridge with the least
leave-one-out error; where none beats leaving the fit as it is, nothing is bent.

Letters: `s` samples, `k` coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from morphsearch.hardware.work import placed

if TYPE_CHECKING:
    from morphsearch.hardware.predictor import NetworkSample, Predictor

TAUS = (0.01, 0.02, 0.04, 0.08, 0.16)  # logarithms by which a coefficient may well change an operation
ROUGH = 0.03  # relative error of a measured network
LEAST = 8  # networks
SMALL = 0.01  # share of the latency below which a family is left alone


def bend(predictor: Predictor, samples: Sequence[NetworkSample]) -> Predictor:
    """Bend the families of `predictor` towards `samples`, where that helps networks that are left out."""
    if len(samples) < LEAST:
        return predictor
    design, owners = _design(predictor, samples)
    if not owners:
        return predictor
    measured = np.array([sample.ms for sample in samples])
    foreseen = np.array([predictor.network(s.families, s.rows, s.steps) for s in samples])
    rest, design = (measured - foreseen) / measured, design / measured[:, None]
    best, found = float(np.abs(rest).mean()), None
    for tau in TAUS:
        # Ridge in its dual form; the residual of a network left out is its weight over its own share (Allen 1974).
        inverse = np.linalg.inv(tau**2 * design @ design.T + ROUGH**2 * np.eye(len(samples)))
        weights = inverse @ rest
        error = float(np.abs(weights / np.diagonal(inverse)).mean())
        if error < best:
            best, found = error, tau**2 * design.T @ weights
    if found is not None:
        for name, start, stop in owners:
            predictor.families[name].bend = found[start:stop]
    return predictor


def _design(predictor: Predictor, samples: Sequence[NetworkSample]) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """`s x k`: milliseconds that each network gains by a coefficient; and the columns of each family."""
    blocks: dict[str, np.ndarray] = {}
    for number, sample in enumerate(samples):
        times = predictor.running(sample.families, sample.rows)
        rows = placed(sample.families, sample.rows)
        names = np.array(predictor.actual_families(sample.families, sample.rows), object)
        for name in dict.fromkeys(names.tolist()):
            fit = predictor.families.get(name)
            if fit is None or not fit.weights.size:
                continue
            own = names == name
            tilts = fit.tilts(name, rows[own])
            block = blocks.setdefault(name, np.zeros((len(samples), tilts.shape[1])))
            block[number] = times[own] @ tilts
    measured = np.array([sample.ms for sample in samples])
    owners, kept, start = [], [], 0
    for name, block in blocks.items():
        if (block[:, 0] / measured).mean() < SMALL:
            continue
        owners.append((name, start, start + block.shape[1]))
        kept.append(block)
        start += block.shape[1]
    return (np.concatenate(kept, axis=1) if kept else np.zeros((len(samples), 0))), owners
