"""Built-in latency backends; that of ONNX Runtime is a plugin of its own, morphsearch-onnxruntime."""

from __future__ import annotations

from typing import Any

from morphsearch.hookspecs import hookimpl
from morphsearch.types import LatencyBackendRecord


def _eager() -> Any:
    from morphsearch.hardware.eager import Eager

    return Eager()


def _compile() -> Any:
    from morphsearch.hardware.compiled import Compiled

    return Compiled()


@hookimpl
def morphsearch_latency_backends() -> list[LatencyBackendRecord]:
    """``eager`` and ``compile``."""
    return [
        LatencyBackendRecord("eager", "PyTorch, one operation after another", _eager),
        LatencyBackendRecord("compile", "PyTorch through torch.compile", _compile),
    ]
