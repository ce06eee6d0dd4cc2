"""How units were laid out by reshapes, and which of them are in lockstep since."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from morphsearch.graph.tape import Union


@dataclass
class Layout:
    """Units that a reshape laid out along more dimensions; `kept` is the one along which they leave, once known."""

    name: str
    ids: Tensor
    kept: int | None = None
    places: dict[int, tuple[int, ...] | None] = field(default_factory=dict)

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """The lowest and the highest identifier."""
        return (int(self.ids.min()), int(self.ids.max())) if self.ids.numel() else (0, 0)

    @cached_property
    def flat(self) -> np.ndarray:
        """The identifiers in one row."""
        return np.asarray(self.ids).reshape(-1)

    def first(self, one: int) -> tuple[int, ...] | None:
        """Where an identifier comes first; None where it does not."""
        if one not in self.places:
            place = int((self.flat == one).argmax()) if self.flat.size else 0
            there = self.flat.size > 0 and self.flat[place] == one
            self.places[one] = tuple(map(int, np.unravel_index(place, self.ids.shape))) if there else None
        return self.places[one]


@dataclass
class Aligned:
    """Units in lockstep along `dim` of `ids`: what became of them, and which met for that."""

    ids: Tensor  # kept, so that nothing else can come to lie where it does
    dim: int
    together: Tensor | None = None
    unions: list[Union] = field(default_factory=list)

    @cached_property
    def two(self) -> tuple[int, int] | None:
        """The lowest two units along the dimension, at the first place of the others; None where there is one alone."""
        line = self.ids.numpy()[tuple(slice(None) if d == self.dim else 0 for d in range(self.ids.dim()))]
        line = line[line > 0]
        low = line.min() if line.size else 0
        line = line[line > low]
        return (int(low), int(line.min())) if line.size else None
