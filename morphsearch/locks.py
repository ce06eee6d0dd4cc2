"""One process at a time writes a run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from morphsearch.errors import UsageError


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Keep other processes out of a file or folder while the block runs; the system lets go where this one is killed.

    Nothing is written. Systems without such locks (Windows, some network file systems) keep nobody out.

    Args:
        path: it is locked if it is there. what: it is called so in messages.

    Raises:
        UsageError: another process holds it.
    """
    release = _lock(path, what)
    try:
        yield
    finally:
        release()


def _lock(path: Path, what: str) -> Callable[[], None]:
    """Lock `path`; returns what lets it go."""
    try:
        import fcntl
    except ImportError:  # Windows
        return lambda: None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # whoever reads or writes it next says what is wrong with it
        return lambda: None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(
            f"another process works on {what}",
            "one process at a time goes on with a run",
            "wait until it is done, or stop it and try again",
        ) from None
    except OSError:
        pass

    def release() -> None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # processes of a loader may have it too
        os.close(descriptor)

    return release
