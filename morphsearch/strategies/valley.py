"""A valley fitted to few noisy losses: where is its floor, and which training would tell most about it?

Losses of short trainings are noisy, and each costs minutes, so the best of those tried is a poor answer: it is the
luckiest one, and with steps as large as noise demands it stands beside the floor. What is fitted instead is the
simplest surface that has a floor, a parabola along each axis, in the logarithm of the loss. A handful of trials cannot
settle its numbers alone, hence priors (Bayesian linear regression; Bishop, Pattern Recognition and Machine Learning,
section 3.3): how steeply losses of shapes of equal cost change at the origin, and how soon they turn up again. So a
lucky trial moves the answer by part of what it promises, and an axis that no trial looked at stays where it is.

What is left uncertain says what to try next: the point whose loss, once known, lets the floor be expected lowest (the
knowledge gradient; Frazier, Powell and Dayanik, INFORMS Journal on Computing 21(4), 2009).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SLOPE = 0.2  # standard deviation of d log(loss) / dx at the origin, for a step of one in the logarithm of widths
CURVATURE = 0.2  # of c in log(loss) = a + b x + c x^2; ResNet-20 and MobileNetV1 on CIFAR-10 give 0.17 and 0.2
CURVATURE_SPREAD = 0.1
LEAST_CURVATURE = 0.05  # never flatter, lest the floor lie far away
NOISE = 0.03  # of log(loss), between trainings that differ in their seed alone: 0.01 of ResNet-20, 0.04 of MobileNetV1
LEVEL = 10.0  # standard deviation of the loss at the origin about the first one measured: as good as unknown
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(15)  # for means over what a training may come to


class Valley:
    """Losses at points, and the floor that they suggest.

    Args:
        axes: how many numbers a point has.
        reach: how far beyond what was tried the floor may lie, along each axis; from the origin twice as far at most.
        slopes: standard deviation of the slope along each axis, before anything is known.
    """

    def __init__(self, axes: int, reach: float = 0.5, slopes: Sequence[float] | None = None) -> None:
        self.axes, self.reach = axes, reach
        self.points: list[tuple[float, ...]] = []
        self.losses: list[float] = []
        slopes = (SLOPE,) * axes if slopes is None else slopes
        self._prior = np.array([0.0, *(0.0 for _ in slopes), *(CURVATURE for _ in slopes)])
        self._spread = np.array([LEVEL, *slopes, *(CURVATURE_SPREAD for _ in slopes)])

    def add(self, point: Sequence[float], loss: float) -> None:
        """A loss that was measured; one that is not finite counts as far above all others."""
        self.points.append(tuple(float(value) for value in point))
        self.losses.append(float(loss))

    def floor(self) -> tuple[float, ...]:
        """The lowest point of the fitted valley; the origin as long as nothing else was measured, or nothing finite."""
        if len(self.points) < 2 or not self.axes or not any(map(math.isfinite, self.losses)):
            return (0.0,) * self.axes
        return tuple(float(v) for v in self._lowest(self._fitted()[0])[0])

    def gain(self, point: Sequence[float]) -> float:
        """How much lower the floor is expected to lie, in the logarithm of the loss, once the loss at `point` is
        known; 0 where no loss was finite yet."""
        if not any(map(math.isfinite, self.losses)):
            return 0.0
        mean, covariance = self._fitted()
        row = _rows(np.array([point], float))[0]
        moved = covariance @ row / math.sqrt(row @ covariance @ row + NOISE**2)
        after = sum(w * self._lowest(mean + z * moved)[1] for z, w in zip(NODES, WEIGHTS, strict=True))
        return float(self._lowest(mean)[1] - after / WEIGHTS.sum())

    def _fitted(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of level, slopes and curvatures."""
        rows, logs = _rows(np.array(self.points)), np.array(self._logs())
        covariance = np.linalg.inv(rows.T @ rows / NOISE**2 + np.diag(self._spread**-2))
        return covariance @ (rows.T @ (logs - logs[0]) / NOISE**2 + self._prior / self._spread**2), covariance

    def _lowest(self, numbers: np.ndarray) -> tuple[np.ndarray, float]:
        """Where a valley of these numbers is lowest, within reach, and how low."""
        slope, curvature = numbers[1 : 1 + self.axes], numbers[1 + self.axes :].clip(LEAST_CURVATURE)
        tried = np.array(self.points)
        least = (tried.min(0) - self.reach).clip(-2 * self.reach)
        at = (-slope / (2 * curvature)).clip(least, (tried.max(0) + self.reach).clip(None, 2 * self.reach))
        return at, float(numbers[0] + (slope * at + curvature * at**2).sum())

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


def _rows(points: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(points)), points, points**2])


__all__ = ["Valley"]
