"""Whether what was fitted is whole, so that a damaged file never predicts."""

from __future__ import annotations

from typing import Any

import numpy as np

from morphsearch.hardware.algorithms import RULES
from morphsearch.hardware.fitting import FamilyFit, coordinates, terms
from morphsearch.hardware.predictor import Predictor
from morphsearch.hardware.work import COLUMNS


def require_whole(predictor: Predictor) -> None:
    """Check that arrays fit each other and that numbers are numbers.

    Raises:
        ValueError: what does not.
    """
    numbers: dict[str, Any] = {
        "per_step": predictor.per_step,
        "constant": predictor.constant,
        "scales": predictor.scales,
    }
    for name, value in numbers.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{name} is not finite")
    for name, fit in predictor.families.items():
        parts = (fit.theta, fit.places, fit.weights, fit.bend, fit.centre, fit.scale, fit.low, fit.high, fit.length)
        if not all(np.isfinite(part).all() for part in parts):
            raise ValueError(f"the family {name} has numbers that are not finite")
        if not _fits(name, fit):
            raise ValueError(f"the family {name} has arrays of other sizes")


def _fits(name: str, fit: FamilyFit) -> bool:
    row = np.ones((1, len(COLUMNS)))
    if fit.rule not in RULES:
        return False
    sizes = (terms(name, row, fit.rule).shape[1], coordinates(name, row, fit.rule).shape[1])
    if fit.theta.shape != sizes[:1] or (fit.weights.size and fit.places.shape[1:] != sizes[1:]):
        return False
    if fit.bend.size and fit.bend.shape != (1 + sizes[1],):
        return False
    if any(part.shape != row.shape[1:] for part in (fit.low, fit.high)):
        return False
    return not fit.weights.size or fit.centre.shape == fit.scale.shape == sizes[1:]
