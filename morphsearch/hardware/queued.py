"""Operations that the processor queues and a GPU runs: two clocks for each, as two things limit a network.

A GPU begins an operation when the one before is done and the processor has queued it. So a network of small operations
takes as long as queueing them, and one of large operations as long as the GPU works. Waiting for the GPU after every
operation would add both up, and the wait. Here the GPU is given something long to do first, so that all operations are
queued before the first of them begins: events between them then tell the GPU's own time, and the processor's clock what
queueing takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from morphsearch.types import Observation

if TYPE_CHECKING:
    from collections.abc import Mapping

SIDE = 4096  # of the matrices whose product keeps the GPU busy
ROOM = 1.5  # times as long as the network takes to be queued
WARMING, CALM = 2, 12  # passes before those that count; more of them tell nothing new, since a GPU's own time is steady

Described = Callable[[Any, Any, Any], Observation]


class _Clocks(TorchDispatchMode):
    """Marks the GPU's time before and after every call of the dispatcher, and times the call itself."""

    def __init__(self, describe: Described | None = None) -> None:
        super().__init__()
        self.describe = describe
        self.calls: list[Observation] = []
        self.issued: list[float] = []
        self.marks: list[torch.cuda.Event] = []

    def mark(self) -> None:
        """Note the moment on the GPU."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append(event)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        start = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        self.issued.append(time.perf_counter() - start)
        self.mark()
        if self.describe is not None:
            self.calls.append(self.describe(func, args, out))
        return out


def observe(
    model: nn.Module, inputs: Sequence[Tensor], device: torch.device, repeats: int, describe: Described
) -> Sequence[Observation]:
    """Time every call of PyTorch's dispatcher on a GPU, in at most `repeats` passes after two that warm up."""
    with torch.cuda.device(device), torch.inference_mode():
        first, seconds = _pass(model, inputs, None, describe)
        for _ in range(WARMING):
            _, seconds = _pass(model, inputs, None)
        busy = _Busy(device, ROOM * seconds)
        passes = [_pass(model, inputs, busy)[0] for _ in range(min(repeats, CALM))]
    passes = [one for one in passes if len(one.issued) == len(first.calls)]
    on_device = [
        [1e-3 * before.elapsed_time(after) for before, after in zip(one.marks[:-1], one.marks[1:], strict=True)]
        for one in passes
    ]
    issued = zip(*(one.issued for one in passes), strict=True)
    return [
        replace(call, seconds=times, issued=queueing)
        for call, times, queueing in zip(first.calls, zip(*on_device, strict=True), issued, strict=True)
    ]


def _pass(
    model: nn.Module, inputs: Sequence[Tensor], busy: _Busy | None, describe: Described | None = None
) -> tuple[_Clocks, float]:
    """A pass behind something that keeps the GPU `busy`; and the seconds until all of it was queued."""
    clocks = _Clocks(describe)
    torch.cuda.synchronize()
    if busy is not None:
        busy.begin()
    start = time.perf_counter()
    clocks.mark()
    with clocks:
        model(*inputs)
    seconds = time.perf_counter() - start
    torch.cuda.synchronize()
    return clocks, seconds


class _Busy:
    """Work for a GPU that takes about so many seconds."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._left = torch.zeros(SIDE, SIDE, device=device)
        self._out = torch.empty_like(self._left)
        self._count = 1
        self.begin()
        torch.cuda.synchronize()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        self.begin()
        end.record()
        torch.cuda.synchronize()
        self._count = max(1, round(seconds / max(1e-6, 1e-3 * start.elapsed_time(end)) + 0.5))

    def begin(self) -> None:
        """Queue it."""
        for _ in range(self._count):
            torch.mm(self._left, self._left, out=self._out)
