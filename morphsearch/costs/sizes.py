"""How many elements a tensor has, as a function of the widths."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from morphsearch.costs.polynomial import Polynomial

if TYPE_CHECKING:
    from morphsearch.graph import TensorShape


def elements(shape: TensorShape) -> Polynomial:
    """Elements of a tensor; of an outer product of channels the product of both its sides."""
    one, other = shape.numel, shape.other_numel
    if other is None:
        return Polynomial.of(one)
    # Each counts all elements, and knows how the units of one side add to them.
    return Polynomial.product(one, other, 1 / max(1, prod(shape.shape)))
