"""The check of exported networks: PyTorch and ONNX Runtime on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch.errors import InputError
from morphsearch.exporting.comparing import error as relative_error
from morphsearch.exporting.comparing import tensors
from morphsearch_onnxruntime import sessions

TOLERANCE = 1e-4  # of the largest output, in float32: both add in another order


@dataclass(frozen=True)
class Check:
    """The largest difference over the largest output, of so many `outputs`."""

    error: float
    outputs: int
    tolerance: float = TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def check(model: nn.Module, example_inputs: Tensor | Sequence[Tensor], *, threads: int = 1, trials: int = 3) -> Check:
    """Export `model` in evaluation mode and compare its outputs on random inputs of the shapes of the examples.

    Raises:
        InputError: it cannot be exported, or computes something else in ONNX Runtime.
    """
    given = [example_inputs] if isinstance(example_inputs, Tensor) else list(example_inputs)
    model.eval()
    opened = sessions.session(sessions.export(model, given), threads=threads)
    generator = torch.Generator().manual_seed(0)
    worst, count = 0.0, 0
    for _ in range(trials):
        drawn = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in given]
        with torch.no_grad():
            expected = tensors(model(*drawn))
        found = [torch.from_numpy(array) for array in opened.run(None, sessions.feed(opened, drawn))]
        worst, count = max(worst, relative_error(expected, found)), len(expected)
    if not worst <= TOLERANCE:
        raise InputError(
            f"the exported network computes something else: the largest relative error is {worst:.2g}",
            f"outputs must agree to {TOLERANCE:.0e} of the largest",
            "report it with the network; `morphsearch export --format onnx` uses another exporter, which may do better",
        )
    return Check(worst, count)
