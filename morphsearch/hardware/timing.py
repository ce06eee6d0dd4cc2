"""Timing that a busy machine spoils as little as possible: turns, a gauge of the pace, the quick part of the passes.

Networks take turns, so that a slow moment falls on all of them. What else runs on a machine only ever adds to a pass,
in two ways. A process that has to wait for a processor shows by its clock, which runs on when its processor time does
not: such passes are *disturbed*, and do not count where others are left. One that shares its core or its memory bus
does not show by any clock: there a :class:`~morphsearch.hardware.gauge.Gauge` tells the pace before and after each
pass. Passes count the less the slower the gauge was, and what a network suffers from it is taken off them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from morphsearch.hardware.gauge import AT_FULL_PACE, Gauge

WAITED = 0.02  # share of a pass that may be spent waiting
TICK = 2e-5  # seconds that clocks may differ by
TRIALS, FOREIGN = 3, 0.05  # passes before the first turn, and the share of one below which the processor is idle
NOISY = 0.05  # an interval with a half above this share of the figure is told
QUICK = 0.25  # the quantile of the passes that is the result
ENOUGH = 8  # turns at full pace, after which a network needs no further ones
# The power of the gauge's slowness that networks are slowed by, how surely, and the scatter of a pass's logarithm.
SUFFERS, UNSURE, SCATTER = 0.65, 0.15, 0.1
FADES = 0.1  # logarithm of the gauge's slowness by which a pass counts less by a factor of e
PARTS = 4  # of the turns, whose results make the interval


@dataclass(frozen=True)
class Pass:
    """One forward pass: its seconds, whether it had to wait, and the gauge before and after it (1 at full pace)."""

    seconds: float
    waited: bool = False
    before: float = 1.0
    after: float = 1.0

    @property
    def slowness(self) -> float:
        """How many times longer the gauge took than at full pace, on average."""
        return max(1.0, (self.before + self.after) / 2)

    @property
    def calm(self) -> bool:
        """Whether the machine ran at full pace before it and after it."""
        return not self.waited and max(self.before, self.after) <= AT_FULL_PACE


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one forward pass at full pace.

    Attributes:
        ms: the figure. low, high: the middle two of what each quarter of the turns alone says.
        repeated: how far the same network measured twice lies apart: even turns against odd ones, as a share.
        turns: of passes, one or more each.
    """

    ms: float
    low: float
    high: float
    repeated: float
    turns: tuple[tuple[Pass, ...], ...]

    @classmethod
    def of(cls, turns: Sequence[Sequence[Pass]]) -> Timing:
        """From the passes of every turn."""
        power = suffering([one for passes in turns for one in passes])
        parts = sorted(quick(part, power) for place in range(PARTS) if (part := turns[place::PARTS]))
        ms, margin = quick(turns, power), (len(parts) - 1) // 2
        low, high = min(ms, parts[margin]), max(ms, parts[-1 - margin])
        one, other = (quick(turns[place::2] or turns, power) for place in (0, 1))
        return cls(ms, low, high, abs(one - other) / max(one, other), tuple(map(tuple, turns)))

    def joined(self, other: Timing) -> Timing:
        """This and `other` as one."""
        return Timing.of([*self.turns, *other.turns])

    @property
    def calm(self) -> int:
        """Turns with a pass at full pace."""
        return calm_turns(self.turns)

    @property
    def spread(self) -> float:
        """Half of the interval, as a share of the figure."""
        return (self.high - self.low) / 2 / self.ms if self.ms else 0.0

    @property
    def noisy(self) -> bool:
        """Whether the spread should be told beside the figure."""
        return self.spread > NOISY


def calm_turns(turns: Sequence[Sequence[Pass]]) -> int:
    """How many turns have a pass at full pace."""
    return sum(any(one.calm for one in passes) for passes in turns)


def suffering(passes: Sequence[Pass]) -> float:
    """The power of the gauge's slowness that a network is slower by.

    A line through logarithms, by ridge regression towards :data:`SUFFERS`: what shares a core slows all work, but some
    more than other.
    """
    x = [math.log(one.slowness) for one in passes]
    y = [math.log(max(one.seconds, 1e-9)) for one in passes]
    across, up = statistics.fmean(x), statistics.fmean(y)
    held = (SCATTER / UNSURE) ** 2
    above = held * SUFFERS + sum((a - across) * (b - up) for a, b in zip(x, y, strict=True))
    return above / (held + sum((a - across) ** 2 for a in x))


def quick(turns: Sequence[Sequence[Pass]], power: float) -> float:
    """Milliseconds at full pace: the weighted lower quartile of the passes, freed of what they suffered."""
    passes = [one for turn in turns for one in turn]
    passes = [one for one in passes if not one.waited] or passes
    found: list[tuple[float, float]] = sorted(
        (one.seconds / one.slowness**power, math.exp(-math.log(max(1.0, one.before, one.after)) / FADES))
        for one in passes
    )
    due = QUICK * sum(weight for _, weight in found)
    for seconds, weight in found:
        due -= weight
        if due <= 0:
            return 1e3 * seconds
    return 1e3 * found[-1][0]


def time_interleaved(
    runs: Sequence[Callable[[], Any]],
    *,
    rounds: int = 7,
    seconds: float = 0.02,
    warmup: int = 2,
    most: int = 50,
    gauge: Gauge | None = None,
    patience: float = 0.0,
    waits: bool = False,
) -> list[Timing]:
    """Time functions in turns.

    Args:
        runs: each is one forward pass.
        rounds: how often each has its turn, at least.
        seconds: about how long a turn lasts; `most` passes at the utmost, and one or more.
        warmup: passes before a turn counts, in the first one; later turns warm up with one.
        gauge: tells the pace of the machine between passes. patience: seconds for each of `runs`, in which those that
            have had fewer than :data:`ENOUGH` turns at full pace get more of them.
        waits: they wait for another device, so that the processor's time says nothing.
    """
    counts = []
    for run in runs:
        for _ in range(warmup):
            run()
        trials = [clocked(run) for _ in range(TRIALS)]
        # What hardly uses this processor in any of them waits for something else, whatever was said of it.
        waits = waits or not any(used > FOREIGN * taken for taken, used in trials)
        quickest = min(taken if waits else settled(taken, used)[0] for taken, used in trials)
        counts.append(max(1, min(most, round(seconds / max(1e-7, quickest)))))
    found: list[list[list[Pass]]] = [[] for _ in runs]
    started, number, lacking = time.monotonic(), 0, list(range(len(runs)))
    while number < rounds or (lacking and time.monotonic() - started < patience * len(runs)):
        for place in range(len(runs)) if number < rounds else lacking:
            found[place].append(turn(runs[place], counts[place], gauge, waits))
        number += 1
        lacking = [place for place, turns in enumerate(found) if gauge and calm_turns(turns) < ENOUGH]
    return [Timing.of(turns) for turns in found]


def turn(run: Callable[[], Any], count: int, gauge: Gauge | None, waits: bool = False) -> list[Pass]:
    """`count` passes after one that warms up, each between two looks at the gauge; see :func:`time_interleaved`."""
    look = gauge or (lambda: 1.0)
    run()
    passes, before = [], look()
    for _ in range(count):
        seconds, waited = once(run, waits)
        after = look()
        passes.append(Pass(seconds, waited, before, after))
        before = after
    return passes


def once(run: Callable[[], Any], waits: bool = False) -> tuple[float, bool]:
    """Seconds of one pass, and whether it had to wait for a processor; the seconds are then those that it had one.

    Where it `waits` for another device as well, only the clock counts.
    """
    seconds, used = clocked(run)
    return (seconds, False) if waits else settled(seconds, used)


def clocked(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of one pass by the clock, and those of the processor."""
    used, start = time.process_time(), time.perf_counter()
    run()
    return time.perf_counter() - start, time.process_time() - used


def settled(seconds: float, used: float) -> tuple[float, bool]:
    """Seconds to count and whether they were disturbed, from those of the clock and those of the processor.

    Of work on the processor, however long it had to wait: a short operation may wait for a hundred times what it takes.
    """
    disturbed = used < seconds - max(WAITED * seconds, TICK)  # several threads use more than the clock says
    return (used if disturbed else seconds), disturbed
