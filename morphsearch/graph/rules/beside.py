"""Convolutions beside the units: what they slide over or read is positions, and the units lie along another dimension.

Stacked tokens joined by a kernel of one element, or values laid out as an image with one channel (lambda layers, arXiv
2102.08602): along the dimension that carries the units the kernel is one element long, so every unit goes its own way.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from morphsearch.graph.labels import Labels, along
from morphsearch.graph.rules.binding import bind, named, resolve_slot
from morphsearch.graph.rules.layouts import lockstep
from morphsearch.graph.rules.pairs import joined
from morphsearch.graph.tape import Tape


def beside_units(
    tape: Tape, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, attrs: dict[str, Any], *, groups: int
) -> bool:
    """Label the output of such a convolution; False where it is none.

    The channels that it reads are positions and stay; those that it makes are units of their own, so that its output is
    an outer product of them and the units that went by.
    """
    channel_dim = x.dim() - (weight.dim() - 1)
    labels = tape.activation(x)
    tall = [d for d in labels.varying() if d > channel_dim and labels.shape[d] > labels.shape[channel_dim]]
    natural = None
    if groups == 1 and len(tall) == 1 and set(labels.varying()) <= {channel_dim, *tall}:
        natural = f"{tall[0]} {'rows' if out.shape[channel_dim] > 1 else 'row'}"
    where, _, made = (tape.decide("a convolution beside units", natural, strict=True) or "").partition(" ")
    if not where:
        return False
    dim = int(where)
    place = dim - channel_dim - 1
    rows, columns = (
        resolve_slot(tape, weight, d, role) for d, role in ((0, "rows" if made == "rows" else "other"), (1, "columns"))
    )
    same = attrs["kernel"][place] == attrs["stride"][place] == 1 and out.shape[dim] == x.shape[dim]
    if not same or rows is None or columns is None:
        return False
    what = f"{tape.where('a convolution')} reads positions, not channels"
    tape.pin(columns[0], what)
    if made != "rows":
        tape.pin(rows[0], what)
    if bias is not None:
        bind(tape, bias, 0, rows[0], "bias")
    shape = tuple(out.shape)
    units = Labels(lockstep(tape, labels.ids, dim), shape)
    leaving = along(rows[0], channel_dim, shape)
    result = joined(tape, leaving, units) if made == "rows" else units
    tape.emit(
        "conv",
        [labels],
        [result],
        parameters=named(tape, weight=weight, bias=bias),
        attrs=attrs | {"whole": False, "beside": True},
        rows=rows[0],
        columns=columns[0],
    )
    tape.put(out, result)
    return True
