"""Memory stays with the process while networks are timed."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

CODE = """
import ctypes, torch
from morphsearch.hardware.measure import Session
from morphsearch.hardware.settings import Settings

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
torch.set_num_threads(1)
if {measured}:
    Session(Settings())
before = libc.mallinfo2().hblks
x = torch.ones(5 << 20)  # 20 MiB: larger than any block before
print(libc.mallinfo2().hblks - before)
"""


def mapped(measured: bool) -> int:
    """Blocks that the system had to map for a large activation, in a process of its own."""
    code = CODE.format(measured=measured)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(
    sys.platform == "win32" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="not glibc, or one that does not tell",
)
def test_activations_live_in_memory_that_the_process_keeps() -> None:
    """What the system maps is given back at once, and all of its pages are taken anew in the next pass."""
    assert mapped(measured=False) == 1
    assert mapped(measured=True) == 0
