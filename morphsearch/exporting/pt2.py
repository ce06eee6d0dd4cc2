"""The exporter ``pt2``: a program of ``torch.export``, which ``torch.export.load`` reads."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from morphsearch.exporting.programs import Program, quietly
from morphsearch.files import atomic_path


class Pt2Exporter:
    """The network in evaluation mode as a graph of ATen operations, weights included."""

    suffix = ".pt2"

    def export(
        self, architecture: Any, destination: Any, *, weights: Any = None, allow_code: bool = False
    ) -> Sequence[str]:
        """Write `architecture` to the path `destination`; it is read back and compared before it is put there.

        Returns:
            What the user should know.

        Raises:
            InputError: ``torch.export`` cannot follow the network, or what it makes does not compute the same.
        """
        program = Program(architecture, weights, allow_code)

        def export(model: nn.Module, args: Any, kwargs: Any, shapes: Any) -> bytes:
            made = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
            buffer = io.BytesIO()
            torch.export.save(made, buffer)
            torch.export.load(io.BytesIO(buffer.getvalue()))  # not all that is saved can be read back
            return buffer.getvalue()

        data, open_batch, notes = program.attempt(export)
        with quietly():
            loaded = torch.export.load(io.BytesIO(data)).module()
        program.check(lambda args, kwargs: loaded(*args, **kwargs), open_batch)
        with atomic_path(Path(destination)) as temporary:
            temporary.write_bytes(data)
        return notes
