"""A valley fitted to few noisy losses: where is its floor?

Losses of short trainings are noisy, and each costs minutes, so the best of those tried is a poor answer: it is the
luckiest one, and with steps as large as noise demands it stands beside the floor. What is fitted instead is the
simplest surface that has a floor, a parabola along each axis, in the logarithm of the loss. Four trials cannot settle
its numbers alone, hence priors (Bayesian linear regression; Bishop, Pattern Recognition and Machine Learning, section
3.3): how steeply losses of shapes of equal cost change at the origin, and how soon they turn up again. So a lucky trial
moves the answer by part of what it promises, and an axis that no trial looked at stays where it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SLOPE = 0.2  # standard deviation of d log(loss) / dx at the origin, for a step of one in the logarithm of widths
CURVATURE = 0.2  # of c in log(loss) = a + b x + c x^2; 12 epochs of MobileNetV1 on CIFAR-10 give 0.2
CURVATURE_SPREAD = 0.1
LEAST_CURVATURE = 0.05  # never flatter, lest the floor lie far away
NOISE = 0.02  # of log(loss), between trainings that differ in their seed alone
FARTHEST = 2.0


class Valley:
    """Losses at points, and the floor that they suggest.

    Args:
        axes: how many numbers a point has.
    """

    def __init__(self, axes: int) -> None:
        self.axes = axes
        self.points: list[tuple[float, ...]] = []
        self.losses: list[float] = []

    def add(self, point: Sequence[float], loss: float) -> None:
        """A loss that was measured; one that is not finite counts as far above all others."""
        self.points.append(tuple(float(value) for value in point))
        self.losses.append(float(loss))

    def floor(self) -> tuple[float, ...]:
        """The lowest point of the fitted valley; the origin as long as nothing else was measured, or nothing finite."""
        if len(self.points) < 2 or not self.axes or not any(map(math.isfinite, self.losses)):
            return (0.0,) * self.axes
        x, y = np.array(self.points), np.array(self._logs())
        # The level has no prior; the first loss is the natural zero, and a wide one is as good as none.
        rows = np.column_stack([np.ones(len(y)), x, x**2])
        prior = np.concatenate([[0.0], np.zeros(self.axes), np.full(self.axes, CURVATURE)])
        spread = np.concatenate([[10.0], np.full(self.axes, SLOPE), np.full(self.axes, CURVATURE_SPREAD)])
        precision = rows.T @ rows / NOISE**2 + np.diag(spread**-2)
        mean = np.linalg.solve(precision, rows.T @ (y - y[0]) / NOISE**2 + prior / spread**2)
        slope, curvature = mean[1 : 1 + self.axes], mean[1 + self.axes :].clip(LEAST_CURVATURE)
        return tuple(float(v) for v in (-slope / (2 * curvature)).clip(-FARTHEST, FARTHEST))

    def _logs(self) -> list[float]:
        """Logarithms of the losses; of negative ones (some are), differences over the size of the first."""
        finite = [loss for loss in self.losses if math.isfinite(loss)]
        if min(finite) > 0:
            logs = {loss: math.log(loss) for loss in finite}
        else:
            size = max(abs(finite[0]), max(finite) - min(finite), 1e-30)
            logs = {loss: (loss - finite[0]) / size for loss in finite}
        worst = max(logs.values()) + 1.0
        return [logs.get(loss, worst) for loss in self.losses]


__all__ = ["Valley"]
