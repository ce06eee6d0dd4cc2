"""The exporter ``onnx``: a file for ONNX Runtime and other engines."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from morphsearch.errors import InputError, UsageError
from morphsearch.exporting.comparing import tensors
from morphsearch.exporting.programs import Program, quietly
from morphsearch.files import atomic_path

NEEDED = ("onnx", "onnxscript")
LARGEST = 2**31 - 2**20  # bytes: a protobuf holds no more


class OnnxExporter:
    """The network in evaluation mode as ONNX, weights included."""

    suffix = ".onnx"

    def export(
        self, architecture: Any, destination: Any, *, weights: Any = None, allow_code: bool = False
    ) -> Sequence[str]:
        """Write `architecture` to the path `destination`, run and compared first by ONNX Runtime, if that is there.

        Returns:
            What the user should know.

        Raises:
            UsageError: packages are missing. InputError: the network cannot be exported, or does not compute the same.
        """
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            raise UsageError(
                f"the format onnx needs {' and '.join(missing)}",
                "torch.onnx makes its files with them",
                'install them: pip install "morphsearch[onnx]" (or pip install onnx onnxscript onnxruntime)',
            )
        program = Program(architecture, weights, allow_code)
        size = sum(tensor.numel() * tensor.element_size() for tensor in program.model.state_dict().values())
        if size > LARGEST:
            raise InputError(
                f"the weights take {size / 2**30:.1f} GiB", "an ONNX file holds up to 2 GiB", "export it as pt2"
            )

        def export(model: nn.Module, args: Any, kwargs: Any, shapes: Any) -> bytes:
            made = torch.onnx.export(
                model, args, kwargs=kwargs, dynamic_shapes=shapes, dynamo=True, verbose=False, external_data=False
            )
            assert made is not None
            data: bytes = made.model_proto.SerializeToString()
            return data

        data, open_batch, notes = program.attempt(export)
        if find_spec("onnxruntime") is None:
            notes.append("unchecked: ONNX Runtime is not installed (pip install onnxruntime)")
        else:
            program.check(_runner(data), open_batch)
        with atomic_path(Path(destination)) as temporary:
            temporary.write_bytes(data)
        return notes


def _runner(data: bytes) -> Any:
    """A function that runs an ONNX file in ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    with quietly():
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(args: Any, kwargs: Any) -> list[torch.Tensor]:
        given = tensors([*args, *kwargs.values()])
        return [
            torch.from_numpy(array)
            for array in session.run(None, {n: v.numpy() for n, v in zip(names, given, strict=True)})
        ]

    return run
