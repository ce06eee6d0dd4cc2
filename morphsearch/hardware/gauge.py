"""Whether the machine runs at full pace at this very moment: a tenth of a millisecond of work that never changes.

Other programs on the same chip cost a process pace without ever making it wait: they share its memory bus or the other
half of its core, for milliseconds or for minutes. Neither clocks nor the operating system tell. Work that is always the
same does: it takes longer. So every pass that is timed stands between two such pieces of work, and those that ran at
full pace can be told from the others.
"""

from __future__ import annotations

import time

import numpy as np
import torch

SIDE = 64  # of the matrices: their 48 KiB leave a network's data in the caches
LASTING = 1e-4  # seconds of one piece of work
WARMING = 3  # repetitions before its clock starts: a network has just had the caches
AT_FULL_PACE = 1.08  # times its shortest that a piece of work may take
SHORTEST = 0.03  # share of all pieces of work that are taken to be at full pace
FIRST = 2.0  # seconds that it is watched at first: slow moments last as long
KEPT, AFRESH = 20_000, 100  # pieces of work remembered, and after how many the full pace is looked up again


class Gauge:
    """Work on the processor, repeated and timed.

    Args:
        threads: that the work is spread over, as what is timed beside it.
        first: seconds to get to know the full pace in.
    """

    def __init__(self, threads: int = 1, first: float = FIRST) -> None:
        ones = torch.ones(threads, SIDE, SIDE)
        self._left, self._right, self._out = ones, ones / SIDE, torch.empty_like(ones)
        self._times = 1
        self._times = max(1, round(LASTING / max(min(self._work() for _ in range(50)), 1e-7)))
        self._seen: list[float] = []
        self._due, self.full = 0, 0.0
        started = time.monotonic()
        while not self._seen or time.monotonic() - started < first:
            self()
        self._due = 0

    def _work(self) -> float:
        for _ in range(WARMING):
            torch.bmm(self._left, self._right, out=self._out)
        start = time.perf_counter()
        for _ in range(self._times):
            torch.bmm(self._left, self._right, out=self._out)
        return time.perf_counter() - start

    def __call__(self) -> float:
        """How many times longer the work takes now than at full pace."""
        seconds = self._work()
        self._seen.append(seconds)
        self._due -= 1
        if self._due < 0:
            self._due = AFRESH
            if len(self._seen) > KEPT:
                self._seen = sorted(self._seen)[::2]  # keeps its quantiles
            self.full = float(np.quantile(self._seen, SHORTEST))
        return seconds / self.full
