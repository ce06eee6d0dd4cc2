"""The latency backend: whole passes by a session, single operations by ONNX Runtime's own profile of a running one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from morphsearch.errors import InputError
from morphsearch.hardware.timing import once
from morphsearch.types import Observation
from morphsearch_onnxruntime import sessions
from morphsearch_onnxruntime.nodes import WARMUP, observations

# What ONNX Runtime's optimizer makes part of a convolution or a matrix product before it.
FUSED = frozenset(("batch_norm", "relu", "hardtanh", "sigmoid", "tanh", "leaky_relu", "hardsigmoid", "add"))
# Of these, what its kernels do not do while they sum up, but in a pass of its own, which takes so long beside a clip:
# by the least times of a 1x1 convolution from 16 to 96 channels at 48 x 48 positions, where a clip takes 17 us. A clip
# from below alone, which is what relu is, costs nothing.
AGAIN = {"hardtanh": 1.0, "hardsigmoid": 1.6, "leaky_relu": 2.5, "tanh": 2.7, "sigmoid": 2.9}


class OnnxRuntime:
    """ONNX Runtime on the CPU, or on CUDA with ``onnxruntime-gpu``."""

    name = "onnxruntime"
    into_weights = FUSED
    into_pointwise: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[nn.Module, tuple[list[tuple[int, ...]], bytes]] = WeakKeyDictionary()

    def _exported(self, model: nn.Module, inputs: Sequence[Tensor]) -> bytes:
        """`model` as ONNX; what is timed and watched is exported once."""
        shapes = [tuple(value.shape) for value in inputs]
        known = self._made.get(model)
        if known is None or known[0] != shapes:
            known = self._made[model] = (shapes, sessions.export(model, inputs))
        return known[1]

    def again(self, settings: Any) -> Mapping[str, float]:
        """Prices of what goes over results again, on the CPU."""
        return AGAIN if settings.device == "cpu" else {}

    def check(self, settings: Any) -> None:
        """Raise InputError where ONNX Runtime, or its provider for the device, is not installed."""
        onnxruntime = sessions.require()
        kind = settings.device.split(":")[0]
        provider = sessions.PROVIDERS.get(kind)
        if provider not in onnxruntime.get_available_providers():
            raise InputError(
                f"ONNX Runtime does not run on {settings.device!r} here",
                f"it has {', '.join(onnxruntime.get_available_providers())}",
                "pip install onnxruntime-gpu, or use --device cpu",
            )
        if settings.dtype == "bfloat16" and kind == "cpu":
            raise InputError(
                "dtype bfloat16 in ONNX Runtime on the CPU", "it has no convolutions for it", "use --dtype float32"
            )

    def versions(self) -> Mapping[str, str]:
        """Of ONNX Runtime."""
        return {"onnxruntime": str(sessions.require().__version__)}

    def prepare(self, model: nn.Module, inputs: Sequence[Tensor], settings: Any) -> Callable[[], Any]:
        """A forward pass of the exported network."""
        made = self._exported(model, inputs)
        opened = sessions.session(made, threads=settings.threads, device=settings.device)
        given = sessions.feed(opened, inputs)
        return lambda: opened.run(None, given)

    def observe(self, model: nn.Module, inputs: Sequence[Tensor], settings: Any, repeats: int) -> Sequence[Observation]:
        """Time every node of the optimized graph, in place, in `repeats` passes after two that warm up."""
        made = self._exported(model, inputs)
        with sessions.workspace() as folder:
            opened = sessions.session(
                made, threads=settings.threads, device=settings.device, profile=folder / "profile"
            )
            given = sessions.feed(opened, inputs)
            waited = [once(lambda: opened.run(None, given))[1] for _ in range(repeats + WARMUP)]
            return observations(made, opened.end_profiling(), waited[WARMUP:], self.again(settings))
