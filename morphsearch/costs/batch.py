"""How many images the example inputs are, by which costs of one image are divided."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from morphsearch.graph.recording import as_arguments
from morphsearch.graph.tape import RawOperation
from morphsearch.graph.tensors import tensors_in

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph


def batch_size(graph: ConvGraph) -> int:
    """Images in the example inputs.

    The first tensor of two dimensions or more has them in dimension 0, where all outputs have as many there, and all
    inputs of three dimensions or more (others may be masks or tables). Where they have not (points that are scattered
    into one image, one image without a batch), the example inputs are one image as a whole.
    """
    first = first_size(graph)
    if first == 1:
        return 1
    inputs = _input_shapes(graph)
    ran = graph.tape.operations[: graph.evaluated]
    outputs = [op.inputs[0].shape for op in ran if op.kind == "output"]
    shared = [shape for shape in inputs if len(shape) > 2] + [shape for shape in outputs if shape]
    if any(shape[0] != first for shape in shared) or _unbatched(ran, inputs[0], first):
        return 1
    return first


def first_size(graph: ConvGraph) -> int:
    """Dimension 0 of the first input of two dimensions or more, or of the first of one; 1 without either."""
    shapes = _input_shapes(graph)
    return shapes[0][0] if shapes else 1


def _input_shapes(graph: ConvGraph) -> list[tuple[int, ...]]:
    """Shapes of the example inputs, those of one dimension last."""
    shapes = [shape for shape in _shapes(as_arguments(graph.example_inputs)) if shape]
    return sorted(shapes, key=lambda shape: len(shape) == 1)


def _shapes(inputs: Any) -> Iterator[tuple[int, ...]]:
    return (tuple(tensor.shape) for tensor in tensors_in(inputs))


def _unbatched(ran: list[RawOperation], first: tuple[int, ...], size: int) -> bool:
    """The first input is one image ``c x h x w`` whose channels stand where a batch would."""
    convolutions = [op for op in ran if op.kind in ("conv", "conv_transpose")]
    without = [op for op in convolutions if len(op.attrs["kernel"]) + 1 == len(first)]
    if any(len(op.inputs[0].shape) == len(first) for op in without):
        return True
    return bool(without) and not any(op.attrs["batch"] % size == 0 for op in convolutions)
