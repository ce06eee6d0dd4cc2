"""Keeping to a limit of seconds: shorter measurements where it is short, and nothing begun that would end too late."""

from __future__ import annotations

import math
import time

UNHURRIED = 40.0  # seconds that leave every network the time it is meant to have, and a fit enough of them


class Allowance:
    """What is left of the seconds that a measurement may take.

    Args:
        limit: seconds from now.

    Attributes:
        brief: by how much whatever can be shortened should be: 1 for not at all.
        slowest: seconds of a network, in the lot that took longest for each.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.limit, self.slowest = limit, 0.0
        self.brief = min(1.0, limit / UNHURRIED)
        self._started = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds, below zero where it is overdrawn."""
        return self.limit - self.spent

    def took(self, seconds: float, networks: int) -> None:
        """Remember how long a lot took."""
        if networks:
            self.slowest = max(self.slowest, seconds / networks)

    def room(self, wanted: int) -> int:
        """How many further networks there is time for, at most as many as are `wanted`."""
        if self.left <= 0:
            return 0
        return wanted if not self.slowest else max(0, min(wanted, int(self.left / self.slowest)))

    def enough(self, networks: int) -> str:
        """A limit that should do for so many networks, in words after "raise --limit"; empty where none is known."""
        seconds = max(2 * self.slowest * networks, 1.5 * self.limit)
        return f" to {math.ceil(seconds)} or more" if self.slowest and math.isfinite(seconds) else ""
