"""How long a network takes where a processor queues operations and another device runs them, one after another.

An operation begins when it is queued and the one before it is done. So with `c` to queue each operation and `k` to run
it, the network is done after the largest of ``c[0] + ... + c[i] + k[i] + ... + k[n]`` over all `i`: a network of small
operations takes as long as queueing them, whatever its widths, and one of large operations as long as the device works.

Letters: `o` operations, in the order in which they run. All times in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import least_squares

if TYPE_CHECKING:
    from morphsearch.hardware.predictor import NetworkSample, Predictor

ROUGH = 0.05  # how far a network's time may well be from what its operations take
LOOSE = (0.1, 0.5)  # how far the factors of running and of queueing may well be from 1, as logarithms
BETWEEN = 3e-3  # milliseconds between two operations, to begin with: the calls of modules


def together(issued: np.ndarray, running: np.ndarray) -> float:
    """When all is done: `issued` and `running` are `o`."""
    return float((np.cumsum(issued) + _rest(running)).max()) if len(running) else 0.0


def charged(issued: np.ndarray, running: np.ndarray) -> np.ndarray:
    """`o`: what each adds to :func:`together`: up to the one that decides its queueing, from there its run."""
    if not len(running):
        return np.zeros(0)
    decides = int((np.cumsum(issued) + _rest(running)).argmax())
    result = np.where(np.arange(len(running)) < decides, issued, running)
    result[decides] = issued[decides] + running[decides]
    return result


def at_pace(issued: np.ndarray, running: np.ndarray, ms: float, factor: float) -> float:
    """By what a network takes longer when queueing takes `factor` times as long, and running the same.

    Args:
        issued, running: `o` seconds, as observed. ms: of the whole network, which tells what lies between operations.
    """
    c, k = 1e3 * issued, 1e3 * running
    low, high = 0.0, ms / max(1, len(c))
    for _ in range(40):
        between = (low + high) / 2
        low, high = (between, high) if together(c + between, k) < ms else (low, between)
    return together(factor * (c + low), k) / together(c + low, k)


def _rest(running: np.ndarray) -> np.ndarray:
    """`o`: the sum from each operation to the last."""
    found: np.ndarray = np.cumsum(running[::-1])[::-1]
    return found


@dataclass
class Queue:
    """What queueing takes.

    Attributes:
        issue: one operation of each family. usual: one of a family that is not there.
    """

    issue: dict[str, float]
    usual: float

    def times(self, names: Sequence[str]) -> np.ndarray:
        """`o`: of operations of these families."""
        return np.array([self.issue.get(name, self.usual) for name in names])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"issue": {name: float(f"{value:.6g}") for name, value in self.issue.items()}, "usual": self.usual}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Queue:
        """The inverse of :meth:`to_dict`."""
        return cls({name: float(value) for name, value in data["issue"].items()}, float(data["usual"]))

    @classmethod
    def of(cls, samples: Sequence[NetworkSample]) -> Queue:
        """From what was observed: medians, since few operations have to wait for room in the queue."""
        times: dict[str, list[float]] = {}
        for sample in (one for one in samples if one.issued.size):
            for name, seconds in zip(sample.seen[0], sample.issued, strict=True):
                times.setdefault(name, []).append(1e3 * float(seconds))
        every = [value for values in times.values() for value in values]
        return cls({name: float(np.median(values)) for name, values in times.items()}, float(np.median(every)))


def calibrate(predictor: Predictor, samples: Sequence[NetworkSample]) -> Predictor:
    """Set the factors of running and queueing, what lies between operations, and the constant, to whole networks."""
    assert predictor.queue is not None
    queue = predictor.queue
    runs = [predictor.running(sample.families, sample.rows) for sample in samples]
    issues = [queue.times(sample.families) for sample in samples]
    per = [sample.steps / max(1, len(sample.families)) for sample in samples]
    measured = np.array([sample.ms for sample in samples])

    def off(x: np.ndarray) -> np.ndarray:
        run, issue, between, constant = x
        found = [
            together(np.exp(issue) * c + between * share, np.exp(run) * k) + constant
            for c, k, share in zip(issues, runs, per, strict=True)
        ]
        return np.concatenate([(np.array(found) / measured - 1) / ROUGH, [run / LOOSE[0], issue / LOOSE[1]]])

    low, high = [-1.0, -3.0, 0.0, 0.0], [1.0, 3.0, 1.0, float(measured.min())]
    first = [0.0, 0.0, BETWEEN, min(BETWEEN, 0.5 * high[3])]
    run, issue, between, constant = least_squares(off, first, bounds=(low, high), x_scale=[0.1, 0.1, 1e-3, 1e-2]).x
    factor = float(np.exp(issue))
    predictor.queue = Queue({k: factor * v for k, v in queue.issue.items()}, factor * queue.usual)
    predictor.scales = np.full_like(predictor.scales, np.exp(run))
    predictor.per_step, predictor.constant = float(between), float(constant)
    return predictor
