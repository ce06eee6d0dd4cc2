"""Norms: per channel, over channels, and over sets of channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from morphsearch.graph.labels import Labels, along, reshape
from morphsearch.graph.rules.binding import (
    bind,
    bind_elements,
    channel_labels,
    follows,
    learned,
    mixes_parameter,
    named,
    unknown_part,
)
from morphsearch.graph.tape import Tape


def batch_norm(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Per channel: binds scale, shift and running statistics."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = dict(zip(names, args, strict=False)) | kwargs
    x = given["input"]
    weight_labels = tape.labels(x)
    if weight_labels is not None and weight_labels.parameter is not None:
        return _standardise(tape, func, args, kwargs, weight_labels, [given.get("weight"), given.get("bias")])
    if x.is_meta:
        out = torch.empty(x.shape, dtype=x.dtype, device="meta")
    elif given.get("training"):
        # Statistics are a side effect that recording must not have; one value a channel has no variance.
        many = x.numel() // max(1, x.shape[1]) > 1
        scale = (given.get("weight"), given.get("bias"))
        out = F.batch_norm(x, None, None, *scale, training=True) if many else x.clone()
    else:
        out = func(*args, **kwargs)
    tensors = {key: given.get(key) for key in ("weight", "bias", "running_mean", "running_var")}
    per_channel_norm(tape, "batch_norm", x, out, tensors)
    return out


def _standardise(tape: Tape, func: Any, args: Any, kwargs: Any, labels: Labels, scales: list[Tensor | None]) -> Tensor:
    """A norm of a weight (standardisation, arXiv 1903.10520): still that weight; its columns mix, scales follow its
    rows."""
    x = args[0] if args else kwargs["input"]
    out: Tensor = torch.empty(x.shape, dtype=x.dtype, device="meta") if x.is_meta else func(*args, **kwargs)
    mixes_parameter(tape, labels, [d for d in range(len(labels.shape)) if d != 1], tape.where("a norm of the weight"))
    followed = True
    for scale in scales:
        own = tape.labels(scale) if scale is not None else None
        if own is not None and scale is not None:
            shape = (1, scale.shape[0], *(1,) * (len(labels.shape) - 2))
            followed = followed and follows(tape, reshape(own, shape), labels)
    if labels.parameter and len(tape.shapes[labels.parameter]) >= 2:
        shape = tape.shapes[labels.parameter]
        rows, columns = tape.slot(labels.parameter, 0, "rows"), tape.slot(labels.parameter, 1, "columns")
        attrs = {"affine": scales[0] is not None, "kernel": shape[2:]}
        tape.emit("batch_norm", [], [], attrs=attrs, rows=rows, columns=columns)
    if followed:
        tape.put(out, Labels(labels.ids, labels.shape, -1, labels.parameter))
    else:
        tape.put(out, unknown_part(tape, [labels], tuple(out.shape), "batch_norm"))
    return out


def instance_norm(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Per image and channel: binds scale, shift and running statistics."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
    given = dict(zip(names, args, strict=False)) | kwargs
    x = given["input"]
    out = torch.empty(x.shape, dtype=x.dtype, device="meta") if x.is_meta else func(*args, **kwargs)
    tensors = {key: given.get(key) for key in ("weight", "bias", "running_mean", "running_var")}
    per_channel_norm(tape, "instance_norm", x, out, tensors)
    return out


def per_channel_norm(tape: Tape, kind: str, x: Tensor, out: Tensor, tensors: dict[str, Tensor | None]) -> None:
    """Bind everything that a norm holds per channel (dimension 1 of `x`) and pass the labels on."""
    units = channel_labels(tape, x, 1, f"a {kind.replace('_', ' ')}")
    for role, tensor in tensors.items():
        if tensor is not None:
            bind(tape, tensor, 0, units, "norm" if role == "weight" else "other")
    labels = along(units, 1, tuple(x.shape))
    affine = tensors.get("weight") is not None
    tape.emit(
        kind,
        [tape.activation(x)],
        [labels],
        parameters=named(tape, **tensors),
        attrs={"affine": affine, "batch": x.shape[0]},
    )
    tape.put(out, labels)


def layer_norm(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Over the last dimensions: statistics mix the channels, so removal is not exact."""
    given = dict(zip(("input", "normalized_shape", "weight", "bias", "eps"), args, strict=False)) | kwargs
    x, over = given["input"], list(given["normalized_shape"])
    if list(x.shape[x.dim() - len(over) :]) != over:
        raise RuntimeError(f"a layer norm over {over} is given a tensor of {tuple(x.shape)}")
    out = torch.empty(x.shape, dtype=x.dtype, device="meta") if x.is_meta else func(*args, **kwargs)
    tokens = learned(tape, x, x.dim() - 1) if len(over) == 1 and x.dim() > 2 else None
    labels = tokens or tape.activation(x)
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
        parameters=named(tape, weight=given.get("weight"), bias=given.get("bias")),
        attrs={"affine": given.get("weight") is not None, "batch": x.shape[0], "normalized_dims": len(over)},
    )
    tape.put(out, out_labels)
    return out


def group_norm(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Channels in `g` sets: whole sets leave exactly; with a single set, channels leave but statistics mix."""
    given = dict(zip(("input", "num_groups", "weight", "bias", "eps"), args, strict=False)) | kwargs
    x, groups = given["input"], int(given["num_groups"])
    out = torch.empty(x.shape, dtype=x.dtype, device="meta") if x.is_meta else func(*args, **kwargs)
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
    labels = along(units, 1, tuple(x.shape))
    affine = given.get("weight") is not None
    tape.emit(
        "group_norm",
        [tape.activation(x)],
        [labels],
        parameters=named(tape, weight=given.get("weight"), bias=given.get("bias")),
        attrs={"affine": affine, "batch": x.shape[0], "norm_groups": groups, "counted": tape.last_filler},
    )
    tape.put(out, labels)
    return out


def weight_norm(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
    """A direction and its length (arXiv 1602.07868): still that weight, whose lengths follow its rows. Everything in it
    mixes: without a column the others grow, and a direction at zero has no length."""
    given = {"dim": 0} | dict(zip(("v", "g", "dim"), args, strict=False)) | kwargs
    direction, length = given["v"], given["g"]
    out: Tensor = torch.empty_like(direction) if direction.is_meta else func(*args, **kwargs)
    labels, lengths = tape.labels(direction), tape.labels(length)
    if labels is None or not labels.parameter:
        tape.put(out, unknown_part(tape, [one for one in (labels, lengths) if one], tuple(out.shape), "weight norm"))
        return out
    followed = lengths is not None and follows(tape, lengths, labels)
    mixes_parameter(tape, labels, list(range(len(labels.shape))), tape.where("a weight norm"))
    if followed:
        if lengths is not None and lengths.parameter:
            for dim in [dim for dim, size in enumerate(lengths.shape) if size > 1]:
                tape.lengths[labels.parameter, dim] = lengths.parameter
        tape.put(out, Labels(labels.ids, tuple(out.shape), -1, labels.parameter))
    else:
        known = [one for one in (labels, lengths) if one is not None]
        tape.put(out, unknown_part(tape, known, tuple(out.shape), "weight norm"))
    return out
