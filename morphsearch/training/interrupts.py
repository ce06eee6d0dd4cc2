"""Ctrl-C that waits for the end of a batch, so that what is saved is a state that training can go on from exactly."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupt:
    """Whether the user asked to stop. Call :meth:`check` where stopping is safe."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if the user asked to stop since the last check."""
        if self.requested:
            self.requested = False
            raise KeyboardInterrupt


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Interrupt]:
    """Within, the first SIGINT or SIGTERM only sets :attr:`Interrupt.requested`; a second one raises at once.

    Signals can only be handled in the main thread; elsewhere this does nothing.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True

    signals = [name for name in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(name) not in (signal.SIG_IGN, None)]
    outer = {name: signal.signal(name, handle) for name in signals}
    try:
        yield interrupt
    finally:
        for name, handler in outer.items():
            signal.signal(name, handler)
