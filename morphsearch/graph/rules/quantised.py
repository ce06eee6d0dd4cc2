"""Fake quantisation with a scale and a zero point for every slice of a weight, or with its own observer.

Zero stays zero, whatever they are, since a zero point is one of the numbers that there are.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from morphsearch.graph.labels import LOOSE, Labels
from morphsearch.graph.rules.binding import bind, follows, mixes_parameter, unknown_part
from morphsearch.graph.rules.common import finish
from morphsearch.graph.schemas import argument_names
from morphsearch.graph.tape import Tape
from morphsearch.graph.tensors import tensors_in


def by_channel(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """``fake_quantize_per_channel_affine(x, scale, zero_point, axis, ...)``."""
    x, scale, zero_point, axis = args[:4]
    _with_vectors(tape, func, x, [scale, zero_point], axis, out)


def observed(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """The same with an observer of the smallest and the largest value, of all of `x` or (``per_row``) of each slice."""
    given = dict(zip(argument_names(func), args, strict=False)) | kwargs
    x, axis, per_row = given["self"], given["ch_axis"], given.get("per_row_fake_quant", False)
    labels, what = tape.labels(x), tape.where("a moving average of extrema")
    if labels is None:
        return
    if labels.parameter is None:
        tape.mix(labels.ids, what)
    else:
        mixes_parameter(tape, labels, [d for d in range(x.dim()) if not per_row or d != axis % x.dim()], what)
    vectors = [given[name] for name in ("running_min", "running_max", "scale", "zero_point")]
    _with_vectors(tape, func, x, vectors if per_row else [], axis, out)


def _with_vectors(tape: Tape, func: Any, x: Tensor, vectors: list[Tensor], axis: int, out: Any) -> None:
    """What comes out is of the same units, and vectors along `axis` follow them."""
    labels = tape.labels(x)
    if labels is None:
        return
    vectors = [one for one in vectors if one.numel() > 1]
    if labels.parameter is None:
        for vector in vectors:
            bind(tape, vector, 0, labels.vector(axis).numpy(), "gate")
        finish(tape, func, [labels], out, [labels for _ in tensors_in(out)])
        return
    followed = bool(labels.parameter)
    for vector in vectors:
        own = tape.labels(vector)
        if own is not None and own.parameter:
            view = [-1 if dim == axis % x.dim() else 1 for dim in range(x.dim())]
            shape = tuple(vector.numel() if size < 0 else 1 for size in view)
            own = Labels(own.ids.reshape(view), shape, -1, own.parameter)
            followed = followed and follows(tape, own, labels)
        elif own is not None and int(own.ids.max()) != LOOSE:
            followed = False
    if followed:
        tape.bent.setdefault(labels.parameter or "", tape.where(tape.doing))
    else:
        labels = unknown_part(tape, [labels], tuple(x.shape), tape.doing)
    for tensor in tensors_in(out):
        tape.put(tensor, Labels(labels.ids, labels.shape, -1, labels.parameter))


__all__ = ["by_channel", "observed"]
