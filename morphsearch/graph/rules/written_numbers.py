"""Tensors that code makes of plain numbers: ``torch.tensor(channels ** -0.5)``.

On shapes alone such a tensor holds nothing, so the numbers are written down where it is made: they may follow from a
width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from morphsearch.graph.tape import Tape

MOST = 16  # longer ones are tables


def made_of_numbers(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
    """``torch.tensor(numbers)`` and its kin."""
    out: Tensor = func(*args, **kwargs)
    data = kwargs["data"] if "data" in kwargs else args[-1]
    leaves = tree_leaves(data)
    if 0 < len(leaves) <= MOST and all(type(leaf) in (int, float) for leaf in leaves):
        tape.emit("tensor", [], [], attrs={"numbers": tuple(map(float, leaves))})
    return out


MAKING = dict.fromkeys((torch.tensor, torch.as_tensor, Tensor.new_tensor), made_of_numbers)

__all__ = ["MAKING"]
