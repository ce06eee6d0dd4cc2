"""Convolutions: whole, grouped, depthwise, transposed, and with a kernel that all channels share.

Letters: `n` batch, `c`/`o` channels in and out, `g` convolution groups, `k` kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphsearch.graph.labels import RIGID, along, constant
from morphsearch.graph.rules.beside import beside_units
from morphsearch.graph.rules.binding import (
    bind,
    channel_labels,
    named,
    never_silent,
    resolve_slot,
)
from morphsearch.graph.rules.grouped import decision, leaving
from morphsearch.graph.rules.mixed_convolutions import mixed_convolution
from morphsearch.graph.rules.mixtures import wish
from morphsearch.graph.tape import Tape


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
    if tape.mixtures and mixed_convolution(tape, x, weight, bias, out, groups, transposed, attrs):
        return
    channel_dim = x.dim() - (weight.dim() - 1)
    what = "a transposed convolution" if transposed else "a convolution"
    if _along_channels(tape, x, weight, bias, out, channel_dim, attrs, transposed=transposed):
        return
    if not transposed and beside_units(tape, x, weight, bias, out, attrs, groups=groups):
        return
    arriving = channel_labels(tape, x, channel_dim, what)
    row_dim, column_dim = (1, 0) if transposed else (0, 1)
    shape = tuple(out.shape)
    kind = "conv_transpose" if transposed else "conv"
    decided = decision(tape, _weight_name(tape, weight), arriving.size, groups)
    attrs["whole"] = decided == "whole"
    # Whole groups of a transposed convolution: its columns leave as the channels that it makes, and its rows never do.
    by_column = transposed and decided == "whole"
    blurs = groups == arriving.size and shape[channel_dim] == groups and _shared_kernel(tape, weight)
    if tape.decide(kind, "one kernel for all channels" if blurs and groups > 1 else None) is not None:
        labels = along(arriving, channel_dim, shape)
        tape.emit(kind, [tape.activation(x)], [labels], attrs=attrs | {"per_element": True})
        tape.put(out, labels)
        return
    found_rows = resolve_slot(tape, weight, row_dim, "other" if by_column else "rows")
    found_columns = resolve_slot(tape, weight, column_dim, "rows" if by_column else "columns")
    if found_rows is None or found_columns is None:
        reason = f"{tape.where(what)}: its weight is computed from data or from other parameters"
        tape.pin(arriving, reason)
        for found in (found_rows, found_columns):
            if found is not None:
                tape.pin(found[0], reason)
        tape.pin(np.asarray(tape.activation(weight).ids).reshape(-1), reason)
        wish(tape, weight)
        if bias is not None:
            tape.pin(np.asarray(tape.activation(bias).ids).reshape(-1), reason)
        labels = constant(RIGID, shape)
        tape.emit(kind, [tape.activation(x)], [labels], attrs=attrs)
        tape.put(out, labels)
        return
    (rows, _), (columns, column_slot) = found_rows, found_columns
    if columns.size > 1:  # it sums over channels
        never_silent(tape, x, weight, arriving)
    channels_out = shape[channel_dim]
    left = leaving(tape, arriving, rows, columns, column_slot, groups, transposed, decided)
    if bias is not None:
        bind(tape, bias, 0, left, "bias")
    labels = along(left, channel_dim, shape)
    assert left.size == channels_out
    tape.emit(
        kind,
        [tape.activation(x)],
        [labels],
        parameters=named(tape, weight=weight, bias=bias),
        attrs=attrs,
        rows=rows,
        columns=columns,
    )
    tape.put(out, labels)


def _along_channels(
    tape: Tape,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    channel_dim: int,
    attrs: dict[str, Any],
    *,
    transposed: bool,
) -> bool:
    """A kernel that slides over the units themselves (efficient channel attention, arXiv 1910.03151): each result
    belongs to the unit at the middle of its window, and units mix."""
    labels = tape.activation(x)
    moving = labels.varying()
    natural = None
    if x.shape[channel_dim] == out.shape[channel_dim] == 1 and len(moving) == 1 and moving[0] > channel_dim:
        natural = str(moving[0])
    chosen = tape.decide("a convolution over channels", natural, strict=True)
    if chosen is None or transposed:
        return False
    dim = int(chosen)
    place = dim - channel_dim - 1
    stride, kernel = attrs["stride"][place], attrs["kernel"][place]
    missing = out.shape[dim] - x.shape[dim]  # how far padding makes up for the window
    if stride != 1 or attrs.get("dilation", (1,) * 9)[place] != 1 or (kernel - 1 + missing) % 2:
        return False
    first = (kernel - 1) // 2 - (kernel - 1 + missing) // 2
    index = np.arange(first, first + out.shape[dim]).clip(0, x.shape[dim] - 1)
    tape.mix(labels.ids, tape.where("a convolution over channels"))
    units = np.asarray(labels.vector(dim))[index]
    found = along(units, dim, tuple(out.shape))
    for tensor in (weight, bias):
        name = tape.name_of(tensor) if tensor is not None else None
        if name is not None:
            tape.pin(tape.slot(name, 0, "other"), tape.where("a kernel that slides over channels"))
    attrs |= {"per_element": True, "whole": False}
    tape.emit("conv", [labels], [found], parameters=named(tape, weight=weight, bias=bias), attrs=attrs)
    tape.put(out, found)
    return True


def _weight_name(tape: Tape, weight: Tensor) -> str | None:
    name = tape.name_of(weight)
    if name is None:
        labels = tape.labels(weight)
        name = labels.parameter if labels is not None else None
    return name


def _shared_kernel(tape: Tape, weight: Tensor) -> bool:
    """The weight is the same for every row: one kernel, expanded or repeated."""
    labels = tape.labels(weight)
    return labels is not None and labels.parameter is not None and labels.ids.shape[0] == 1


def conv_rule(dims: int, transposed: bool) -> Callable[..., Tensor]:
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
            "dilation": _tuple(given.get("dilation", 1), dims),
            "input_spatial": tuple(x.shape[-dims:]),
            "output_spatial": tuple(out.shape[-dims:]),
            "batch": batch,
            "products": 3 if x.is_complex() else 1,  # of real numbers: how PyTorch runs a complex convolution
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
