"""Parameters that are concatenated: learned positions of rows and columns side by side, tokens before others.

Along which dimension such a tensor has units cannot be seen where it is made, only where it meets some. So it counts as
a parameter of its own until then, whose slices are those of its parts: one after another along the dimension in which
they were joined, the same of every part along the others.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from morphsearch.graph.labels import RIGID, Labels, numbers
from morphsearch.graph.rules.binding import resolve_slot
from morphsearch.graph.tape import Tape
from morphsearch.graph.unionfind import distinct_values


def joined(tape: Tape, parts: list[Tensor], known: list[Labels | None], dim: int, out: Tensor) -> bool:
    """Label the concatenation of parameters; False where some are none, or it is a row of them, as biases are."""
    own = [one.parameter for one in known if one is not None and one.parameter]
    if len(own) < len(parts) or out.dim() < 2:
        return False
    name, shape = tape.occurrence("joined parameters"), tuple(out.shape)

    def slices(along: int, role: str) -> np.ndarray:
        lines = []
        for part in parts:
            # Where a single slice is left, the seed knows that there were more.
            several = "slices" if part.shape[along] > 1 or shape[along] == 1 else None
            found = resolve_slot(tape, part, along, role) if tape.decide(name, several, strict=True) else None
            once = found is not None and distinct_values(found[0]).size == found[0].size  # not repeated to fill a size
            lines.append(found[0] if found is not None and once else np.full(part.shape[along], RIGID))
        if along == dim:
            return np.concatenate(lines)
        for line in lines[1:]:
            tape.union(lines[0], line)
        return lines[0]

    tape.joins[name], tape.shapes[name] = slices, shape
    tape.parts[name] = tuple(dict.fromkeys(part for one in own for part in tape.parts_of(one)))
    tape.put(out, Labels(numbers(out.numel()).view(shape), shape, -1, name))
    return True


__all__ = ["joined"]
