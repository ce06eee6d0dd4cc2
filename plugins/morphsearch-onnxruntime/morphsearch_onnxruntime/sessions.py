"""From a network to ONNX, and from ONNX to a session of ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch.errors import InputError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def require() -> Any:
    """The module ``onnxruntime``.

    Raises:
        InputError: it, or what exporting needs, is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"ONNX Runtime cannot be used: {error}",
            "this backend exports networks to ONNX and runs them in ONNX Runtime",
            "pip install onnx onnxruntime onnxscript (onnxruntime-gpu for CUDA)",
        ) from error
    return onnxruntime


def export(model: nn.Module, inputs: Sequence[Tensor]) -> bytes:
    """`model` in evaluation mode as ONNX, for inputs of exactly these shapes.

    Raises:
        InputError: it cannot be exported.
    """
    names = [f"input_{number}" for number in range(len(inputs))]
    last: Exception | None = None
    # The exporter of old is ten times faster and has no equal yet for timing hundreds of variants; where it fails or
    # is gone, the new one exports.
    for exporter in (_traced, _captured):
        try:
            with _quietly():
                return exporter(model.eval(), tuple(inputs), names)
        except Exception as error:
            last = error
    lines = str(last).strip().splitlines() or [repr(last)]
    raise InputError(
        f"the network cannot be exported to ONNX: {lines[0][:200]}",
        "ONNX Runtime runs what torch.onnx exports",
        "see `morphsearch export --format onnx`; or measure it with --backend eager",
    ) from last


def _traced(model: nn.Module, inputs: tuple[Tensor, ...], names: list[str]) -> bytes:
    buffer = io.BytesIO()
    torch.onnx.export(model, inputs, buffer, dynamo=False, input_names=names)
    return buffer.getvalue()


def _captured(model: nn.Module, inputs: tuple[Tensor, ...], names: list[str]) -> bytes:
    made = torch.onnx.export(model, inputs, dynamo=True, input_names=names, verbose=False)
    assert made is not None
    return bytes(made.model_proto.SerializeToString())


def session(model: bytes, *, threads: int, device: str = "cpu", profile: Path | None = None) -> Any:
    """A session with all optimizations.

    Args:
        threads: of one operation. profile: prefix of the file that a profile is written to.
    """
    onnxruntime = require()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return onnxruntime.InferenceSession(model, options, providers=[PROVIDERS[device.split(":")[0]]])


def feed(opened: Any, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """Inputs by the names that a session gives them."""
    return {entry.name: value.cpu().numpy() for entry, value in zip(opened.get_inputs(), inputs, strict=True)}


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A folder for a profile."""
    with tempfile.TemporaryDirectory(prefix="morphsearch-ort-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporters' warnings and talk."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
