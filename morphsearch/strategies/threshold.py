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
CROWD = 0.1  # the share of the units about a threshold that is worth a word


def settled(scores: Tensor, usual: float, left: int) -> tuple[float, int]:
    """The threshold, in the gap of the scores if there is one near `usual`; and how many crowd about it.

    Where there is no gap, those within a factor of :data:`LEAST_RATIO`, half of it on either side, are a crowd if some
    are on both sides, and they are :data:`CROWD` of all or more; else it is 0.

    Args:
        scores: `n`, of the units that were judged and are there. left: how many left before; they count as zeros.
        usual: the strategy's own threshold.
    """
    known = torch.cat([scores, scores.new_zeros(min(left, 1))]).clamp(min=0)
    dead = known <= usual
    if not bool(dead.any()) or bool(dead.all()):
        return usual, 0  # nothing lies between
    gap = score_gap(known)
    if gap is not None and usual / FURTHEST <= gap.threshold <= usual * FURTHEST:
        return gap.threshold, 0
    if float(known[~dead].min()) >= LEAST_RATIO * float(known[dead].max()):
        return usual, 0
    near = (known > usual / LEAST_RATIO**0.5) & (known < usual * LEAST_RATIO**0.5)
    count = int(near.sum())
    mixed = bool((near & dead).any()) and bool((near & ~dead).any())
    return usual, count if mixed and count >= CROWD * (scores.numel() + left) else 0
