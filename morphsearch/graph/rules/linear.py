"""Linear layers, and products with a weight."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphsearch.graph.labels import RIGID, Labels, along, compact, constant
from morphsearch.graph.rules.binding import (
    bind,
    learned,
    named,
    never_silent,
    resolve_slot,
)
from morphsearch.graph.rules.layouts import lockstep
from morphsearch.graph.rules.mixtures import may_mix, mixed_by_product
from morphsearch.graph.tape import Tape


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


def linear_labels(
    tape: Tape,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    *,
    row_dim: int = 0,
    column_dim: int = 1,
) -> None:
    """Label the output of a linear layer whose weight has rows along `row_dim` (the last for ``x @ w`` and
    ``addmm``)."""
    if tape.decisions and mixed_by_product(tape, x, -1, weight, (row_dim, column_dim), bias, out):
        return
    last = x.dim() - 1
    labels = learned(tape, x, last) or tape.activation(x)
    shape = tuple(out.shape)
    others = [d for d in labels.varying() if d != last]
    positions = tape.decide("linear", ("both" if last in labels.varying() else "positions") if others else None)
    found_rows = resolve_slot(tape, weight, row_dim, "rows")
    found_columns = resolve_slot(tape, weight, column_dim, "columns")
    if found_rows is None or found_columns is None:
        reason = f"{tape.where('a product')}: its weight is not one matrix of a parameter, but computed from something"
        for found in (found_rows, found_columns):
            if found is not None:
                tape.pin(found[0], reason)
        tape.pin(labels.ids, reason)
        tape.pin(tape.activation(weight).ids, reason)
        out_labels = constant(RIGID, shape)
        may_mix(tape, weight, tape.emit("linear", [labels], [out_labels]))
        tape.put(out, out_labels)
        return
    (rows, _), (columns, column_slot) = found_rows, found_columns
    if positions == "both":
        # Heads, or other things beside the channels: all that share a channel are one unit.
        labels = Labels(lockstep(tape, labels.ids, last), labels.shape, labels.producer)
    if positions == "positions":
        # A layer over positions (tokens): the units stay where they are, its own rows and columns are positions.
        tape.pin(columns, f"{tape.where('a linear layer')} runs along positions, not channels")
        tape.pin(rows, f"{tape.where('a linear layer')} runs along positions, not channels")
        out_labels = compact(labels.ids, shape)
    else:
        arriving = np.asarray(labels.vector(last))
        tape.union(arriving, columns, column_slot)
        never_silent(tape, x, weight, arriving)
        tape.pin(columns[arriving == RIGID], f"{tape.where('a convolution')} reads the network's input or a constant")
        if bias is not None:
            bind(tape, bias, 0, rows, "bias")
        out_labels = along(rows, last, shape)
    tape.emit(
        "linear",
        [labels],
        [out_labels],
        parameters=named(tape, weight=weight, bias=bias),
        attrs={"batch": x.shape[0] if x.dim() > 1 else 1, "positions": prod(x.shape[:-1])},
        rows=rows,
        columns=columns,
    )
    tape.put(out, out_labels)
