"""ATEN operations by name, and what happens to those without a rule.

Every rule has the signature ``rule(tape, func, args, kwargs, out)`` and attaches labels to `out`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from morphsearch.graph.labels import RIGID, constant
from morphsearch.graph.rules import elementwise
from morphsearch.graph.rules.binding import (
    unknown_part,
)
from morphsearch.graph.rules.common import Rule, finish, input_labels
from morphsearch.graph.rules.convolutions import convolution
from morphsearch.graph.rules.embeddings import embedding
from morphsearch.graph.rules.moving import cat, copy, count, create, identity, move, pad, put, shuffled, stack, view
from morphsearch.graph.rules.norms import per_channel_norm
from morphsearch.graph.rules.pairs import on_both_sides
from morphsearch.graph.rules.products import product
from morphsearch.graph.rules.quantised import by_channel, observed
from morphsearch.graph.rules.reducing import adaptive_pool, along_dim, reduce, spatial, unpooled
from morphsearch.graph.rules.vectors import vector_product
from morphsearch.graph.rules.windows import as_complex, laid_out, put_back, transformed
from morphsearch.graph.schemas import full_name, is_pointwise, plain_name, short_name
from morphsearch.graph.tape import Tape
from morphsearch.graph.tensors import tensors_in

pointwise = on_both_sides(elementwise.pointwise)


def aten_convolution(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A convolution that no torch function announced (scripted code)."""
    x, weight, bias, stride, _, dilation, transposed, _, groups = args[:9]
    dims = weight.dim() - 2
    attrs = {
        "kernel": tuple(weight.shape[2:]),
        "groups": groups,
        "stride": tuple(stride),
        "dilation": tuple(dilation),
        "input_spatial": tuple(x.shape[-dims:]),
        "output_spatial": tuple(out.shape[-dims:]),
        "batch": x.shape[0],
    }
    convolution(tape, x, weight, bias, out, groups=groups, transposed=transposed, attrs=attrs)


def deformable_convolution(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A convolution whose taps move with data (arXiv 1703.06211); offsets and masks have channels of their own."""
    x, weight, offset, mask, bias, stride_h, stride_w, _, _, _, _, groups, offset_groups = args[:13]
    attrs = {
        "kernel": tuple(weight.shape[2:]),
        "groups": groups,
        "stride": (stride_h, stride_w),
        "dilation": (1, 1),
        "input_spatial": tuple(x.shape[-2:]),
        "output_spatial": tuple(out.shape[-2:]),
        "batch": x.shape[0],
    }
    for moved_by in (offset, mask):
        tape.pin(tape.activation(moved_by).ids, tape.where("a deformable convolution reads it by position"))
    if offset_groups > 1:
        tape.pin(tape.activation(x).ids, tape.where("a deformable convolution with several groups of offsets"))
    convolution(tape, x, weight, bias, out, groups=groups, transposed=False, attrs=attrs)


def aten_batch_norm(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A batch norm that no torch function announced."""
    names = ("weight", "bias", "running_mean", "running_var")
    per_channel_norm(tape, "batch_norm", args[0], out[0], dict(zip(names, args[1:5], strict=False)))


def value(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Reading a number out of a tensor: impossible on shapes, harmless on real tensors."""


def fallback(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Anything without a rule: element-wise by PyTorch's own tag, or not understood, and then frozen with its name."""
    if is_pointwise(func):
        pointwise(tape, func, args, kwargs, out)
        return
    plain = ATEN.get(full_name(func).removesuffix("_"))  # in place: the same rule
    if plain is not None:
        plain(tape, func, args, kwargs, out)
        return
    not_followed(tape, func, args, kwargs, out)


def not_followed(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Freeze what an operation reads and gives, with its name."""
    outputs = tensors_in(out)
    if not outputs:
        return
    known = [labels for t in tensors_in((args, kwargs)) if (labels := tape.labels(t)) is not None]
    if not known:
        create(tape, func, args, kwargs, out)
        return
    name = full_name(func)
    active = [labels for labels in known if labels.parameter is None]
    if not active:
        for tensor in outputs:
            tape.put(tensor, unknown_part(tape, known, tuple(tensor.shape), name))
        return
    sized_by_data = torch.Tag.dynamic_output_shape in func.tags
    for labels in active:
        tape.pin(labels.ids, tape.where(DYNAMIC.format(name)) if sized_by_data else not_understood(tape, name))
    finish(tape, func, active, out, [constant(RIGID, tuple(o.shape)) for o in outputs])


def refuse(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any, why: str) -> None:
    """The rule of an operation fails on this call: freeze what it reads, with its name."""
    for labels in input_labels(tape, args, kwargs):
        tape.pin(labels.ids, f"{not_understood(tape, full_name(func))} (in this form: {why.splitlines()[0]})")
    for tensor in tensors_in(out):
        tape.put(tensor, constant(RIGID, tuple(tensor.shape)))


DYNAMIC = "the size of what {} gives depends on the data"


def not_understood(tape: Tape, name: str) -> str:
    """The reason for freezing what an operation without a rule reads."""
    where = f" in {tape.module}" if tape.module else ""
    return (
        f"the operation {name}{where} is not understood; a plugin can teach it through the hook morphsearch_operations"
    )


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return {f"aten::{name}": rule for name in names.split()}


# Operations that only move elements or make constants.
_MOVING: dict[str, Rule] = {
    **_table(on_both_sides(identity), "clone contiguous detach alias _to_copy to lift_fresh _conj positive dropout"),
    **_table(
        on_both_sides(view),
        "view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten unflatten squeeze_ unsqueeze_",
    ),
    **_table(
        on_both_sides(move),
        "permute transpose t transpose_ split split_with_sizes chunk slice select narrow unbind expand flip roll"
        " index_select index repeat repeat_interleave pixel_shuffle pixel_unshuffle rot90 as_strided"
        " movedim swapaxes unfold diagonal split_copy unbind_copy select_copy slice_copy",
    ),
    **_table(on_both_sides(shuffled), "channel_shuffle native_channel_shuffle"),
    **_table(cat, "cat concat"),
    **_table(on_both_sides(stack), "stack"),
    **_table(laid_out, "im2col"),
    **_table(as_complex, "view_as_complex view_as_real"),
    **_table(pad, "constant_pad_nd"),
    **_table(
        create,
        "empty zeros ones full scalar_tensor empty_strided new_empty new_zeros new_ones new_full"
        " empty_like zeros_like ones_like full_like rand_like randn_like rand randn new_empty_strided zero_ fill_",
    ),
    **_table(count, "arange linspace logspace eye randperm tril_indices triu_indices"),
    **_table(copy, "copy_"),
    **_table(put, "index_put index_put_ _index_put_impl_"),
}
MOVING = frozenset(plain_name(name) for name in _MOVING)
"""Their names, as they stand in the record."""

ATEN: dict[str, Rule] = {
    **_MOVING,
    **_table(put_back, "col2im"),
    **_table(embedding(not_followed), "embedding"),
    **_table(transformed, "_fft_r2c _fft_c2r _fft_c2c"),
    **_table(elementwise.glu, "glu"),
    **_table(by_channel, "fake_quantize_per_channel_affine_cachemask _fake_quantize_learnable_per_channel_affine"),
    **_table(observed, "_fused_moving_avg_obs_fq_helper"),
    **_table(
        pointwise,
        "native_dropout bernoulli_ bernoulli uniform_ normal_ where masked_fill masked_fill_ lerp prelu"
        " _prelu_kernel hardswish log_sigmoid_forward rrelu_with_noise rsub floor_divide"
        " fake_quantize_per_tensor_affine_cachemask _fake_quantize_per_tensor_affine_cachemask_tensor_qparams"
        " _fake_quantize_learnable_per_tensor_affine",
    ),
    # Element-wise by tag in newer versions of torch only; most of these have had it from 2.13 on.
    **_table(
        pointwise,
        "_conj_physical celu elu hardshrink hardsigmoid hardtanh isfinite leaky_relu mish rad2deg relu6 rrelu selu"
        " softplus softshrink threshold",
    ),
    **_table(
        spatial,
        "max_pool2d_with_indices max_pool1d_with_indices max_pool3d_with_indices max_pool2d avg_pool1d avg_pool2d"
        " avg_pool3d"
        " _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d adaptive_max_pool2d adaptive_max_pool3d"
        " adaptive_max_pool1d upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d"
        " upsample_bilinear2d upsample_bicubic2d upsample_linear1d upsample_trilinear3d _upsample_bilinear2d_aa"
        " _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d"
        " replication_pad3d grid_sampler_2d grid_sampler_3d fractional_max_pool2d fractional_max_pool3d",
    ),
    **_table(unpooled, "max_unpool2d max_unpool3d"),
    **_table(
        on_both_sides(reduce),
        "mean sum amax amin max min var var_mean std std_mean prod logsumexp norm linalg_vector_norm"
        " all any argmax argmin nansum median nanmedian aminmax",
    ),
    **_table(
        on_both_sides(along_dim),
        "_softmax _log_softmax softmax log_softmax cumsum cumprod cummax cummin logcumsumexp sort topk",
    ),
    **_table(product, "mm bmm addmm baddbmm"),
    **_table(vector_product(not_followed), "mv dot vdot"),
    **_table(aten_convolution, "convolution"),
    **_table(
        aten_batch_norm,
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm",
    ),
    **_table(value, "_local_scalar_dense item equal is_nonzero"),
    "torchvision::roi_align": spatial,
    "torchvision::roi_pool": spatial,
    "torchvision::deform_conv2d": deformable_convolution,
}


# ``max``/``min`` of two tensors and ``where`` are element-wise; the overload decides.
ATEN["aten::max"] = lambda tape, func, args, kwargs, out: (
    pointwise(tape, func, args, kwargs, out) if "other" in func._overloadname else reduce(tape, func, args, kwargs, out)
)


ATEN["aten::min"] = ATEN["aten::max"]


ADAPTIVE_POOLS = (
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
    torch._C._nn.adaptive_avg_pool2d,
    torch._C._nn.adaptive_avg_pool3d,
)


__all__ = [
    "ADAPTIVE_POOLS",
    "ATEN",
    "MOVING",
    "adaptive_pool",
    "fallback",
    "pointwise",
    "short_name",
    "spatial",
]
