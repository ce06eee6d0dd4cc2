"""Pooling, reducing, and other operations along dimensions."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from morphsearch.graph.labels import LOOSE, RIGID, Labels, constant, reduce_ids, unknown
from morphsearch.graph.rules.binding import learned, mixes_parameter, unknown_part
from morphsearch.graph.rules.common import finish, numbers_in, plain_arguments
from morphsearch.graph.rules.elementwise import meet
from morphsearch.graph.rules.layouts import lockstep
from morphsearch.graph.rules.mixtures import mixed_statistic
from morphsearch.graph.schemas import argument_names, short_name
from morphsearch.graph.tape import Tape
from morphsearch.graph.tensors import tensors_in


def spatial(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Pools, resizes and other operations within each channel: the labels stay along batch and channels."""
    outputs = tensors_in(out)
    labels = (learned(tape, args[0], 1) if args[0].dim() > 2 else None) or tape.activation(args[0])
    channel = 1 if args[0].dim() > 3 or outputs[0].dim() > 2 else 0
    moving = labels.varying()
    beyond = [d for d in moving if d > channel]
    natural = ",".join(map(str, beyond)) if beyond and not set(moving) - set(beyond) else None
    chosen = tape.decide(short_name(func), natural, strict=True)
    if chosen is not None:
        # The window slides over the channels themselves (local response normalisation).
        found = _middles(args, labels, outputs[0], [int(d) for d in chosen.split(",")])
        if found is not None:
            tape.mix(labels.ids, tape.where(f"{short_name(func)} over channels"))
        else:
            tape.pin(labels.ids, tape.where(f"{short_name(func)} over channels"))
        produced = [Labels(found, tuple(o.shape)) if found is not None else constant(RIGID, o.shape) for o in outputs]
    else:
        ids = _flatten_spatial(tape, labels, channel)
        produced = [Labels(ids, tuple(o.shape)) for o in outputs]
    attrs = plain_arguments(args[1:], kwargs)
    finish(tape, func, [labels], out, produced, attrs=attrs | {"counts": numbers_in(args[1:], kwargs)})


def unpooled(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """The way back from a pool (SegNet, arXiv 1511.00561): every channel goes where the pool found its largest values,
    so it has the channels of the tensor that was pooled."""
    labels, places = tape.activation(args[0]), tape.activation(args[1])
    ids = meet(tape, short_name(func), _flatten_spatial(tape, labels), _flatten_spatial(tape, places))
    finish(tape, func, [labels, places], out, [Labels(ids, tuple(out.shape))], attrs=plain_arguments(args[2:], kwargs))


def _middles(args: Any, labels: Labels, out: Tensor, dims: list[int]) -> Tensor | None:
    """The labels at the middle of each window along `dims`; None where windows are not one for each channel."""
    ids = labels.ids
    for dim in dims:
        missing = labels.shape[dim] - out.shape[dim]
        kernel = args[1] if len(args) > 1 and isinstance(args[1], (tuple, list)) else []
        place = dim - (len(labels.shape) - len(kernel))
        if missing and (place < 0 or len(kernel) < 2 or int(kernel[place]) - 1 != missing):
            return None
        if missing and ids.shape[dim] > 1:
            ids = ids.narrow(dim, (missing + 1) // 2, out.shape[dim])
    return ids


def adaptive_pool(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Adaptive average pooling, whole: below, PyTorch turns it into a mean, which costs are counted differently for."""
    out: Tensor = func(*args, **kwargs)
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
    natural = f"{_how(labels, over)}:" + ",".join(map(str, over)) if over else None
    chosen = tape.decide(name, natural)
    how, _, where = (chosen or "").partition(":")
    over = sorted({*over, *(int(d) for d in where.split(",") if d)})
    if how == "fuse":
        for d in over:
            ids = tape.fuse(ids, d)
    elif over:
        if how == "lockstep":
            lockstep(tape, ids, over[0])
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
    attrs: dict[str, Any] = {"dims": dims}
    if name == "sum" and bool((labels.ids == LOOSE).all()):  # a sum of ones counts them
        attrs["counts"] = (float(prod(labels.shape[d] for d in dims)),)
    finish(tape, func, [labels], out, produced, attrs=attrs)


_LINEAR = frozenset("sum mean nansum".split())
_LIFTING = frozenset("logsumexp all".split())  # of zeros they make something else


def _how(labels: Labels, over: list[int]) -> str:
    """What becomes of units along dimensions that an operation runs over, where there are others as well.

    Either those along them become one (the radix of split attention), or those beside them are in lockstep (heads of
    attention) and mix along them: whichever leaves more to choose from.
    """
    shape = labels.ids.shape
    along, beside = prod(shape[d] for d in over), prod(shape[d] for d in labels.varying() if d not in over)
    if beside == 1:
        return "mix"
    return "lockstep" if len(over) == 1 and along > beside else "fuse"


def _reduce_parameter(
    tape: Tape, name: str, labels: Labels, dims: list[int], keepdim: bool, outputs: list[Tensor]
) -> None:
    """Statistics of a weight (standardisation): they still follow the dimensions that stay, and mix along the
    others."""
    if labels.parameter in tape.mixtures:
        summed = mixed_statistic(tape, labels, dims, name, outputs)
        if summed is None:
            for tensor in outputs:
                tape.put(tensor, unknown_part(tape, [labels], tuple(tensor.shape), name))
            return
        labels = summed
    mixes_parameter(tape, labels, dims, tape.where(f"{name} of the weight"))
    if labels.parameter and name not in _LINEAR:
        tape.bent.setdefault(labels.parameter, tape.where(name))
    if labels.parameter and name in _LIFTING:
        tape.lifted.setdefault(labels.parameter, tape.where(name))
    ids = reduce_ids(labels, dims)
    if not keepdim:
        ids = ids.reshape([ids.shape[d] for d in range(len(labels.shape)) if d not in dims])
    for tensor in outputs:
        same = labels.parameter and tensor.dim() == ids.dim()
        tape.put(
            tensor, Labels(ids, tuple(tensor.shape), -1, labels.parameter) if same else unknown(tuple(tensor.shape))
        )


def _reduced(func: Any, args: Any, kwargs: Any, rank: int) -> tuple[list[int], bool]:
    given = dict(zip(argument_names(func), args, strict=False)) | kwargs
    dims = given.get("dim")
    if dims is None:
        dims = list(range(rank))
    dims = [dims] if isinstance(dims, int) else list(dims) or list(range(rank))
    return [d % rank for d in dims], bool(given.get("keepdim", False))


def out_sizes_differ(labels: Labels, out: Any) -> bool:
    """An operation did not keep the shape."""
    return any(tuple(o.shape) != labels.shape for o in tensors_in(out))


def along_dim(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Softmax and its kin, which keep the shape but mix along one dimension."""
    labels = tape.activation(args[0])
    dim = next((a for a in args[1:] if isinstance(a, int)), kwargs.get("dim", -1)) % len(labels.shape)
    name = short_name(func).lstrip("_")
    moving = labels.varying()
    chosen = tape.decide(name, _how(labels, [dim]) if dim in moving else None)
    ids = labels.ids
    if chosen == "lockstep":
        ids = lockstep(tape, ids, dim)
        chosen = "mix"
    if chosen == "fuse":
        fused = tape.fuse(ids, dim)
        ids = fused if out_sizes_differ(labels, out) else ids
    elif chosen == "mix" and out_sizes_differ(labels, out):
        tape.pin(ids, tape.where(f"{name} over channels"))
        ids = torch.full((1,) * len(labels.shape), RIGID, dtype=torch.int64)
    elif chosen == "mix":
        tape.mix(ids, tape.where(f"{name} over channels"))
    for tensor in tensors_in(out)[1:]:
        if chosen is not None:
            tape.mark_positions(tensor, labels.ids, tape.where(name))
    produced = [Labels(ids, tuple(o.shape)) for o in tensors_in(out)]
    finish(tape, func, [labels], out, produced, attrs={"dim": dim})
