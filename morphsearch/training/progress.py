"""Progress events, not too many of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Listener = Callable[[str, dict[str, Any]], None]

INTERVAL = 0.1  # seconds between progress events


class Throttle:
    """Passes progress payloads to `listener`, at most about ten a second."""

    def __init__(self, listener: Listener | None) -> None:
        self.listener = listener
        self._next = 0.0

    def due(self, *, force: bool = False) -> bool:
        """Whether to :meth:`send` now; payloads are only worth computing then."""
        return self.listener is not None and (force or time.monotonic() >= self._next)

    def send(self, payload: dict[str, Any]) -> None:
        """Emit one ``"progress"`` event. Numbers that are not finite become None, as they have no place in JSON."""
        self._next = time.monotonic() + INTERVAL
        if self.listener is not None:
            self.listener("progress", {key: finite(value) for key, value in payload.items()})


def finite(value: Any) -> Any:
    """`value`, or None if it is a float that JSON cannot hold (NaN, infinity)."""
    if isinstance(value, float) and value - value != 0:
        return None
    return value
