"""``einsum`` of an activation with a weight: a linear layer, whatever its letters are called.

PyTorch computes an einsum through other operations where a size is one, so the call is understood as a whole.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from morphsearch.graph.labels import RIGID, along
from morphsearch.graph.rules.binding import named, never_silent, resolve_slot
from morphsearch.graph.rules.matrices import as_matrices
from morphsearch.graph.rules.mixtures import is_mixed
from morphsearch.graph.tape import Tape


def einsum(tape: Tape, func: Any, args: Any, kwargs: Any) -> Any:
    """``"nchw,oc->nohw"`` with a weight `o x c`; other products are recorded as what PyTorch makes of them."""
    operands = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
    found = _linear(tape, args[0], operands)
    if tape.decide("einsum", None if found else "in parts") is not None or found is None:
        tape.muted -= 1
        try:
            product = as_matrices(args[0], *operands) if isinstance(args[0], str) and len(operands) == 2 else None
            return func(*args, **kwargs) if product is None else product
        finally:
            tape.muted += 1
    x, weight, channel, row_dim, place = found
    out = func(*args, **kwargs)
    labels = tape.activation(x)
    rows, _ = resolve_slot(tape, weight, row_dim, "rows") or (None, None)
    columns, slot = resolve_slot(tape, weight, 1 - row_dim, "columns") or (None, None)
    assert rows is not None
    assert columns is not None
    arriving = np.asarray(labels.vector(channel))
    tape.union(arriving, columns, slot)
    never_silent(tape, x, weight, arriving)
    tape.pin(columns[arriving == RIGID], f"{tape.where('an einsum')} reads the network's input or a constant")
    made = along(rows, place, tuple(out.shape))
    positions = prod(x.shape) // x.shape[channel]
    attrs = {"batch": x.shape[0], "positions": positions}
    tape.emit(
        "linear", [labels], [made], parameters=named(tape, weight=weight), attrs=attrs, rows=rows, columns=columns
    )
    tape.put(out, made)
    return out


def _linear(tape: Tape, equation: Any, operands: Any) -> tuple[Tensor, Tensor, int, int, int] | None:
    """The activation, the weight, the activation's dimension of channels, the weight's of rows, and where the result
    has them; None for another kind of product."""
    if not isinstance(equation, str) or "." in equation or "->" not in equation or len(operands) != 2:
        return None
    given, _, result = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    labels = [tape.labels(operand) for operand in operands]
    weights = [i for i, one in enumerate(labels) if one is not None and one.parameter]
    if len(terms) != 2 or len(weights) != 1 or any(len(set(term)) != len(term) for term in terms):
        return None
    if tape.decisions and is_mixed(tape, labels[weights[0]]):
        return None  # what PyTorch makes of it is followed
    weight, of_weight = operands[weights[0]], terms[weights[0]]
    x, of_x = operands[1 - weights[0]], terms[1 - weights[0]]
    contracted = [letter for letter in of_weight if letter in of_x and letter not in result]
    made = [letter for letter in of_weight if letter in result and letter not in of_x]
    if len(of_weight) != 2 or len(contracted) != 1 or len(made) != 1 or set(of_x) - set(result) != set(contracted):
        return None
    channel, row_dim = of_x.index(contracted[0]), of_weight.index(made[0])
    if any(dim != channel for dim in tape.activation(x).varying()):
        return None
    if (
        resolve_slot(tape, weight, row_dim, "rows") is None
        or resolve_slot(tape, weight, 1 - row_dim, "columns") is None
    ):
        return None
    return x, weight, channel, row_dim, result.index(made[0])
