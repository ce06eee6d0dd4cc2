"""Layers with parameters: convolutions, linear layers and norms, as torch functions with the arguments they were given.

Letters: `n` batch, `c`/`o` channels in and out, `g` convolution groups, `k` kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from morphsearch.graph.labels import RIGID, Labels, along, compact, constant, unknown
from morphsearch.graph.tape import Slot, Tape

Ids = np.ndarray


def axis_of(tape: Tape, labels: Labels, dim: int) -> tuple[str, int, Ids] | None:
    """The parameter, its dimension and the indices along it that dimension `dim` of a rearrangement runs through."""
    if not labels.parameter:
        return None
    first = tuple(slice(None) if d == dim else 0 for d in range(len(labels.shape)))
    flat = np.asarray(labels.full()[first]) - 1
    if (flat < 0).any():
        return None
    coordinates = np.unravel_index(flat, tape.shapes[labels.parameter])
    moving = [
        d for d, coordinate in enumerate(coordinates) if coordinate.size > 1 and (coordinate != coordinate[0]).any()
    ]
    if not moving:
        # A single slice: the dimension is the first one of its size that the rearrangement has not used elsewhere.
        moving = [d for d, size in enumerate(tape.shapes[labels.parameter]) if size == flat.size == 1][:1]
    return (labels.parameter, moving[0], coordinates[moving[0]]) if len(moving) == 1 else None


def resolve_slot(tape: Tape, tensor: Tensor, dim: int, role: str) -> tuple[Ids, Slot] | None:
    """The unit identifiers along `dim` of a weight, where it is a parameter or a rearrangement of one; else None."""
    name = tape.name_of(tensor)
    if name is not None:
        return tape.slot(name, dim, role), (name, dim)
    labels = tape.labels(tensor)
    if labels is None or not labels.parameter:
        return None
    if labels.shape == tape.shapes[labels.parameter] and labels.ids.shape == labels.shape:
        flat = np.asarray(labels.ids).reshape(-1)
        if flat[0] == 1 and flat[-1] == flat.size and (np.diff(flat) == 1).all():
            return tape.slot(labels.parameter, dim, role), (labels.parameter, dim)
    found = axis_of(tape, labels, dim)
    if found is None:
        return None
    name, own, indices = found
    return tape.slot(name, own, role)[indices], (name, own)


def follows(tape: Tape, labels: Labels, main: Labels) -> bool:
    """Bind a parameter to the slices of another one that it meets in arithmetic; False where that is impossible."""
    if labels.parameter is None or labels.parameter == "":
        return prod(labels.shape) == 1
    offset = len(main.shape) - len(labels.shape)
    for dim, size in enumerate(labels.shape):
        if size == 1:
            continue
        one, other = axis_of(tape, labels, dim), axis_of(tape, main, dim + offset)
        if one is None or other is None:
            return False
        if one[:2] == other[:2]:
            if not np.array_equal(one[2], other[2]):
                return False
            continue
        tape.union(tape.slot(*other[:2], "other")[other[2]], tape.slot(*one[:2], "norm")[one[2]])
    return True


def mixes_parameter(tape: Tape, labels: Labels, dims: list[int], what: str) -> None:
    """A statistic of a parameter over `dims` of its rearrangement: units along them influence each other."""
    for dim in dims:
        found = axis_of(tape, labels, dim)
        if found is not None and labels.shape[dim] > 1:
            tape.parameter_mixes.append((found[0], found[1], what))
    if labels.parameter and any(labels.shape[d] > 1 and axis_of(tape, labels, d) is None for d in dims):
        tape.parameter_mixes += [(labels.parameter, d, what) for d in range(len(tape.shapes[labels.parameter]))]


def unknown_part(tape: Tape, known: list[Labels], shape: tuple[int, ...], what: str) -> Labels:
    """Labels of a tensor computed from parameters in a way that is not followed: all their units influence it."""
    for labels in known:
        if labels.parameter:
            name = labels.parameter
            tape.parameter_mixes += [(name, d, tape.where(f"{what} of {name}")) for d in range(len(tape.shapes[name]))]
    return unknown(shape)


def channel_labels(tape: Tape, tensor: Tensor, dim: int, what: str) -> Ids:
    """`c`: the units along `dim`, which must not change along other dimensions of `tensor`.

    Where they change along others (a pixel shuffle), all units that share a channel are one unit from here on; where that
    is impossible since the batch or the only other dimension carries them, they are pinned.
    """
    labels = tape.activation(tensor)
    others = [d for d in labels.varying() if d != dim]
    natural = ("both" if dim in labels.varying() else "elsewhere") if others else None
    chosen = tape.decide(f"channels of {what}", natural)
    if chosen is None:
        return np.asarray(labels.vector(dim))
    if chosen == "elsewhere":
        tape.pin(labels.ids, f"{tape.where(what)} reads units along another dimension than its channels")
        return np.full(labels.shape[dim], RIGID)
    ids = labels.ids.movedim(dim, 0).reshape(labels.ids.shape[dim], -1)
    return np.asarray(tape.fuse(ids, 1).expand(labels.shape[dim], 1)[:, 0])


def bind(tape: Tape, tensor: Tensor | None, dim: int, units: Ids, role: str) -> None:
    """The slices of a parameter along `dim` belong to `units`."""
    if tensor is None:
        return
    found = resolve_slot(tape, tensor, dim, role)
    if found is not None and found[0].size == np.size(units):
        tape.union(units, found[0], found[1])
        tape.pin(found[0][np.asarray(units) == RIGID], "it reads data whose number of channels is fixed")
    else:
        tape.pin(units, tape.where("a parameter computed on the way"))


def _named(tape: Tape, **tensors: Tensor | None) -> dict[str, str]:
    names: dict[str, str] = {}
    for role, tensor in tensors.items():
        if tensor is None:
            continue
        name = tape.name_of(tensor)
        if name is None:
            labels = tape.labels(tensor)
            name = labels.parameter if labels is not None else None
        if name is not None:
            names[role] = name
    return names


# -- convolutions ----------------------------------------------------------------------------------------------------


def convolution(
    tape: Tape,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    *,
    groups: int,
    transposed: bool,
    attrs: dict[str, Any],
) -> None:
    """Label the output of a convolution and bind its weight `o x c/g x k...` (transposed: `c x o/g x k...`)."""
    channel_dim = x.dim() - (weight.dim() - 1)
    what = "a transposed convolution" if transposed else "a convolution"
    arriving = channel_labels(tape, x, channel_dim, what)
    row_dim, column_dim = (1, 0) if transposed else (0, 1)
    shape = tuple(out.shape)
    kind = "conv_transpose" if transposed else "conv"
    decision = _decision(tape, weight, arriving.size, groups)
    attrs["whole"] = decision == "whole"
    # Whole groups of a transposed convolution: its columns leave as the channels that it makes, and its rows never do.
    by_column = transposed and decision == "whole"
    blurs = groups == arriving.size and shape[channel_dim] == groups and _shared_kernel(tape, weight)
    if tape.decide(kind, "one kernel for all channels" if blurs and groups > 1 else None) is not None:
        labels = along(torch.from_numpy(np.ascontiguousarray(arriving)), channel_dim, shape)
        tape.emit(kind, [tape.activation(x)], [labels], attrs=attrs)
        tape.put(out, labels)
        return
    found_rows = resolve_slot(tape, weight, row_dim, "other" if by_column else "rows")
    found_columns = resolve_slot(tape, weight, column_dim, "rows" if by_column else "columns")
    if found_rows is None or found_columns is None:
        tape.pin(arriving, f"{tape.where(what)}: its weight is computed from data or from other parameters")
        labels = constant(RIGID, shape)
        tape.emit(kind, [tape.activation(x)], [labels], attrs=attrs)
        tape.put(out, labels)
        return
    (rows, _), (columns, column_slot) = found_rows, found_columns
    channels_out = shape[channel_dim]
    if decision is None:
        tape.union(arriving, columns, column_slot)
        tape.pin(columns[arriving == RIGID], f"{tape.where('a convolution')} reads the network's input or a constant")
        leaving = rows
    else:
        # Also for one group: the network may be a grouped one that has lost all others.
        leaving = _grouped(tape, arriving, rows, columns, column_slot, groups, transposed, decision == "whole")
    if bias is not None:
        bind(tape, bias, 0, leaving, "bias")
    labels = along(torch.from_numpy(leaving), channel_dim, shape)
    assert leaving.size == channels_out
    tape.emit(
        kind,
        [tape.activation(x)],
        [labels],
        parameters=_named(tape, weight=weight, bias=bias),
        attrs=attrs,
        rows=rows,
        columns=columns,
    )
    tape.put(out, labels)


def _decision(tape: Tape, weight: Tensor, channels: int, groups: int) -> str | None:
    """What leaves a grouped convolution, "whole" groups or channels in "lockstep": decided once for each weight."""
    labels = tape.labels(weight)
    name = tape.name_of(weight) or (labels.parameter if labels is not None else None)
    if not name:
        return None
    if groups > 1 and name not in tape.decisions:
        tape.decisions[name] = "whole" if groups >= channels // groups else "lockstep"
    return tape.decisions.get(name)


def _shared_kernel(tape: Tape, weight: Tensor) -> bool:
    """The weight is the same for every row: one kernel, expanded or repeated."""
    labels = tape.labels(weight)
    return labels is not None and labels.parameter is not None and labels.ids.shape[0] == 1


def _grouped(
    tape: Tape, arriving: Ids, rows: Ids, columns: Ids, column_slot: Slot, groups: int, transposed: bool, whole: bool
) -> Ids:
    """Units of a grouped convolution, and what leaves it.

    Either whole groups go (a depthwise convolution is the case of one channel a group) or the same channel of every
    group does; whichever leaves more widths to choose from in the seed (`whole`).
    """
    arriving_gc = arriving.reshape(groups, -1)
    per_group = arriving_gc.shape[1]
    if transposed:
        columns_gc, leaving = columns.reshape(groups, per_group), np.tile(rows, groups)
    else:
        columns_gc, leaving = np.tile(columns, (groups, 1)), rows
    leaving_go = leaving.reshape(groups, -1)
    if whole:
        head = arriving_gc[:, :1]
        tape.union(np.broadcast_to(head, arriving_gc.shape), arriving_gc)
        if transposed:
            # The rows of every group are the same slices of the weight, so no row can leave: only whole groups can.
            tape.pin(rows, "every group of the transposed convolution shares it")
            tape.union(arriving_gc, columns_gc, column_slot)
            tape.pin(
                columns_gc[arriving_gc == RIGID],
                f"{tape.where('a convolution')} reads the network's input or a constant",
            )
            return np.repeat(head[:, 0], leaving_go.shape[1])
        tape.union(np.broadcast_to(head, leaving_go.shape), leaving_go)
        tape.pin(
            leaving_go[np.broadcast_to(head == RIGID, leaving_go.shape)],
            f"{tape.where('a convolution')} reads the network's input or a constant",
        )
        return leaving
    tape.union(arriving_gc, columns_gc, column_slot)
    tape.pin(columns_gc[arriving_gc == RIGID], f"{tape.where('a convolution')} reads the network's input or a constant")
    if not transposed:
        tape.union(np.broadcast_to(columns_gc[:1], columns_gc.shape), columns_gc)
        tape.union(np.broadcast_to(leaving_go[:1], leaving_go.shape), leaving_go)
    else:
        tape.union(np.broadcast_to(columns_gc[:1], columns_gc.shape), columns_gc)
    return leaving


def _conv(dims: int, transposed: bool) -> Callable[..., Tensor]:
    names = ["input", "weight", "bias", "stride", "padding"]
    names += ["output_padding", "groups", "dilation"] if transposed else ["dilation", "groups"]

    def rule(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
        given = dict(zip(names, args, strict=False)) | kwargs
        x, weight = given["input"], given["weight"]
        out = _conv_shape(given, dims, transposed) if x.is_meta else None
        if out is None:
            out = func(*args, **kwargs)
        batch = x.shape[0] if x.dim() == dims + 2 else 1
        attrs = {
            "kernel": tuple(weight.shape[2:]),
            "groups": given.get("groups", 1),
            "stride": _tuple(given.get("stride", 1), dims),
            "input_spatial": tuple(x.shape[-dims:]),
            "output_spatial": tuple(out.shape[-dims:]),
            "batch": batch,
        }
        convolution(tape, x, weight, given.get("bias"), out, groups=attrs["groups"], transposed=transposed, attrs=attrs)
        return out

    return rule


def _tuple(value: Any, dims: int) -> tuple[int, ...]:
    return (
        (int(value),) * dims
        if isinstance(value, int)
        else tuple(int(v) for v in value) * (dims if len(value) == 1 else 1)
    )


def _conv_shape(given: dict[str, Any], dims: int, transposed: bool) -> Tensor | None:
    """The output of a convolution as an empty meta tensor, from the sizes alone (PyTorch's own formula)."""
    x, weight = given["input"], given["weight"]
    groups, padding = given.get("groups", 1), given.get("padding", 0)
    channels = x.shape[-dims - 1]
    if transposed or channels != weight.shape[1] * groups or weight.shape[0] % groups or x.dtype != weight.dtype:
        return None  # let PyTorch compute it, or raise its own error
    stride, dilation = _tuple(given.get("stride", 1), dims), _tuple(given.get("dilation", 1), dims)
    spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if padding == "same":
        pads = spans
    elif padding == "valid":
        pads = [0] * dims
    else:
        pads = [2 * p for p in _tuple(padding, dims)]
    spatial = [
        (s + p - span - 1) // st + 1 for s, p, span, st in zip(x.shape[-dims:], pads, spans, stride, strict=True)
    ]
    if min(spatial) < 1:
        return None
    return torch.empty((*x.shape[: -dims - 1], weight.shape[0], *spatial), dtype=x.dtype, device="meta")


# -- linear ----------------------------------------------------------------------------------------------------------


def linear(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
    """`... x c` -> `... x o`; the weight is `o x c`."""
    given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    if x.is_meta and x.shape[-1] == weight.shape[1]:
        out = torch.empty((*x.shape[:-1], weight.shape[0]), dtype=x.dtype, device="meta")
    else:
        out = func(*args, **kwargs)
    linear_labels(tape, x, weight, bias, out)
    return out


def linear_labels(tape: Tape, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, *, row_dim: int = 0) -> None:
    """Label the output of a linear layer whose weight has rows along `row_dim` (1 for ``x @ w`` and ``addmm``)."""
    labels = tape.activation(x)
    last = x.dim() - 1
    shape = tuple(out.shape)
    others = [d for d in labels.varying() if d != last]
    positions = tape.decide("linear", ("both" if last in labels.varying() else "positions") if others else None)
    found_rows = resolve_slot(tape, weight, row_dim, "rows")
    found_columns = resolve_slot(tape, weight, 1 - row_dim, "columns")
    if found_rows is None or found_columns is None:
        tape.pin(labels.ids, f"{tape.where('a product')}: its weight is computed from data or from other parameters")
        out_labels = constant(RIGID, shape)
        tape.emit("linear", [labels], [out_labels])
        tape.put(out, out_labels)
        return
    (rows, _), (columns, column_slot) = found_rows, found_columns
    if positions is not None:
        # A layer over positions (tokens): the units stay where they are, its own rows and columns are positions.
        tape.pin(columns, f"{tape.where('a linear layer')} runs along positions, not channels")
        tape.pin(rows, f"{tape.where('a linear layer')} runs along positions, not channels")
        if positions == "both":
            tape.pin(labels.ids, f"{tape.where('a linear layer')} reads units along two dimensions")
            out_labels = constant(RIGID, shape)
        else:
            out_labels = compact(labels.ids, shape)
    else:
        arriving = np.asarray(labels.vector(last))
        tape.union(arriving, columns, column_slot)
        tape.pin(columns[arriving == RIGID], f"{tape.where('a convolution')} reads the network's input or a constant")
        if bias is not None:
            bind(tape, bias, 0, rows, "bias")
        out_labels = along(torch.from_numpy(rows), last, shape)
    tape.emit(
        "linear",
        [labels],
        [out_labels],
        parameters=_named(tape, weight=weight, bias=bias),
        attrs={"batch": x.shape[0] if x.dim() > 1 else 1, "positions": prod(x.shape[:-1])},
        rows=rows,
        columns=columns,
    )
    tape.put(out, out_labels)


# -- norms -----------------------------------------------------------------------------------------------------------


def batch_norm(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Per channel: binds scale, shift and running statistics."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = dict(zip(names, args, strict=False)) | kwargs
    x = given["input"]
    if x.is_meta:
        out = torch.empty_like(x)
    elif given.get("training"):
        # Statistics are a side effect that recording must not have; one value a channel has no variance, and needs none.
        many = x.numel() // max(1, x.shape[1]) > 1
        scale = (given.get("weight"), given.get("bias"))
        out = F.batch_norm(x, None, None, *scale, training=True) if many else x.clone()
    else:
        out = func(*args, **kwargs)
    tensors = {key: given.get(key) for key in ("weight", "bias", "running_mean", "running_var")}
    per_channel_norm(tape, "batch_norm", x, out, tensors)
    return out


def instance_norm(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Per image and channel: binds scale, shift and running statistics."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
    given = dict(zip(names, args, strict=False)) | kwargs
    x = given["input"]
    out = torch.empty_like(x) if x.is_meta else func(*args, **kwargs)
    tensors = {key: given.get(key) for key in ("weight", "bias", "running_mean", "running_var")}
    per_channel_norm(tape, "instance_norm", x, out, tensors)
    return out


def per_channel_norm(tape: Tape, kind: str, x: Tensor, out: Tensor, tensors: dict[str, Tensor | None]) -> None:
    """Bind everything that a norm holds per channel (dimension 1 of `x`) and pass the labels on."""
    units = channel_labels(tape, x, 1, f"a {kind.replace('_', ' ')}")
    for role, tensor in tensors.items():
        if tensor is not None:
            bind(tape, tensor, 0, units, "norm" if role == "weight" else "other")
    labels = along(torch.from_numpy(np.ascontiguousarray(units)), 1, tuple(x.shape))
    affine = tensors.get("weight") is not None
    tape.emit(
        kind,
        [tape.activation(x)],
        [labels],
        parameters=_named(tape, **tensors),
        attrs={"affine": affine, "batch": x.shape[0]},
    )
    tape.put(out, labels)


def layer_norm(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Over the last dimensions: statistics mix the channels, so removal is not exact."""
    given = dict(zip(("input", "normalized_shape", "weight", "bias", "eps"), args, strict=False)) | kwargs
    x, over = given["input"], list(given["normalized_shape"])
    out = torch.empty_like(x) if x.is_meta else func(*args, **kwargs)
    labels = tape.activation(x)
    dims = range(x.dim() - len(over), x.dim())
    carrying = [d for d in dims if d in labels.varying()]
    chosen = tape.decide("layer_norm", ",".join(map(str, carrying)) or None)
    if chosen is not None:
        tape.mix(labels.ids, tape.where("a layer norm over channels"))
        for role in ("weight", "bias"):
            tensor = given.get(role)
            if tensor is not None:
                bind_elements(tape, tensor, labels, "norm" if role == "weight" else "bias")
    out_labels = Labels(labels.ids, labels.shape)
    tape.emit(
        "layer_norm",
        [labels],
        [out_labels],
        parameters=_named(tape, weight=given.get("weight"), bias=given.get("bias")),
        attrs={"affine": given.get("weight") is not None, "batch": x.shape[0], "normalized_dims": len(over)},
    )
    tape.put(out, out_labels)
    return out


def group_norm(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Channels in `g` sets: whole sets leave exactly; with a single set, channels leave but statistics mix."""
    given = dict(zip(("input", "num_groups", "weight", "bias", "eps"), args, strict=False)) | kwargs
    x, groups = given["input"], int(given["num_groups"])
    out = torch.empty_like(x) if x.is_meta else func(*args, **kwargs)
    units = channel_labels(tape, x, 1, "a group norm")
    if groups == 1 and tape.decide("group_norm", None) is None:
        tape.mix(units, tape.where("a group norm with one group"))
    else:
        if groups > 1:
            tape.decide("group_norm", "sets")
        tape.fuse(torch.from_numpy(np.ascontiguousarray(units)).reshape(groups, -1), 1)
    # Without a scale nothing else says how many channels a rewritten network has here.
    counted = tape.filler("group_norm", units.size)
    if counted is not None:
        tape.union(units, counted)
    for role in ("weight", "bias"):
        tensor = given.get(role)
        if tensor is not None:
            bind(tape, tensor, 0, units, "norm" if role == "weight" else "bias")
    labels = along(torch.from_numpy(np.ascontiguousarray(units)), 1, tuple(x.shape))
    affine = given.get("weight") is not None
    tape.emit(
        "group_norm",
        [tape.activation(x)],
        [labels],
        parameters=_named(tape, weight=given.get("weight"), bias=given.get("bias")),
        attrs={"affine": affine, "batch": x.shape[0], "norm_groups": groups, "counted": tape.last_filler},
    )
    tape.put(out, labels)
    return out


def bind_elements(tape: Tape, tensor: Tensor, units: Labels, role: str) -> None:
    """Bind a parameter that meets an activation element by element (a scale, a learned gate, an embedding).

    It must follow the units along exactly one of its own dimensions; else the units are pinned.
    """
    labels = tape.labels(tensor)
    if labels is None or labels.parameter is None:
        return
    name = labels.parameter
    moving = units.varying()
    rank = len(units.shape)
    sizes = (1,) * (rank - tensor.dim()) + tuple(tensor.shape)
    spans = any(sizes[d] > 1 for d in moving)
    if not name:
        if spans:
            tape.pin(units.ids, tape.where("a tensor computed from parameters"))
        return
    known = tape.decisions.get(f"{name}:follows")
    if not spans and known is None:
        return  # broadcast over the channels: nothing of it leaves with one
    if known is not None and not moving:
        # One unit is left: which dimension carries it was decided when there were more.
        slot = tape.slot(name, int(known), role)
        tape.union(np.broadcast_to(np.asarray(units.ids).reshape(-1)[:1], slot.shape), slot)
        return
    ids = labels.full().reshape(sizes)
    for d in range(rank):
        if d not in moving and ids.shape[d] > 1:
            ids = ids.narrow(d, 0, 1)
    shape = torch.broadcast_shapes(ids.shape, units.ids.shape)
    element = np.asarray(ids.expand(shape)).reshape(-1) - 1
    unit = np.asarray(units.ids.expand(shape)).reshape(-1)
    coordinates = np.unravel_index(element, tape.shapes[name])
    for dim, coordinate in enumerate(coordinates):
        size = tape.shapes[name][dim]
        if size == 1:
            continue
        low, high = np.full(size, np.iinfo(np.int64).max), np.full(size, -1)
        np.minimum.at(low, coordinate, unit)
        np.maximum.at(high, coordinate, unit)
        seen = high >= 0
        if (low[seen] == high[seen]).all():
            if not tape.replaying:
                tape.decisions[f"{name}:follows"] = str(dim)
            found = tape.slot(name, dim, role)
            tape.union(np.where(seen, high, RIGID), found, (name, dim))
            tape.pin(found[~seen | (high == RIGID)], f"{tape.where('part of ' + name)} meets data whose size is fixed")
            return
    tape.pin(units.ids, tape.where(f"the parameter {name}, which follows the channels along no dimension of its own"))


FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv1d: _conv(1, False),
    torch.conv2d: _conv(2, False),
    torch.conv3d: _conv(3, False),
    torch.conv_transpose1d: _conv(1, True),
    torch.conv_transpose2d: _conv(2, True),
    torch.conv_transpose3d: _conv(3, True),
    F.linear: linear,
    F.batch_norm: batch_norm,
    F.instance_norm: instance_norm,
    F.layer_norm: layer_norm,
    F.group_norm: group_norm,
}
