"""Denormals, executors, interruptions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from morphsearch.training import LocalExecutor, deferred_interrupts, flush_denormals
from morphsearch.types import Executor

FLUSHED_SHARE = """
import torch
from morphsearch.training import flush_denormals

def share():
    values = torch.full((1 << 20,), 713623, dtype=torch.int32).view(torch.float32)  # 1e-39
    return ((values * 1.0).view(torch.int32) == 0).sum().item() / (1 << 20)

torch.set_num_threads(2)
first = share()
with flush_denormals():
    inside = share()
    with flush_denormals():
        pass
    after_nested = share()
print(first, inside, after_nested, share())
"""


def test_denormals_are_flushed_within_and_restored() -> None:
    def flushed() -> bool:
        return bool((torch.tensor([713623], dtype=torch.int32).view(torch.float32) * 1.0).view(torch.int32) == 0)

    assert not flushed()
    with flush_denormals():
        assert flushed()
    assert not flushed()


@pytest.mark.skipif(sys.platform != "linux", reason="the threads of other OpenMP runtimes are left alone")
def test_denormals_are_flushed_in_every_thread() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", FLUSHED_SHARE], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0.0", "1.0", "1.0", "0.0"]


def test_local_executor_runs_in_order_and_lets_errors_pass() -> None:
    executor: Executor = LocalExecutor()
    done: list[int] = []

    def task(number: int) -> int:
        done.append(number)
        return number * 10

    def fail() -> int:
        raise ValueError("no")

    assert list(executor.run([lambda: task(1), lambda: task(2)])) == [(0, 10), (1, 20)]
    with pytest.raises(ValueError, match="no"):
        list(executor.run([lambda: task(3), fail, lambda: task(4)]))
    assert done == [1, 2, 3]


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
def test_first_signal_waits_second_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupts() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        interrupt.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_are_left_alone() -> None:
    def body() -> None:
        with deferred_interrupts() as interrupt:
            interrupt.check()

    thread = threading.Thread(target=body)
    before = signal.getsignal(signal.SIGINT)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
