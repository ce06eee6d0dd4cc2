"""ATen operations: moving data, element-wise, pooling, reducing, and mixing channels.

Operations that only move data are executed on the labels themselves. Every rule has the signature
``rule(tape, func, args, kwargs, out)`` and attaches labels to `out`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from morphsearch.graph.labels import LOOSE, RIGID, Labels, along, compact, constant, reshape
from morphsearch.graph.rules.layers import bind_elements, convolution, linear_labels, per_channel_norm
from morphsearch.graph.tape import Tape, Untraceable, storage_key, tensors_in

Rule = Callable[[Tape, Any, Any, Any, Any], None]


def short_name(func: Any) -> str:
    """``aten::relu_`` -> ``relu``: the plain name of an operation, in place or not."""
    name = str(func._schema.name).split("::")[-1]
    return name.rstrip("_") if not name.startswith("_") else name


def _input_labels(tape: Tape, args: Any, kwargs: Any) -> list[Labels]:
    """Labels of the activations among the arguments, for the record."""
    return [labels for t in tensors_in((args, kwargs)) if (labels := _seen(tape, t)) is not None]


def _seen(tape: Tape, tensor: Tensor) -> Labels | None:
    return None if tape.name_of(tensor) is not None else tape.labels(tensor)


def _finish(tape: Tape, func: Any, inputs: Sequence[Labels], out: Any, labels: Sequence[Labels], **extra: Any) -> None:
    outputs = tensors_in(out)
    tape.emit(short_name(func), inputs, labels, **extra)
    for tensor, own in zip(outputs, labels, strict=True):
        tape.put(tensor, own)


# -- moving data -----------------------------------------------------------------------------------------------------


def identity(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """The same elements in the same places (clone, contiguous, detach, casts)."""
    source = args[0]
    labels = tape.labels(source)
    if labels is None:
        return
    copy = Labels(labels.ids, labels.shape, labels.producer, labels.parameter)
    if labels.parameter is not None:
        tape.put(out, copy)
        return
    _finish(tape, func, [labels], out, [copy])


def view(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A reshape."""
    labels = tape.labels(args[0])
    if labels is None:
        return
    moved = reshape(labels, tuple(out.shape))
    if labels.parameter is not None:
        tape.put(out, moved)
        return
    _finish(tape, func, [labels], out, [moved], attrs={"sizes": tuple(out.shape)})


def cat(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Concatenation along `dim`, on the compact labels."""
    tensors, dim = args[0], (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    parts = [t for t in tensors if t.dim() == out.dim()]  # PyTorch lets an empty tensor of rank 1 through
    labels = [tape.activation(t) if tape.labels(t) is not None else constant(LOOSE, tuple(t.shape)) for t in parts]
    inputs = labels
    moving = {d for one in labels for d in one.varying()} - {dim}
    target = [out.shape[d] if d in moving else 1 for d in range(out.dim())]
    pieces = [one.ids.expand([*target[:dim], one.shape[dim], *target[dim + 1 :]]) for one in labels]
    joined = compact(torch.cat(pieces, dim), tuple(out.shape))
    _finish(tape, func, inputs, out, [joined], attrs={"dim": dim})


def move(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Anything else that only moves elements: executed on the labels."""
    sources = [(t, tape.labels(t)) for t in tensors_in((args, kwargs)) if not _is_index(t)]
    known = [labels for _, labels in sources if labels is not None]
    if not known:
        return
    parameter = known[0].parameter if len(sources) == 1 else None

    def swap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if _is_index(value):
            return known_value(value)
        labels = tape.labels(value) if len(sources) == 1 else None
        labels = labels if labels is not None else tape.activation(value)
        return labels.full()

    moved = func(*tree_map(swap, args), **tree_map(swap, kwargs))
    results = [compact(m, tuple(o.shape), -1, parameter) for m, o in zip(tensors_in(moved), tensors_in(out), strict=True)]
    if parameter is not None:
        for tensor, labels in zip(tensors_in(out), results, strict=True):
            tape.put(tensor, labels)
        return
    _finish(tape, func, known, out, results, attrs=_plain_arguments(args, kwargs))


def _plain_arguments(args: Any, kwargs: Any) -> dict[str, Any]:
    """Integer arguments, so that a graph can be read."""
    plain = [a for a in args if isinstance(a, int) or (isinstance(a, (list, tuple)) and all(isinstance(i, int) for i in a))]
    return {"arguments": plain} if plain else {}


def known_value(index: Tensor) -> Tensor:
    """The numbers in an index, also where the recording runs on shapes and the index is a buffer of the network."""
    value = getattr(index, "_morphsearch_value", None) if index.is_meta else index
    if value is None:
        raise Untraceable("an index that depends on values")
    return value


def _is_index(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.int64, torch.int32, torch.bool, torch.uint8)


def pad(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Constant padding: what is added is loose."""
    labels = tape.activation(args[0])
    sizes = list(args[1])
    padded = {out.dim() - 1 - i // 2 for i, amount in enumerate(sizes) if amount}
    moving = set(labels.varying())
    if padded & moving:
        shape = [labels.shape[d] if d in moving | padded else 1 for d in range(out.dim())]
        ids = torch.constant_pad_nd(labels.ids.expand(shape), sizes, LOOSE) if not padded - moving else None
        if ids is None:
            keep = [a if (out.dim() - 1 - i // 2) in moving else 0 for i, a in enumerate(sizes)]
            ids = torch.constant_pad_nd(labels.ids, keep, LOOSE)
        result = compact(ids, tuple(out.shape))
    else:
        result = Labels(labels.ids, tuple(out.shape))
    _finish(tape, func, [labels], out, [result], attrs={"pad": sizes})


def create(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A tensor made on the way (zeros, new_empty, arange): loose filler."""
    for tensor in tensors_in(out):
        tape.put(tensor, constant(LOOSE, tuple(tensor.shape), len(tape.operations)))


def copy(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """``target.copy_(source)``, also into a slice of a larger tensor."""
    target, source = args[0], args[1]
    labels = tape.labels(source)
    arriving = labels if labels is not None and labels.parameter is None else constant(LOOSE, tuple(source.shape))
    ids = arriving.ids.reshape((1,) * (target.dim() - arriving.ids.dim()) + tuple(arriving.ids.shape))
    before = tape.labels(target)
    written = compact(ids, tuple(target.shape))
    whole = target.untyped_storage().nbytes() == target.numel() * target.element_size()
    tape.emit("copy", [arriving], [written])
    if whole:
        tape.put(target, written)
        return
    if before is not None and not before.blank:
        tape.pin(before.ids, tape.where("a slice that is written over"))
    key = storage_key(target)
    if key not in tape.storages:
        size = target.untyped_storage().nbytes() // target.element_size()
        tape.storages[key] = (target, torch.full((size,), LOOSE, dtype=torch.int64))
    flat = tape.storages[key][1]
    flat.as_strided(target.size(), target.stride(), target.storage_offset()).copy_(written.full())


# -- element-wise ----------------------------------------------------------------------------------------------------


def pointwise(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Units that meet in one element are one unit; parameters that meet them are bound to them."""
    operands = tensors_in((args, kwargs))
    outputs = tensors_in(out)
    if not outputs:
        return
    shape = tuple(outputs[0].shape)
    found = [(t, tape.labels(t)) for t in operands]
    active = [labels for _, labels in found if labels is not None and labels.parameter is None]
    if not active:
        _derive(tape, found, outputs, shape)
        return
    lifted = [_broadcast(labels, shape) for labels in active]
    moving = {d for ids in lifted for d, size in enumerate(ids.shape) if size > 1}
    if len(active) > 1:
        lifted = [_loosen(labels, ids, moving) for labels, ids in zip(active, lifted, strict=True)]
    result = lifted[0]
    for other in lifted[1:]:
        result = _meet(tape, result, other)
    for tensor, labels in found:
        if labels is None:
            _meet_constant(tape, tensor, result, shape)
        elif labels.parameter is not None:
            bind_elements(tape, tensor, Labels(result, shape), "gate")
    named = {f"operand{i}": labels.parameter for i, (_, labels) in enumerate(found) if labels is not None and labels.parameter}
    produced = [compact(result, tuple(o.shape)) for o in outputs]
    _finish(tape, func, active, out, produced, parameters=named)


def _broadcast(labels: Labels, shape: tuple[int, ...]) -> Tensor:
    """Compact labels at the rank of `shape`."""
    return labels.ids.reshape((1,) * (len(shape) - labels.ids.dim()) + tuple(labels.ids.shape))


def _loosen(labels: Labels, ids: Tensor, moving: set[int]) -> Tensor:
    """Rigid data that is broadcast along every dimension in which units lie fixes none of them: it becomes loose."""
    offset = ids.dim() - len(labels.shape)
    spans = any(d >= offset and labels.shape[d - offset] > 1 for d in moving)
    return ids if spans else torch.where(ids == RIGID, LOOSE, ids)


def _meet(tape: Tape, a: Tensor, b: Tensor) -> Tensor:
    """Union of two compact label tensors, element by element; returns the merged labels."""
    if a.shape == b.shape and a.data_ptr() == b.data_ptr():
        return a
    shape = torch.broadcast_shapes(a.shape, b.shape)
    left, right = a.expand(shape), b.expand(shape)
    tape.union(left, right)
    return torch.where(left > 0, left, torch.where(right > 0, right, torch.maximum(left, right)))


def _meet_constant(tape: Tape, tensor: Tensor, units: Tensor, shape: tuple[int, ...]) -> None:
    """A tensor from nowhere (an attribute that is no buffer) fixes the sizes of the dimensions it spans."""
    sizes = (1,) * (len(shape) - tensor.dim()) + tuple(tensor.shape)
    if any(units.shape[d] > 1 and sizes[d] > 1 for d in range(len(shape))):
        tape.pin(units, tape.where("a constant tensor that is neither parameter nor buffer"))


def _derive(tape: Tape, found: Any, outputs: list[Tensor], shape: tuple[int, ...]) -> None:
    """Arithmetic on parameters alone keeps pointing at the parameter of the same shape (a weight times a scale)."""
    for tensor, labels in found:
        if labels is not None and tuple(tensor.shape) == shape:
            for output in outputs:
                tape.put(output, Labels(labels.ids, shape, -1, labels.parameter))
            return
    for output in outputs:
        if found:
            tape.put(output, constant(RIGID, tuple(output.shape)))
        else:
            tape.put(output, constant(LOOSE, tuple(output.shape)))


# -- pooling, reducing, mixing -----------------------------------------------------------------------------------------


def spatial(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Pools, resizes and other operations within each channel: the labels stay along batch and channels."""
    labels = tape.activation(args[0])
    outputs = tensors_in(out)
    channel = 1 if args[0].dim() > 3 or outputs[0].dim() > 2 else 0
    ids = _flatten_spatial(tape, labels, channel)
    produced = [Labels(ids, tuple(o.shape)) for o in outputs]
    _finish(tape, func, [labels], out, produced, attrs=_plain_arguments(args[1:], kwargs))


def adaptive_pool(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Adaptive average pooling, whole: below, PyTorch turns it into a mean, which costs are counted differently for."""
    out = func(*args, **kwargs)
    x = args[0] if args else kwargs["input"]
    labels = tape.activation(x)
    produced = Labels(_flatten_spatial(tape, labels), tuple(out.shape))
    kind = getattr(func, "__name__", "adaptive_avg_pool2d").lstrip("_")
    tape.emit(kind, [labels], [produced], attrs={"batch": x.shape[0], "output": tuple(out.shape[2:])})
    tape.put(out, produced)
    return out


def _flatten_spatial(tape: Tape, labels: Labels, channel: int = 1) -> Tensor:
    """The labels with everything beyond dimension `channel` joined to one unit a channel."""
    ids = labels.ids
    for d in [d for d in labels.varying() if d > channel]:
        head = ids.narrow(d, 0, 1)
        tape.union(head.expand_as(ids), ids)
        ids = head
    return ids


def reduce(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Sums, means and extrema over dimensions.

    Over a dimension that carries units beside another one (the radix of split attention), the units that are summed are
    one unit. Over the only dimension that carries them, channels mix.
    """
    labels = tape.labels(args[0])
    if labels is None:
        return
    if labels.parameter is not None:
        for tensor in tensors_in(out):
            tape.put(tensor, constant(RIGID, tuple(tensor.shape)))
        return
    dims, keepdim = _reduced(func, args, kwargs, len(labels.shape))
    ids = labels.ids
    moving = set(labels.varying())
    over = [d for d in dims if d in moving]
    if over and moving - set(over):
        for d in over:
            head = ids.narrow(d, 0, 1)
            tape.union(head.expand_as(ids), ids)
            ids = head
    elif over:
        tape.mix(ids, tape.where(f"{short_name(func)} over channels"))
        ids = torch.full((1,) * len(labels.shape), RIGID, dtype=torch.int64)
    outputs = tensors_in(out)
    if not keepdim:
        kept = [d for d in range(len(labels.shape)) if d not in dims]
        ids = ids.reshape([ids.shape[d] for d in kept])
    produced = [Labels(ids, tuple(o.shape)) if o.dim() == ids.dim() else constant(RIGID, tuple(o.shape)) for o in outputs]
    _finish(tape, func, [labels], out, produced, attrs={"dims": dims})


def _reduced(func: Any, args: Any, kwargs: Any, rank: int) -> tuple[list[int], bool]:
    given = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | kwargs
    dims = given.get("dim")
    if dims is None:
        dims = list(range(rank))
    dims = [dims] if isinstance(dims, int) else list(dims) or list(range(rank))
    return [d % rank for d in dims], bool(given.get("keepdim", False))


def along_dim(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Softmax and its kin, which keep the shape but mix along one dimension."""
    labels = tape.activation(args[0])
    dim = next((a for a in args[1:] if isinstance(a, int)), kwargs.get("dim", -1)) % len(labels.shape)
    moving = labels.varying()
    ids = labels.ids
    if dim in moving and len(moving) > 1:
        tape.union(ids.narrow(dim, 0, 1).expand_as(ids), ids)
    elif dim in moving:
        tape.mix(ids, tape.where(f"{short_name(func).lstrip('_')} over channels"))
    produced = [Labels(ids, tuple(o.shape)) for o in tensors_in(out)]
    _finish(tape, func, [labels], out, produced, attrs={"dim": dim})


def product(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """``mm``/``bmm`` and ``addmm``/``baddbmm``: a linear layer where one side is a parameter, else a contraction."""
    given = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | kwargs
    bias = given.get("self") if "mat2" in given and "mat1" in given else None
    a = given.get("mat1", given.get("self")) if bias is not None else args[0]
    b = given.get("mat2", args[1])
    right = tape.labels(b)
    if right is not None and right.parameter is not None and b.dim() == 2:
        linear_labels(tape, a, b, bias, out, row_dim=1)
        return
    left = tape.activation(a)
    right = tape.activation(b)
    shape = tuple(out.shape)
    inner_left, inner_right = left.ids.movedim(-1, -2), right.ids
    last = len(shape) - 1
    ids_a, ids_b = left.ids, right.ids
    if left.ids.shape[-1] > 1 or right.ids.shape[-2] > 1:
        # Contraction over channels: both sides must lose the same ones, and the sum then misses exactly their products.
        if left.ids.shape[-2] == 1 and right.ids.shape[-1] == 1:
            meet = torch.broadcast_shapes(inner_left.shape, inner_right.shape)
            tape.union(inner_left.expand(meet), inner_right.expand(meet))
            tape.mix(left.ids, tape.where("a product of two activations over channels"))
        else:
            tape.pin(left.ids, tape.where("a product of two activations"))
            tape.pin(right.ids, tape.where("a product of two activations"))
        result = constant(RIGID, shape)
    elif left.ids.shape[-2] > 1 and right.ids.shape[-1] > 1:
        tape.pin(left.ids, tape.where("an outer product of two activations"))
        tape.pin(right.ids, tape.where("an outer product of two activations"))
        result = constant(RIGID, shape)
    else:
        side_a = ids_a if ids_a.shape[-2] > 1 or not bool((ids_b > 0).any()) else None
        merged = ids_a.narrow(-1, 0, 1) if side_a is not None else ids_b.narrow(-2, 0, 1)
        if merged.shape[-2] == 1 and merged.shape[-1] == 1 and bool((ids_a > 0).any()) and bool((ids_b > 0).any()):
            merged = _meet(tape, ids_a.narrow(-1, 0, 1), ids_b.narrow(-2, 0, 1))
        result = compact(merged, shape) if merged.dim() == last + 1 else constant(RIGID, shape)
    kind = {"mm": "matmul", "addmm": "matmul"}.get(short_name(func), "bmm")
    sizes = {"batch": 1, "n": a.shape[-2], "c": a.shape[-1], "o": b.shape[-1], "matrices": int(np.prod(a.shape[:-2]))}
    tape.emit(kind, [left, right], [result], attrs=sizes)
    tape.put(out, result)


def aten_convolution(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A convolution that no torch function announced (scripted code)."""
    x, weight, bias, stride, _, _, transposed, _, groups = args[:9]
    dims = weight.dim() - 2
    attrs = {
        "kernel": tuple(weight.shape[2:]),
        "groups": groups,
        "stride": tuple(stride),
        "input_spatial": tuple(x.shape[-dims:]),
        "output_spatial": tuple(out.shape[-dims:]),
        "batch": x.shape[0],
    }
    convolution(tape, x, weight, bias, out, groups=groups, transposed=transposed, attrs=attrs)


def aten_batch_norm(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A batch norm that no torch function announced."""
    names = ("weight", "bias", "running_mean", "running_var")
    per_channel_norm(tape, "batch_norm", args[0], out[0], dict(zip(names, args[1:5], strict=False)))


# -- the rest --------------------------------------------------------------------------------------------------------


def value(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Reading a number out of a tensor: impossible on shapes, harmless on real tensors."""


def fallback(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Anything without a rule: element-wise by PyTorch's own tag, or not understood, and then frozen with its name."""
    if torch.Tag.pointwise in func.tags:
        pointwise(tape, func, args, kwargs, out)
        return
    outputs = tensors_in(out)
    if not outputs:
        return
    known = [labels for t in tensors_in((args, kwargs)) if (labels := tape.labels(t)) is not None]
    name = str(func._schema.name)
    for labels in known:
        if labels.parameter is not None:
            continue
        tape.pin(
            labels.ids,
            f"the operation {name}{f' in {tape.module}' if tape.module else ''} is not understood; "
            "a plugin can teach it through the hook morphsearch_operations",
        )
    if known:
        active = [labels for labels in known if labels.parameter is None]
        _finish(tape, func, active, out, [constant(RIGID, tuple(o.shape)) for o in outputs])
    else:
        create(tape, func, args, kwargs, out)


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return {f"aten::{name}": rule for name in names.split()}


ATEN: dict[str, Rule] = {
    **_table(identity, "clone contiguous detach alias _to_copy to lift_fresh _conj positive dropout"),
    **_table(view, "view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten unflatten squeeze_ unsqueeze_"),
    **_table(
        move,
        "permute transpose t transpose_ split split_with_sizes chunk slice select narrow unbind stack expand flip roll"
        " index_select index repeat repeat_interleave pixel_shuffle pixel_unshuffle channel_shuffle rot90 as_strided"
        " movedim swapaxes unfold diagonal split_copy unbind_copy select_copy slice_copy native_channel_shuffle",
    ),
    **_table(cat, "cat concat"),
    **_table(pad, "constant_pad_nd"),
    **_table(
        create,
        "empty zeros ones full arange linspace eye scalar_tensor empty_strided new_empty new_zeros new_ones new_full"
        " empty_like zeros_like ones_like full_like rand_like randn_like rand randn randperm new_empty_strided zero_ fill_",
    ),
    **_table(copy, "copy_"),
    **_table(pointwise, "native_dropout bernoulli_ bernoulli uniform_ normal_ where masked_fill masked_fill_ lerp prelu"),
    **_table(
        spatial,
        "max_pool2d_with_indices max_pool1d_with_indices max_pool3d_with_indices max_pool2d avg_pool1d avg_pool2d avg_pool3d"
        " _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d adaptive_max_pool2d adaptive_max_pool3d"
        " adaptive_max_pool1d upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d"
        " upsample_bilinear2d upsample_bicubic2d upsample_linear1d upsample_trilinear3d _upsample_bilinear2d_aa"
        " _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d"
        " replication_pad3d grid_sampler_2d grid_sampler_3d max_unpool2d fractional_max_pool2d",
    ),
    **_table(reduce, "mean sum amax amin max min var var_mean std std_mean prod logsumexp norm linalg_vector_norm all any argmax argmin"),
    **_table(along_dim, "_softmax _log_softmax softmax log_softmax cumsum cumprod sort topk"),
    **_table(product, "mm bmm addmm baddbmm"),
    **_table(aten_convolution, "convolution"),
    **_table(aten_batch_norm, "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm"),
    **_table(value, "_local_scalar_dense item equal is_nonzero"),
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

__all__ = ["ADAPTIVE_POOLS", "ATEN", "Untraceable", "adaptive_pool", "along", "fallback", "short_name"]
