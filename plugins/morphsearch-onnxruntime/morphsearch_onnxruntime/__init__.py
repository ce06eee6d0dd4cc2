"""ONNX Runtime for morphsearch: the latency backend ``onnxruntime`` and the command ``onnx-check``.

This module is imported whenever morphsearch looks its plugins up, so it imports neither torch nor ONNX Runtime: the
factories below do.
"""

from __future__ import annotations

from typing import Any

import morphsearch
from morphsearch.types import CommandRecord, LatencyBackendRecord


def _backend() -> Any:
    from morphsearch_onnxruntime.backend import OnnxRuntime

    return OnnxRuntime()


def _command() -> Any:
    from morphsearch_onnxruntime.command import command

    return command


@morphsearch.hookimpl
def morphsearch_latency_backends() -> list[LatencyBackendRecord]:
    """Called by morphsearch when a latency backend is first named."""
    return [LatencyBackendRecord("onnxruntime", "ONNX Runtime: convolutions with what follows fused in", _backend)]


@morphsearch.hookimpl
def morphsearch_commands() -> list[CommandRecord]:
    """Called by morphsearch when its command line starts."""
    return [CommandRecord("onnx-check", "Export a network to ONNX and compare its outputs in ONNX Runtime.", _command)]
