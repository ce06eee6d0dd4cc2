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
from torch.utils._pytree import tree_leaves, tree_map

from morphsearch.graph.labels import LOOSE, RIGID, Labels, compact, constant, reduce_ids, reshape, unknown
from morphsearch.graph.rules.layers import (
    bind_elements,
    convolution,
    follows,
    linear_labels,
    mixes_parameter,
    per_channel_norm,
    unknown_part,
)
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
    results = [
        compact(m, tuple(o.shape), -1, parameter) for m, o in zip(tensors_in(moved), tensors_in(out), strict=True)
    ]
    if parameter is not None:
        for tensor, labels in zip(tensors_in(out), results, strict=True):
            tape.put(tensor, labels)
        return
    _finish(tape, func, known, out, results, attrs=_plain_arguments(args, kwargs))


def _plain_arguments(args: Any, kwargs: Any) -> dict[str, Any]:
    """Integer arguments, so that a graph can be read."""
    plain = [
        a for a in args if isinstance(a, int) or (isinstance(a, (list, tuple)) and all(isinstance(i, int) for i in a))
    ]
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
    """Constant padding: loose, but fillers where channels are added to channels, which follow the units that they meet."""
    if (parameter := tape.labels(args[0])) is not None and parameter.parameter is not None:
        tape.put(out, unknown_part(tape, [parameter], tuple(out.shape), "constant_pad_nd"))
        return
    labels = tape.activation(args[0])
    sizes = list(args[1])
    amounts = {
        out.dim() - 1 - i // 2: (sizes[i], sizes[i + 1]) for i in range(0, len(sizes), 2) if sizes[i] or sizes[i + 1]
    }
    natural = [d for d in amounts if d in labels.varying()]
    chosen = tape.decide("pad", ",".join(map(str, natural)) or None)
    over = sorted({*natural, *map(int, chosen.split(","))}) if chosen else natural
    ids = labels.ids
    for dim in over:
        before, after = amounts.get(dim, (0, 0))
        moving = {*labels.varying(), dim}
        ids = ids.expand(
            [labels.shape[d] if d in moving and ids.shape[d] == 1 else ids.shape[d] for d in range(ids.dim())]
        )
        ids = ids.narrow(dim, max(0, -before), ids.shape[dim] - max(0, -before) - max(0, -after))
        new = tape.filler("pad", max(0, before) + max(0, after))
        filler = torch.from_numpy(new) if new is not None else torch.full((max(0, before) + max(0, after),), LOOSE)
        filler = filler.reshape([-1 if d == dim else 1 for d in range(ids.dim())])
        filler = filler.expand([filler.numel() if d == dim else ids.shape[d] for d in range(ids.dim())])
        ids = torch.cat(
            [filler.narrow(dim, 0, max(0, before)), ids, filler.narrow(dim, max(0, before), max(0, after))], dim
        )
    _finish(tape, func, [labels], out, [compact(ids, tuple(out.shape))], attrs={"pad": sizes})


def create(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A tensor made on the way (zeros, new_empty): loose filler, whatever its size."""
    numbers = (
        _numbers(args[1:] if len(args) < 2 or not isinstance(args[1], (list, tuple)) else args[2:], {})
        if short_name(func) in _FILLING
        else ()
    )
    if numbers:
        tape.emit(short_name(func), [], [], attrs={"numbers": numbers})
    for tensor in tensors_in(out):
        tape.put(tensor, constant(LOOSE, tuple(tensor.shape)))


def count(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A tensor of positions (arange, eye): rigid, since without one of its elements the others would be numbered anew."""
    for tensor in tensors_in(out):
        tape.put(tensor, constant(RIGID, tuple(tensor.shape)))


_FILLING = frozenset("full new_full full_like fill fill_ scalar_tensor".split())


def _numbers(args: Any, kwargs: Any) -> tuple[float, ...]:
    """Plain numbers among the arguments: where they depend on a width, removal is not exact (see ``rewrite.check``)."""
    return tuple(
        float(v) for v in tree_leaves((args, kwargs)) if isinstance(v, (int, float)) and not isinstance(v, bool)
    )


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
        tensors = [t for t, labels in found if labels is not None and labels.parameter is None]
        lifted = [_loosen(t, ids, moving) for t, ids in zip(tensors, lifted, strict=True)]
    result = lifted[0]
    for other in lifted[1:]:
        result = meet(tape, short_name(func), result, other)
    for tensor, labels in found:
        if labels is None:
            _meet_constant(tape, tensor, result, shape)
        elif labels.parameter is not None:
            bind_elements(tape, tensor, Labels(result, shape), "gate")
    named = {
        f"operand{i}": labels.parameter
        for i, (_, labels) in enumerate(found)
        if labels is not None and labels.parameter
    }
    produced = [compact(result, tuple(o.shape)) for o in outputs]
    _finish(tape, func, active, out, produced, parameters=named, attrs={"numbers": _numbers(args, kwargs)})


def _broadcast(labels: Labels, shape: tuple[int, ...]) -> Tensor:
    """Compact labels at the rank of `shape`."""
    return labels.ids.reshape((1,) * (len(shape) - labels.ids.dim()) + tuple(labels.ids.shape))


def _loosen(tensor: Tensor, ids: Tensor, moving: set[int]) -> Tensor:
    """Rigid data that is broadcast along every dimension in which units lie fixes none of them: it becomes loose."""
    offset = ids.dim() - tensor.dim()
    spans = any(d >= offset and tensor.shape[d - offset] > 1 and tensor.stride(d - offset) for d in moving)
    return ids if spans else torch.where(ids == RIGID, LOOSE, ids)


def meet(tape: Tape, what: str, a: Tensor, b: Tensor) -> Tensor:
    """Two compact label tensors, element by element: units that meet are one; returns the merged labels.

    A single unit that is broadcast over many (an attention map) is not one with them: it can only never leave. Units that
    lie along different dimensions (an outer product) are all pinned.
    """
    if a.shape == b.shape and a.data_ptr() == b.data_ptr():
        return a
    dims_a = {d for d, size in enumerate(a.shape) if size > 1}
    dims_b = {d for d, size in enumerate(b.shape) if size > 1}
    units_a, units_b = bool((a > 0).any()), bool((b > 0).any())
    choice = None
    if units_a and units_b:
        if dims_a != dims_b and not (dims_a and dims_b):
            choice = "left is broadcast" if not dims_a else "right is broadcast"
        elif not dims_a <= dims_b and not dims_b <= dims_a:
            choice = "outer"
        choice = tape.decide(what, choice)
    if choice == "left is broadcast":
        tape.pin(a, f"{tape.where(what)}: it is broadcast over the channels of another tensor")
        return b
    if choice == "right is broadcast":
        tape.pin(b, f"{tape.where(what)}: it is broadcast over the channels of another tensor")
        return a
    if choice == "outer":
        for side in (a, b):
            tape.pin(side, f"{tape.where(what)}: an outer product of channels")
        return torch.full((1,) * a.dim(), RIGID, dtype=torch.int64)
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
    """Arithmetic on parameters alone: what has the shape of the result stays a rearrangement of its parameter.

    Other parameters that it meets (a scale per row) follow its slices; where they cannot, the result is of unknown parts.
    """
    known = [labels for _, labels in found if labels is not None]
    main = next((labels for labels in known if labels.shape == shape and labels.parameter), None)
    if not known:
        result = constant(LOOSE, shape)
    elif main is None or not all(follows(tape, labels, main) for labels in known if labels is not main):
        result = unknown_part(tape, known, shape, tape.doing)
    else:
        result = Labels(main.ids, shape, -1, main.parameter)
    for output in outputs:
        tape.put(output, Labels(result.ids, result.shape, -1, result.parameter))


# -- pooling, reducing, mixing -----------------------------------------------------------------------------------------


def spatial(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Pools, resizes and other operations within each channel: the labels stay along batch and channels."""
    labels = tape.activation(args[0])
    outputs = tensors_in(out)
    channel = 1 if args[0].dim() > 3 or outputs[0].dim() > 2 else 0
    moving = labels.varying()
    beyond = [d for d in moving if d > channel]
    natural = ",".join(map(str, beyond)) if beyond and not set(moving) - set(beyond) else None
    chosen = tape.decide(short_name(func), natural)
    if chosen is not None:
        # The window slides over the channels themselves (local response normalisation).
        same = all(o.shape[int(d)] == labels.shape[int(d)] for o in outputs for d in chosen.split(","))
        if same:
            tape.mix(labels.ids, tape.where(f"{short_name(func)} over channels"))
        else:
            tape.pin(labels.ids, tape.where(f"{short_name(func)} over channels"))
        produced = [Labels(labels.ids, tuple(o.shape)) if same else constant(RIGID, tuple(o.shape)) for o in outputs]
    else:
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
        ids = tape.fuse(ids, d)
    return ids


def reduce(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Sums, means and extrema over dimensions.

    Over a dimension that carries units beside another one (the radix of split attention), the units that are summed are
    one unit. Over the only dimension that carries them, channels mix.
    """
    labels = tape.labels(args[0])
    if labels is None:
        return
    dims, keepdim = _reduced(func, args, kwargs, len(labels.shape))
    name = short_name(func)
    if labels.parameter is not None:
        _reduce_parameter(tape, name, labels, dims, keepdim, tensors_in(out))
        return
    ids = labels.ids
    moving = set(labels.varying())
    over = [d for d in dims if d in moving]
    natural = ("fuse:" if moving - set(over) else "mix:") + ",".join(map(str, over)) if over else None
    chosen = tape.decide(name, natural)
    how, _, where = (chosen or "").partition(":")
    over = sorted({*over, *(int(d) for d in where.split(",") if d)})
    if how == "fuse":
        for d in over:
            ids = tape.fuse(ids, d)
    elif over:
        if name.startswith("arg"):
            tape.pin(ids, f"{tape.where(name)}: the numbers of its channels are read")
        tape.mix(ids, tape.where(f"{name} over channels"))
        ids = torch.full((1,) * len(labels.shape), RIGID, dtype=torch.int64)
    outputs = tensors_in(out)
    for tensor in outputs[1:]:
        if over and tensor.dtype == torch.int64:
            tape.mark_positions(tensor, labels.ids, tape.where(name))
    if not keepdim:
        kept = [d for d in range(len(labels.shape)) if d not in dims]
        ids = ids.reshape([ids.shape[d] for d in kept])
    produced = [
        Labels(ids, tuple(o.shape)) if o.dim() == ids.dim() else constant(RIGID, tuple(o.shape)) for o in outputs
    ]
    _finish(tape, func, [labels], out, produced, attrs={"dims": dims})


def _reduce_parameter(
    tape: Tape, name: str, labels: Labels, dims: list[int], keepdim: bool, outputs: list[Tensor]
) -> None:
    """Statistics of a weight (standardisation): they still follow the dimensions that stay, and mix along the others."""
    mixes_parameter(tape, labels, dims, tape.where(f"{name} of the weight"))
    ids = reduce_ids(labels, dims)
    if not keepdim:
        ids = ids.reshape([ids.shape[d] for d in range(len(labels.shape)) if d not in dims])
    for tensor in outputs:
        same = labels.parameter and tensor.dim() == ids.dim()
        tape.put(
            tensor, Labels(ids, tuple(tensor.shape), -1, labels.parameter) if same else unknown(tuple(tensor.shape))
        )


def _reduced(func: Any, args: Any, kwargs: Any, rank: int) -> tuple[list[int], bool]:
    given = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | kwargs
    dims = given.get("dim")
    if dims is None:
        dims = list(range(rank))
    dims = [dims] if isinstance(dims, int) else list(dims) or list(range(rank))
    return [d % rank for d in dims], bool(given.get("keepdim", False))


def out_sizes_differ(labels: Labels, out: Any) -> bool:
    """An operation did not keep the shape."""
    return any(tuple(o.shape) != labels.shape for o in tensors_in(out))


def glu(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """One half times the sigmoid of the other."""
    labels = tape.activation(args[0])
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", -1)) % len(labels.shape)
    ids = labels.ids
    if dim in labels.varying():
        first, second = ids.chunk(2, dim)
        ids = meet(tape, "glu", first, second)
    _finish(tape, func, [labels], out, [compact(ids, tuple(out.shape))], attrs={"dim": dim})


def along_dim(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Softmax and its kin, which keep the shape but mix along one dimension."""
    labels = tape.activation(args[0])
    dim = next((a for a in args[1:] if isinstance(a, int)), kwargs.get("dim", -1)) % len(labels.shape)
    name = short_name(func).lstrip("_")
    moving = labels.varying()
    chosen = tape.decide(name, ("fuse" if len(moving) > 1 else "mix") if dim in moving else None)
    ids = labels.ids
    if chosen == "fuse":
        tape.fuse(ids, dim)
    elif chosen == "mix" and out_sizes_differ(labels, out):
        tape.pin(ids, tape.where(f"{name} over channels"))
        ids = torch.full((1,) * len(labels.shape), RIGID, dtype=torch.int64)
    elif chosen == "mix":
        tape.mix(ids, tape.where(f"{name} over channels"))
    for tensor in tensors_in(out)[1:]:
        if chosen is not None:
            tape.mark_positions(tensor, labels.ids, tape.where(name))
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
    ids_a, ids_b = left.ids, right.ids
    name = short_name(func)
    inner = ids_a.shape[-1] > 1 or ids_b.shape[-2] > 1
    outer_a, outer_b = ids_a.shape[-2] > 1, ids_b.shape[-1] > 1
    natural = ("tangle" if outer_a or outer_b else "contract") if inner else "outer" if outer_a and outer_b else None
    units_a, units_b = bool((ids_a > 0).any()), bool((ids_b > 0).any())
    if natural is None and (units_a or units_b):
        natural = "rows" if outer_a else "columns" if outer_b else None
    chosen = tape.decide(name, natural)
    result = constant(RIGID, shape)
    if chosen == "contract":
        # Both sides must lose the same channels, and the sum then misses exactly their products.
        across = ids_a.movedim(-1, -2)
        meeting = torch.broadcast_shapes(across.shape, ids_b.shape)
        tape.union(across.expand(meeting), ids_b.expand(meeting))
        tape.mix(ids_a, tape.where(f"{name}: a product of two activations over channels"))
    elif chosen in ("tangle", "outer"):
        what = f"{tape.where(name)}: {'an outer' if chosen == 'outer' else 'a'} product of two activations"
        tape.pin(ids_a, what)
        tape.pin(ids_b, what)
    elif chosen in ("rows", "columns"):
        side, other = (ids_a, ids_b) if chosen == "rows" else (ids_b, ids_a)
        if bool((other > 0).any()):
            tape.pin(other, f"{tape.where(name)}: it weighs the channels of another activation")
        result = compact(side.narrow(-1 if chosen == "rows" else -2, 0, 1), shape)
    elif units_a or units_b:
        merged = meet(tape, f"{name} of maps", ids_a.narrow(-1, 0, 1), ids_b.narrow(-2, 0, 1))
        result = compact(merged, shape) if merged.dim() == len(shape) else result
    kind = {"mm": "matmul", "addmm": "matmul"}.get(name, "bmm")
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
    if not known:
        create(tape, func, args, kwargs, out)
        return
    name = str(func._schema.name)
    active = [labels for labels in known if labels.parameter is None]
    if not active:
        for tensor in outputs:
            tape.put(tensor, unknown_part(tape, known, tuple(tensor.shape), name))
        return
    for labels in active:
        tape.pin(labels.ids, not_understood(tape, name))
    _finish(tape, func, active, out, [constant(RIGID, tuple(o.shape)) for o in outputs])


def refuse(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any, why: str) -> None:
    """The rule of an operation fails on this call: freeze what it reads, with its name."""
    for labels in _input_labels(tape, args, kwargs):
        tape.pin(labels.ids, f"{not_understood(tape, str(func._schema.name))} (in this form: {why.splitlines()[0]})")
    for tensor in tensors_in(out):
        tape.put(tensor, constant(RIGID, tuple(tensor.shape)))


def not_understood(tape: Tape, name: str) -> str:
    """The reason for freezing what an operation without a rule reads."""
    where = f" in {tape.module}" if tape.module else ""
    return (
        f"the operation {name}{where} is not understood; a plugin can teach it through the hook morphsearch_operations"
    )


def opaque(tape: Tape, func: Any, args: Any, kwargs: Any) -> Any:
    """A function that is not looked into (recurrent layers, multi-head attention): what it reads and writes is fixed."""
    out = func(*args, **kwargs)
    name = getattr(func, "__name__", "function")
    active = _input_labels(tape, args, kwargs)
    for labels in active:
        tape.pin(labels.ids, not_understood(tape, name))
    outputs = tensors_in(out)
    produced = [constant(RIGID, tuple(tensor.shape)) for tensor in outputs]
    tape.emit(name, active, produced)
    for tensor, labels in zip(outputs, produced, strict=True):
        tape.put(tensor, labels)
    return out


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
        "empty zeros ones full scalar_tensor empty_strided new_empty new_zeros new_ones new_full"
        " empty_like zeros_like ones_like full_like rand_like randn_like rand randn new_empty_strided zero_ fill_",
    ),
    **_table(count, "arange linspace logspace eye randperm tril_indices triu_indices"),
    **_table(copy, "copy_"),
    **_table(
        pointwise,
        "native_dropout bernoulli_ bernoulli uniform_ normal_ where masked_fill masked_fill_ lerp prelu"
        " _prelu_kernel hardswish log_sigmoid_forward rrelu_with_noise rsub floor_divide",
    ),
    **_table(
        spatial,
        "max_pool2d_with_indices max_pool1d_with_indices max_pool3d_with_indices max_pool2d avg_pool1d avg_pool2d avg_pool3d"
        " _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d adaptive_max_pool2d adaptive_max_pool3d"
        " adaptive_max_pool1d upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d"
        " upsample_bilinear2d upsample_bicubic2d upsample_linear1d upsample_trilinear3d _upsample_bilinear2d_aa"
        " _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d"
        " replication_pad3d grid_sampler_2d grid_sampler_3d max_unpool2d fractional_max_pool2d",
    ),
    **_table(
        reduce,
        "mean sum amax amin max min var var_mean std std_mean prod logsumexp norm linalg_vector_norm all any argmax argmin",
    ),
    **_table(along_dim, "_softmax _log_softmax softmax log_softmax cumsum cumprod sort topk"),
    **_table(product, "mm bmm addmm baddbmm"),
    **_table(aten_convolution, "convolution"),
    **_table(
        aten_batch_norm,
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm",
    ),
    **_table(value, "_local_scalar_dense item equal is_nonzero"),
}
# ``max``/``min`` of two tensors and ``where`` are element-wise; the overload decides.
ATEN["aten::max"] = lambda tape, func, args, kwargs, out: (
    pointwise(tape, func, args, kwargs, out) if "other" in func._overloadname else reduce(tape, func, args, kwargs, out)
)
ATEN["aten::min"] = ATEN["aten::max"]

OPAQUE = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu, F.multi_head_attention_forward)

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
    "OPAQUE",
    "adaptive_pool",
    "fallback",
    "opaque",
    "pointwise",
    "short_name",
    "spatial",
]
