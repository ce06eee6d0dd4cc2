"""Memory that a training frees and asks for again a moment later, kept in the process meanwhile (glibc on Linux).

Every batch frees its activations and the next one asks for as much. By its defaults glibc gives large blocks, and what
is free at the end of the heap, back to the system each time; the pages that the next batch touches must then be mapped
and zeroed anew, a tenth to a third of the time of a training on the CPU. A network whose widths change as it trains
falls in and out of it from one cut to the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import sys
from collections.abc import Callable, Iterator

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # options of mallopt(3)
NEVER = 2**31 - 1
LARGEST, LARGEST_BEFORE = 1 << 30, 32 << 20  # bytes; the second is what glibc before 2.35 takes
USUAL_TRIM, USUAL_MMAP = 64 << 20, 32 << 20  # where glibc's own thresholds end up once large blocks were freed


@contextlib.contextmanager
def freed_memory_kept(device: torch.device, over: Callable[[], bool]) -> Iterator[None]:
    """Within, and from then on until a use of this ends that is `over` or fails, freed memory stays in the process.

    Then all that is free goes back, and so does what is freed later. Nothing happens on other devices than the CPU,
    with another C library, or where the environment tunes it (``MALLOC_...``, ``GLIBC_TUNABLES``).
    """
    library = None if device.type != "cpu" or _tuned() else _glibc()
    if library is None:
        yield
        return
    # The larger threshold first: once one of them is set, glibc no longer moves the other by itself.
    if not library.mallopt(MMAP_THRESHOLD, LARGEST):
        library.mallopt(MMAP_THRESHOLD, LARGEST_BEFORE)
    library.mallopt(TRIM_THRESHOLD, NEVER)
    goes_on = False
    try:
        yield
        goes_on = not over()
    finally:
        if not goes_on:
            library.mallopt(TRIM_THRESHOLD, USUAL_TRIM)
            library.mallopt(MMAP_THRESHOLD, USUAL_MMAP)
            library.malloc_trim(0)


def _tuned() -> bool:
    return any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, where it is glibc."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    library.mallopt.argtypes, library.mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    library.malloc_trim.argtypes, library.malloc_trim.restype = [ctypes.c_size_t], ctypes.c_int
    return library
