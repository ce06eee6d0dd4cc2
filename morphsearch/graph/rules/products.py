"""Products of two activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from morphsearch.graph.labels import RIGID, compact, constant
from morphsearch.graph.rules.common import short_name
from morphsearch.graph.rules.elementwise import meet
from morphsearch.graph.rules.linear import linear_labels
from morphsearch.graph.tape import Tape


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
        meeting = np.broadcast_shapes(across.shape, ids_b.shape)
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
