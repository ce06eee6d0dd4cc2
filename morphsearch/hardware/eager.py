"""The backend ``eager``: PyTorch as it is, one operation after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from morphsearch.hardware import queued
from morphsearch.hardware.kinds import BIAS, canonical
from morphsearch.hardware.settings import Settings
from morphsearch.hardware.timing import settled
from morphsearch.types import Observation

TRANSPOSED = 6  # place of the argument of aten::convolution


def synchronise(device: torch.device) -> Callable[[], None]:
    """A function that waits until the device is done; nothing to wait for on a CPU."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


class Eager:
    """PyTorch without a compiler."""

    name = "eager"
    into_weights: frozenset[str] = frozenset()
    into_pointwise: frozenset[str] = frozenset()

    def again(self, settings: Settings) -> Mapping[str, float]:
        """cuDNN's convolutions leave the bias to a pass of its own, PyTorch's, channel by channel, and oneDNN's not."""
        return {BIAS: 1.0} if settings.device.startswith("cuda") else {}

    def check(self, settings: Settings) -> None:
        """The device must be there."""
        settings.require_device()

    def versions(self) -> Mapping[str, str]:
        """Nothing but torch's."""
        return {}

    def prepare(self, model: nn.Module, inputs: Sequence[Tensor], settings: Settings) -> Callable[[], Any]:
        """A forward pass in inference mode."""
        wait = synchronise(settings.require_device())

        def run() -> Any:
            with torch.inference_mode():
                outputs = model(*inputs)
            wait()
            return outputs

        return run

    def observe(
        self, model: nn.Module, inputs: Sequence[Tensor], settings: Settings, repeats: int
    ) -> Sequence[Observation]:
        """Time what PyTorch's dispatcher is given, in place, in `repeats` passes after two that warm up."""
        device = settings.require_device()
        if device.type == "cuda":
            return queued.observe(model, inputs, device, repeats, _described)
        wait, waits = synchronise(device), device.type != "cpu"
        passes: list[list[float]] = []
        first = _Clock(wait, waits=waits, describe=True)
        for number in range(repeats + 2):
            clock = first if number == 0 else _Clock(wait, waits=waits)
            with torch.inference_mode(), clock:
                model(*inputs)
            if number > 1 and len(clock.seconds) == len(first.calls):
                passes.append(clock.seconds)
        return [
            replace(call, seconds=tuple(times))
            for call, times in zip(first.calls, zip(*passes, strict=True), strict=True)
        ]


class _Clock(TorchDispatchMode):
    """Times every call of the dispatcher, and writes down shapes where it shall `describe`."""

    def __init__(self, wait: Callable[[], None], *, waits: bool, describe: bool = False) -> None:
        super().__init__()
        self.wait, self.waits, self.describe = wait, waits, describe
        self.seconds: list[float] = []
        self.calls: list[Observation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        used, start = time.process_time(), time.perf_counter()
        out = func(*args, **kwargs)
        self.wait()
        seconds, used = time.perf_counter() - start, time.process_time() - used
        self.seconds.append(seconds if self.waits else settled(seconds, used)[0])
        if self.describe:
            self.calls.append(_described(func, args, out))
        return out


def _described(func: Any, args: Any, out: Any) -> Observation:
    """A call, without how long it took."""
    kind = canonical(str(func._schema.name))
    outputs = _shapes(out)
    if kind in ("conv", "conv_transpose") and len(args) > 1:
        groups = next((arg for arg in reversed(args) if isinstance(arg, int) and not isinstance(arg, bool)), 1)
        if func._schema.name == "aten::convolution" and len(args) > TRANSPOSED and args[TRANSPOSED]:
            kind = "conv_transpose"
        again = float(prod(outputs[0])) if _adds_a_bias(args, int(groups)) else 0.0
        return Observation(kind, (tuple(args[0].shape),), outputs, (), tuple(args[1].shape), int(groups), again=again)
    if kind == "linear":
        x, weight = (args[1], args[2]) if func._schema.name == "aten::addmm" else (args[0], args[1])
        return Observation(kind, (tuple(x.shape),), outputs, (), tuple(weight.shape))
    if kind in ("batch_norm", "layer_norm", "group_norm", "max_pool"):
        return Observation(kind, _shapes(args[:1]), outputs[:1], ())
    return Observation(kind, _shapes(args), outputs, ())


def _adds_a_bias(args: Any, groups: int) -> bool:
    """Whether a convolution is followed by a pass that adds its bias, see :meth:`Eager.again`."""
    x, bias = args[0], args[2] if len(args) > 2 else None
    return bool(x.is_cuda) and bias is not None and (groups == 1 or groups != x.shape[1])


def _shapes(values: Any) -> tuple[tuple[int, ...], ...]:
    if isinstance(values, Tensor):
        return (tuple(values.shape),)
    if isinstance(values, list | tuple):
        return tuple(shape for value in values for shape in _shapes(value))
    return ()
