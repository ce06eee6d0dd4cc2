"""Memory that one batch frees and the next one asks for again."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone"
)

PRELUDE = """
import resource, torch
from morphsearch.training.memory import freed_memory_kept

cpu = torch.device("cpu")

def mapped_anew():
    "MiB of pages that asking for 64 MiB costs, once the heap has grown into a shape that may serve it."
    costs = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = torch.ones(16 << 20)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        del block
        costs.append(round(faults * resource.getpagesize() / 2**20))
    return min(costs)

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
"""

KEPT = """
print(mapped_anew())
with freed_memory_kept(cpu, lambda: False):
    print(mapped_anew())
print(mapped_anew())
full = held()
with freed_memory_kept(cpu, lambda: True):
    print(mapped_anew())
print(full - held() > 50)
"""

FAILED = """
try:
    with freed_memory_kept(cpu, lambda: False):
        print(mapped_anew())
        full = held()
        raise KeyboardInterrupt
except KeyboardInterrupt:
    print(full - held() > 50)
"""

TRAINED = """
from torch import nn
from morphsearch.data import load
from morphsearch.training import Recipe, Trainer

data = load("digits")
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))
trainer = Trainer(model, data, Recipe(epochs=2, device="cpu", precision="fp32", channels_last=False))
while not trainer.finished:
    trainer.train_epoch(on_batch=lambda trainer: trainer.stop() if trainer.batch == 3 else None)
    if not trainer.finished:
        print(mapped_anew())
        full = held()
print(full - held() > 50)
"""


def printed(code: str, **environment: str) -> list[str]:
    """What a process of its own prints: its thresholds are moved, and how full its heap is counts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_freed_memory_stays_until_a_training_is_over() -> None:
    before, within, between, again, released = printed(KEPT)
    assert int(before) >= 60
    assert int(within) == int(between) == int(again) == 0
    assert released == "True"


def test_freed_memory_goes_back_where_a_training_fails() -> None:
    within, released = printed(FAILED)
    assert int(within) == 0
    assert released == "True"


def test_what_the_user_tuned_is_left_alone() -> None:
    assert int(printed(KEPT, MALLOC_MMAP_THRESHOLD_="33554432")[1]) >= 60
    assert int(printed(KEPT, GLIBC_TUNABLES="glibc.malloc.mmap_threshold=33554432")[1]) >= 60


def test_trainings_keep_it_from_batch_to_batch_and_give_it_back_in_the_end() -> None:
    *amid, released = printed(TRAINED)
    assert len(amid) == 3  # stopped in the first epoch, at the end of it, stopped in the second
    assert [int(mib) for mib in amid] == [0, 0, 0]
    assert released == "True"


def test_pages_are_counted_here() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(64 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt > before
    del block
