"""Timing that a busy machine spoils as little as possible: warm-up, interleaved rounds, medians, an honest interval.

Networks take turns, so that a slow moment falls on all of them. A pass in which the process had to wait for a processor
(its clock ran on, its processor time did not) is disturbed: its processor time stands in for it, and it does not count
where others are left. Each round gives the lower quartile of its passes, since what else runs on a machine only ever
adds to one, and the median of the rounds is the result. Rounds far from the others are outliers; `dropped` counts them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

FAR = 4.0  # times the median deviation from the median: an outlier
WAITED = 0.02  # share of a pass that may be spent waiting
TICK = 2e-5  # seconds that clocks may differ by
NOISY = 0.05  # a spread above this share of the median is told


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one forward pass.

    Attributes:
        ms: the median of the rounds. low, high: the interval that holds the middle half of them.
        rounds: of each. dropped: how many were outliers. disturbed: share of passes that had to wait.
    """

    ms: float
    low: float
    high: float
    rounds: tuple[float, ...]
    dropped: int = 0
    disturbed: float = 0.0

    @classmethod
    def of(cls, rounds: Sequence[float], disturbed: float = 0.0) -> Timing:
        """From the milliseconds of every round."""
        centre = statistics.median(rounds)
        spread = statistics.median(abs(value - centre) for value in rounds)
        near = [value for value in rounds if abs(value - centre) <= FAR * max(spread, 0.005 * centre)]
        kept = sorted(near or rounds)
        low, high = kept[len(kept) // 4], kept[-1 - len(kept) // 4]
        return cls(statistics.median(kept), low, high, tuple(rounds), len(rounds) - len(kept), disturbed)

    def joined(self, other: Timing) -> Timing:
        """This and `other` as one, the rounds of both as they came."""
        count = len(self.rounds) + len(other.rounds)
        disturbed = (self.disturbed * len(self.rounds) + other.disturbed * len(other.rounds)) / max(1, count)
        return Timing.of([*self.rounds, *other.rounds], disturbed)

    @property
    def spread(self) -> float:
        """Half of the interval, as a share of the median."""
        return (self.high - self.low) / 2 / self.ms if self.ms else 0.0

    @property
    def repeated(self) -> float:
        """How far the same network measured twice lies apart: even rounds against odd ones, as a share."""
        if len(self.rounds) < 2:
            return 0.0
        one, other = statistics.median(self.rounds[::2]), statistics.median(self.rounds[1::2])
        return abs(one - other) / max(one, other)

    @property
    def noisy(self) -> bool:
        """Whether the spread should be told beside the figure."""
        return self.spread > NOISY


def time_interleaved(
    runs: Sequence[Callable[[], Any]], *, rounds: int = 7, seconds: float = 0.02, warmup: int = 2, most: int = 50
) -> list[Timing]:
    """Time functions in turns.

    Args:
        runs: each is one forward pass.
        rounds: how often each has its turn.
        seconds: about how long a turn lasts; `most` passes at the utmost, and one or more.
        warmup: passes before a turn counts, in the first one; later turns warm up with one.
    """
    counts = []
    for run in runs:
        for _ in range(warmup):
            run()
        counts.append(max(1, min(most, round(seconds / max(1e-7, min(once(run)[0] for _ in range(3)))))))
    found: list[list[float]] = [[] for _ in runs]
    waited = [0 for _ in runs]
    for _ in range(rounds):
        for place, run in enumerate(runs):
            run()
            passes = [once(run) for _ in range(counts[place])]
            waited[place] += sum(disturbed for _, disturbed in passes)
            found[place].append(1e3 * undisturbed(passes))
    return [Timing.of(values, waited[place] / (rounds * counts[place])) for place, values in enumerate(found)]


def once(run: Callable[[], Any]) -> tuple[float, bool]:
    """Seconds of one pass, and whether it had to wait for a processor; the seconds are then those that it had one."""
    used, start = time.process_time(), time.perf_counter()
    run()
    seconds, used = time.perf_counter() - start, time.process_time() - used
    return settled(seconds, used)


def settled(seconds: float, used: float) -> tuple[float, bool]:
    """Seconds to count and whether they were disturbed, from those of the clock and those of the processor."""
    # Several threads use more than the clock says, another device none: then the clock is all there is.
    disturbed = 0.1 * seconds < used < seconds - max(WAITED * seconds, TICK)
    return (used if disturbed else seconds), disturbed


def middle(values: Sequence[float]) -> float:
    """The mean of the middle half: as steady as a median, and finer than the ticks of a microsecond clock."""
    kept = sorted(values)
    quarter = len(kept) // 4
    return statistics.fmean(kept[quarter : len(kept) - quarter])


def undisturbed(passes: Sequence[tuple[float, bool]]) -> float:
    """The lower quartile of the passes that did not wait; of all where each did."""
    values = sorted([seconds for seconds, disturbed in passes if not disturbed] or [seconds for seconds, _ in passes])
    return values[(len(values) - 1) // 4]
