"""Memory stays with the process while networks are timed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, torch
from morphsearch.hardware.measure import Session
from morphsearch.hardware.settings import Settings

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

torch.set_num_threads(1)
if {measured}:
    Session(Settings())
for number in range(8):
    start = faults()
    x = torch.ones(1 << 20)
    for _ in range(6):  # 4 MiB each, some of them at once, as the activations of a network are
        y = torch.relu(x)
        x = x + y
    del x, y
print(faults() - start)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other thresholds")
def test_no_pass_takes_its_pages_anew() -> None:
    def run(measured: bool) -> int:
        code = CODE.format(measured=measured)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert run(True) < 100 < run(False)
