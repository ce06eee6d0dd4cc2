"""FLOPs, one per multiply-add, equal operation by operation to ``fvcore.nn.FlopCountAnalysis``.

Source of the formulas: ``fvcore/nn/jit_handles.py`` and ``fvcore/nn/flop_count.py``. Counted are convolutions,
transposed convolutions, linear layers, matrix products, norms, bilinear and nearest upsampling, grid sampling and
adaptive average pooling; the kinds of all other operations that compute something are named as uncounted.

Three things that fvcore misses are counted here like their equals: convolutions whose padding is the word "same" or
"valid" (another operation to its tracer); attention in one call (``scaled_dot_product_attention``) as its two matrix
products; and einsum exactly (fvcore reads most of them from a text of four digits), as the matrix products that torch
runs.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

from morphsearch.costs.base import LayerwiseCost
from morphsearch.costs.polynomial import Polynomial
from morphsearch.costs.sizes import elements
from morphsearch.graph.extent import Extent

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph, Operation, TensorShape


class FlopsCost(LayerwiseCost):
    """FLOPs of one image in evaluation mode."""

    name = "flops"
    unit = "FLOPs"
    whole = True
    per_image = True

    def price(self, op: Operation, graph: ConvGraph) -> Polynomial | None:
        """FLOPs of `op`, or None where fvcore does not count its kind."""
        return flops_of(op)


def flops_of(op: Operation) -> Polynomial | None:
    """FLOPs of one operation over the batch that was recorded, or None where its kind is not counted."""
    formula = _FORMULAS.get(op.kind)
    return formula(op) if formula else None


def weights_of(op: Operation) -> Polynomial:
    """Elements of the weight of a convolution or linear layer: rows x columns x kernel; nothing for other kinds."""
    kernel = prod(op.attrs.get("kernel", ()))
    if op.rows is not None and op.columns is not None:
        return Polynomial.product(op.rows, op.columns, kernel)
    if op.kind in ("conv", "conv_transpose"):
        if op.attrs.get("per_element"):  # one kernel for all channels, or one that slides over them
            spread: float = op.attrs["batch"] * prod(op.attrs["output_spatial"])
            return Polynomial.of(op.outputs[0].numel) * float(kernel / spread)
        # The weight is computed from data, so the graph holds all its sizes fixed.
        channel = -len(op.attrs["output_spatial"]) - 1
        pairs = op.inputs[0].shape[channel] * op.outputs[0].shape[channel] // op.attrs["groups"]
        return Polynomial.constant(pairs * kernel)
    if op.kind == "linear":
        return Polynomial.constant(op.inputs[0].shape[-1] * op.outputs[0].shape[-1])
    return Polynomial()


def elements_of(op: Operation) -> Polynomial:
    """Elements that one operation reads and writes, weights aside, over the batch that was recorded."""
    return sum((elements(shape) for shape in (*op.inputs, *op.outputs)), Polynomial())


def _conv(op: Operation) -> Polynomial:
    if op.columns is not None and not op.columns.coefficients:
        # Units may lie along its positions, too (one kind of channels beside another, or stacked where channels were).
        taps = prod(op.attrs["kernel"]) * op.columns.const * op.attrs.get("products", 1)
        return elements(op.outputs[0]) * float(taps)
    return weights_of(op) * float(op.attrs["batch"] * prod(op.attrs["output_spatial"]) * op.attrs.get("products", 1))


def _conv_transpose(op: Operation) -> Polynomial:
    return weights_of(op) * float(op.attrs["batch"] * prod(op.attrs["input_spatial"]) * op.attrs.get("products", 1))


def _linear(op: Operation) -> Polynomial:
    return Polynomial.product(op.inputs[0].numel, op.outputs[0].shape[-1] if op.rows is None else op.rows)


def _norm(factor: int, affine: int) -> Callable[[Operation], Polynomial]:
    """`factor` for each element, `affine` with scale and shift. A batch norm that keeps no statistics computes them."""

    def formula(op: Operation) -> Polynomial:
        computes = op.kind == "batch_norm" and "running_mean" not in op.parameters
        plain, scaled = (4, 5) if computes else (factor, affine)
        if op.rows is not None:  # of a weight (standardisation)
            return weights_of(op) * float(5 if op.attrs["affine"] else 4)
        return elements(op.inputs[0]) * float(scaled if op.attrs.get("affine", True) else plain)

    return formula


def _per_output(factor: int) -> Callable[[Operation], Polynomial]:
    return lambda op: elements(op.outputs[0]) * float(factor)


def _per_input(factor: int) -> Callable[[Operation], Polynomial]:
    return lambda op: elements(op.inputs[0]) * float(factor)


def _matmul(op: Operation) -> Polynomial | None:
    """``numel(first) * (last dimension of second)``."""
    first, second = op.inputs[:2]
    if len(second.shape) < 2:
        return None
    return _contraction(first, second, op.outputs[0], shared=prod(second.shape[:-1]))


def _contraction(first: TensorShape, second: TensorShape, output: TensorShape, shared: int) -> Polynomial:
    """``numel(first)`` times what of `second` is its own; `shared` elements of it are also in `first`.

    The sizes tell which dimension depends on the widths: a contracted one changes both inputs and not the output, a
    batch dimension changes all three in proportion, and otherwise each input has its own. Where one is an outer
    product, as the context of linear attention, the dimension that is not contracted has labels of its own; where the
    result is one, what is contracted does not depend on the widths.
    """
    if second.outer:
        return Polynomial.product(first.numel, second.size(-1))
    if first.outer:
        return Polynomial.product(second.numel, first.size(-2))
    if output.outer:
        return Polynomial.product(first.numel, output.size(-1))
    own = prod(second.shape) // max(shared, 1)
    if not output.numel.coefficients or not second.numel.coefficients:
        return Polynomial.product(first.numel, float(own))
    if first.numel.coefficients and _proportional(first.numel, output.numel, second.numel):
        return Polynomial.product(first.numel, float(own))
    return Polynomial.product(first.numel, second.numel, 1 / max(shared, 1))


def _proportional(*sizes: Extent) -> bool:
    def shares(size: Extent) -> dict[int, float]:
        scale = size.const + sum(abs(c) for c in size.coefficients.values())
        return {group: round(c / scale, 12) for group, c in size.coefficients.items()}

    return all(shares(size) == shares(sizes[0]) for size in sizes[1:])


def _mixture(op: Operation) -> Polynomial:
    """A product of the weights that data gives to kernels with the bank that holds these."""
    return elements(op.outputs[0]) * float(op.attrs["kernels"])


_FORMULAS: dict[str, Callable[[Operation], Polynomial | None]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "mixture": _mixture,
    "matmul": _matmul,
    "mm": _matmul,
    "bmm": _matmul,
    "batch_norm": _norm(1, 2),
    "layer_norm": _norm(4, 5),
    "group_norm": _norm(4, 5),
    "instance_norm": _norm(4, 5),
    "adaptive_avg_pool2d": _per_input(1),
    "_adaptive_avg_pool2d": _per_input(1),
    "upsample_nearest2d": _per_output(1),
    "upsample_bilinear2d": _per_output(4),
    "grid_sampler": _per_output(4),
    "grid_sampler_2d": _per_output(4),
    "grid_sampler_3d": _per_output(4),
}

COUNTED = frozenset(_FORMULAS)
