"""A weight on the left of a product: ``weight @ x.flatten(2)`` is a linear layer over the rows of what it multiplies,
and so is a convolution that is written with ``unfold``."""

from __future__ import annotations

from math import prod

import numpy as np
from torch import Tensor

from morphsearch.graph.labels import RIGID, Labels, along
from morphsearch.graph.rules.binding import bind_elements, named, resolve_slot
from morphsearch.graph.tape import Tape


def weight_on_the_left(tape: Tape, weight: Tensor, x: Tensor, out: Tensor) -> Labels | None:
    """`... o x c` times `... c x n`: the labels of the result, whose rows are units; None where the left side is no
    weight, or the right one has units along other dimensions than its rows."""
    if tape.pair(weight) is not None or tape.pair(x) is not None:
        return None
    own, known = tape.labels(weight), tape.labels(x)
    if own is None or not own.parameter or known is None or known.parameter is not None:
        return None
    rows = len(known.shape) - 2
    shared = prod(own.ids.shape[:-2]) == 1  # the same weight for every image
    # Where a single unit is left, the seed knows that there were more.
    natural = "rows" if shared and set(known.varying()) <= {rows} else None
    if tape.decide("a weight on the left", natural, strict=True) is None:
        return None
    made = resolve_slot(tape, weight, weight.dim() - 2, "rows")
    if made is None:
        return None
    arriving = np.asarray(known.vector(rows))
    if (arriving > 0).any():  # a kernel may lie beside the columns
        bind_elements(tape, weight, along(arriving, weight.dim() - 1, own.shape), "columns")
    result = along(made[0], out.dim() - 2, tuple(out.shape))
    tape.emit(
        "linear",
        [known],
        [result],
        parameters=named(tape, weight=weight),
        attrs={"batch": x.shape[0] if x.dim() > 2 else 1, "positions": prod(known.shape) // known.shape[rows]},
        rows=made[0],
        columns=np.where(arriving > 0, arriving, RIGID),
    )
    return result


__all__ = ["weight_on_the_left"]
