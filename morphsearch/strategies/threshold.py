"""Finds the threshold between units that live and units that died, in their scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEAST_RATIO = 3.0  # between the two ends of a gap


@dataclass(frozen=True)
class ScoreGap:
    """The widest gap between two modes of scores.

    Attributes:
        threshold: the geometric middle of the gap.
        low: the largest score below it.
        high: the smallest score above it.
        below: how many units are below.
        above: how many units are above.
    """

    threshold: float
    low: float
    high: float
    below: int
    above: int

    @property
    def ratio(self) -> float:
        """How many times larger `high` is than `low`; scores of a hundred-thousandth of the largest and less count as
        that."""
        return (self.high / self.threshold) ** 2


def score_gap(scores: Tensor, *, least_ratio: float = LEAST_RATIO) -> ScoreGap | None:
    """The widest gap in the distribution of the logarithms of `scores`, or None where there is none.

    A threshold can be trusted when scores have two modes (kept and dying units) with nothing in between. There is no
    gap when the widest one is narrower than a factor of `least_ratio`, or when fewer than two different scores are
    given. Scores below 1e-5 of the largest, exact zeros among them, are dead whatever their logarithm says and count
    as equal.

    Args:
        scores: `n`, non-negative; pass only units that were judged (``strategy.scores()[strategy.scored()]``).
        least_ratio: the narrowest gap that counts, as the ratio of its two ends.
    """
    values = np.sort(scores.detach().double().cpu().numpy().reshape(-1))
    if values.size < 2 or not np.isfinite(values).all() or values[-1] <= 0:
        return None
    dead = values[-1] * 1e-5
    logs = np.log(np.maximum(values, dead))
    gaps = np.diff(logs)
    widest = int(np.argmax(gaps))
    if gaps[widest] < np.log(least_ratio):
        return None
    threshold = float(np.exp((logs[widest] + logs[widest + 1]) / 2))
    return ScoreGap(threshold, float(values[widest]), float(values[widest + 1]), widest + 1, values.size - widest - 1)


FURTHEST = 10.0  # a threshold that the scores suggest counts up to so many times the strategy's own, up or down


def settled(scores: Tensor, usual: float, left: int) -> tuple[float, bool]:
    """The threshold in the gap of the scores where there is one near `usual`, else `usual`; and whether there is one.

    Args:
        scores: `n`, of the units that were judged and are there. left: how many left before; they count as zeros.
        usual: the strategy's own threshold.
    """
    gone = scores.new_zeros(min(left, 1))
    known = torch.cat([scores, gone]).clamp(min=0)
    if not bool((known <= usual).any()) or not bool((known > usual).any()):
        return usual, True  # all are alive or all are dead: nothing lies between
    gap = score_gap(known)
    if gap is None or not usual / FURTHEST <= gap.threshold <= usual * FURTHEST:
        # Where one side of the usual threshold is clear of the other by as much, that is gap enough.
        low, high = known[known <= usual].max(), known[known > usual].min()
        return usual, bool(high >= LEAST_RATIO * low)
    return gap.threshold, True
