"""Devices, memory formats, denormal numbers, and Accelerate kept to ourselves."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from morphsearch.errors import UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator


class OwnAccelerator:
    """One :class:`accelerate.Accelerator` whose settings do not leak.

    Accelerate keeps device, precision and accumulation in process-wide singletons: a second Accelerator with another
    precision raises, and one with another accumulation changes the first. Here each trainer has singletons of its own,
    in place only within :meth:`entered`, so that trainers of different precision, and a user's own Accelerator, live
    side by side.

    Raises:
        UsageError: an unknown or absent device, or a launch with several processes.
    """

    def __init__(self, device: str, precision: str, accumulate: int) -> None:
        self._own: list[dict[str, Any]] = [{}, {}, {}]
        wanted = None if device == "auto" else check_device(device)
        with self._swapped(), _environment(wanted):
            from accelerate import Accelerator

            self.accelerator: Accelerator = Accelerator(
                cpu=wanted is not None and wanted.type == "cpu",
                mixed_precision="bf16" if precision == "bf16" else "no",
                gradient_accumulation_steps=accumulate,
            )
            self.device: torch.device = self.accelerator.device
            if self.accelerator.num_processes > 1:
                raise UsageError(
                    f"training was launched with {self.accelerator.num_processes} processes",
                    "a training runs in one process",
                    "start it without a distributed launcher; retrainings run side by side as processes of their own",
                )

    @contextlib.contextmanager
    def entered(self) -> Iterator[Accelerator]:
        """The accelerator, with its settings in place."""
        with self._swapped():
            yield self.accelerator

    @contextlib.contextmanager
    def _swapped(self) -> Iterator[None]:
        from accelerate.state import AcceleratorState, GradientState, PartialState

        shared = [PartialState._shared_state, AcceleratorState._shared_state, GradientState._shared_state]
        outer = [dict(state) for state in shared]
        _refill(shared, self._own)
        try:
            yield
        finally:
            self._own = [dict(state) for state in shared]
            _refill(shared, outer)


def check_device(device: str) -> torch.device:
    """The torch device of that name.

    Raises:
        UsageError: torch does not know the name, or this machine does not have the device.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"device {device!r} cannot be used: {reason}",
            "a device is auto, cpu, or an accelerator that torch finds here (cuda, cuda:1, mps)",
            "use --device auto (device='auto'), or install a build of torch for your accelerator",
        ) from error
    return found


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lies; the CPU for a model with neither."""
    for tensor in [*model.parameters(), *model.buffers()]:
        return tensor.device
    return torch.device("cpu")


def is_channels_last(model: nn.Module) -> bool:
    """Whether some convolution weight of the model lies in channels-last order (and in no other)."""
    return any(
        parameter.ndim == 4
        and parameter.is_contiguous(memory_format=torch.channels_last)
        and not parameter.is_contiguous()
        for parameter in model.parameters()
    )


def lay_out_channels_last(model: nn.Module) -> None:
    """Put the model's four-dimensional parameters into channels-last order; they stay the same Parameters."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def in_format(images: Tensor, channels_last: bool) -> Tensor:
    """`images` (`n x c x h x w`, or any other shape, left alone) in channels-last order where asked for."""
    if channels_last and images.ndim == 4:
        return images.contiguous(memory_format=torch.channels_last)
    return images


def synchronize(device: torch.device) -> None:
    """Wait for the device's queue, where it has one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextlib.contextmanager
def flush_denormals() -> Iterator[None]:
    """Within, the CPU takes denormal numbers as zero; restored afterwards.

    Weights and optimizer state of dead units decay into denormals (below 1.2e-38), which slow CPU training several
    times. torch sets the mode of the calling thread only, and threads of the OpenMP pool keep the mode that they were
    born with; so the pool is dissolved, and the next parallel operation starts one anew (0.1 ms).
    """
    before = _flushes()
    if before or not torch.set_flush_denormal(True):
        yield
        return
    _dissolve_pool()
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        _dissolve_pool()


def _flushes() -> bool:
    return bool((torch.full((1,), 1e-30) * 1e-10).item() == 0.0)


def _dissolve_pool() -> None:
    library = _openmp()
    if library is not None and torch.get_num_threads() > 1:
        library.omp_pause_resource_all(1)  # 1: omp_pause_soft (OpenMP 5.0, section 3.2.44)


@functools.cache
def _openmp() -> ctypes.CDLL | None:
    """The GNU OpenMP runtime that this process's torch uses; None with another runtime, or where it cannot be told."""
    maps = Path("/proc/self/maps")
    with contextlib.suppress(OSError, AttributeError):
        paths = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
        beside_torch = [path for path in paths if Path(path).is_relative_to(Path(torch.__file__).parent)]
        for path in beside_torch or sorted(paths)[:1]:
            library = ctypes.CDLL(path)
            library.omp_pause_resource_all.argtypes = [ctypes.c_int]
            return library
    return None


@contextlib.contextmanager
def _environment(device: torch.device | None) -> Iterator[None]:
    """ACCELERATE_TORCH_DEVICE is Accelerate's way to choose one device of several."""
    name = "ACCELERATE_TORCH_DEVICE"
    before = os.environ.get(name)
    if device is not None and device.type != "cpu":
        os.environ[name] = str(device)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _refill(shared: list[dict[str, Any]], contents: list[dict[str, Any]]) -> None:
    for state, content in zip(shared, contents, strict=True):
        state.clear()
        state.update(content)
