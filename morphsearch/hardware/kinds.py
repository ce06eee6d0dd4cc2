"""One name for an operation, whoever tells of it: the graph, PyTorch's dispatcher, a runtime.

A *family* is what a predictor is fitted to: all convolutions of one structure, or all operations of one kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from morphsearch.costs.kinds import MOVES

_SAME = {
    "conv": "convolution _convolution conv1d conv2d conv3d mkldnn_convolution cudnn_convolution",
    "conv_transpose": "conv_transpose1d conv_transpose2d conv_transpose3d",
    "linear": "addmm mm _linear",
    "matmul": "bmm baddbmm einsum mixture",
    "batch_norm": "native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm _batch_norm_with_update",
    "layer_norm": "native_layer_norm",
    "group_norm": "native_group_norm",
    "hardtanh": "relu6 clamp clip clamp_min",
    "softmax": "_softmax log_softmax _log_softmax",
    "prelu": "_prelu_kernel",
    "max_pool": "max_pool2d max_pool2d_with_indices max_pool1d max_pool3d max_pool3d_with_indices",
    "avg_pool": "avg_pool2d avg_pool1d avg_pool3d",
    "adaptive_pool": "adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool1d adaptive_max_pool2d",
    "add": "sub rsub add_relu",
    "mul": "div",
    "copy": "clone contiguous copy_ _to_copy constant_pad_nd pad reflection_pad2d replication_pad2d roll index "
    "index_select gather repeat repeat_interleave flip native_channel_shuffle channel_shuffle pixel_shuffle "
    "pixel_unshuffle index_put tensor_split_copy",
    "cat": "concat stack",
    "upsample": "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d",
}
_CANONICAL = {other: kind for kind, others in _SAME.items() for other in others.split()}

POINTWISE = frozenset(
    """
    add mul relu hardtanh silu sigmoid tanh gelu hardswish hardsigmoid leaky_relu elu mish softplus prelu selu celu
    exp log sqrt rsqrt pow abs neg reciprocal erf where maximum minimum batch_norm
    """.split()
)
"""Families that do something to every element by itself (batch norm as it is after training)."""

WEIGHTED = frozenset(("conv", "conv_1x1", "conv_depthwise", "conv_grouped", "conv_transpose", "linear"))
"""Families with filters."""

VIEW, COPY = "view", "copy"
BIAS = "bias"
_COPIES = frozenset(("copy", "cat"))


def canonical(kind: str) -> str:
    """The one name of a kind of operation."""
    short = kind.rpartition("::")[2] or kind
    for form in (short, short.removesuffix("_")):
        if form in _CANONICAL:
            return _CANONICAL[form]
    plain = short.removesuffix("_")
    return VIEW if plain in MOVES and plain not in _COPIES else plain


def family(kind: str, *, kernel: float = 1, per_group: float = 0, groups: int = 1) -> str:
    """The family of an operation of a canonical kind; what follows only matters for convolutions.

    Args:
        kernel: number of taps. per_group: input channels of each convolution group. groups: their number.
    """
    if kind != "conv":
        return kind
    if groups > 1:
        return "conv_depthwise" if per_group <= 1 else "conv_grouped"
    return "conv" if kernel > 1 else "conv_1x1"


@dataclass(frozen=True)
class Fusion:
    """Which kinds of operations a backend makes vanish: see :class:`morphsearch.types.LatencyBackend`.

    Attributes:
        again: those of `into_weights` that, though no operations of their own, go over all results once more when they
            are there, with how long that takes beside others; :data:`BIAS` for that of a convolution.
    """

    into_weights: frozenset[str] = frozenset()
    into_pointwise: frozenset[str] = frozenset()
    again: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, backend: Any, settings: Any) -> Fusion:
        """What a backend says; `again` depends on the settings."""
        again = dict(backend.again(settings)) if hasattr(backend, "again") else {}
        return cls(frozenset(backend.into_weights), frozenset(backend.into_pointwise), again)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "into_weights": sorted(self.into_weights),
            "into_pointwise": sorted(self.into_pointwise),
            "again": dict(sorted(self.again.items())),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Fusion:
        """The inverse of :meth:`to_dict`."""
        again = {str(kind): float(price) for kind, price in data.get("again", {}).items()}
        return cls(frozenset(data.get("into_weights", ())), frozenset(data.get("into_pointwise", ())), again)
