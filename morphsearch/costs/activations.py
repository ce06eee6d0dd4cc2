"""Activations: elements that the operations write, in evaluation mode.

Every operation that writes counts the elements of its outputs, also in place; views do not write. This is more than
the "activations" of *Designing Network Design Spaces* (arXiv 2003.13678, section 3), which counts the outputs of
convolutions alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from morphsearch.costs.base import LayerwiseCost
from morphsearch.costs.kinds import VIEWS
from morphsearch.costs.polynomial import Polynomial
from morphsearch.costs.running import running
from morphsearch.costs.sizes import elements

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph, Operation


class ActivationsCost(LayerwiseCost):
    """Elements written for one image."""

    name = "activations"
    unit = "elements"
    whole = True
    per_image = True

    def operations(self, graph: ConvGraph) -> Sequence[Operation]:
        """Also the copies that are left of sums whose branch is left out."""
        return running(graph).present

    def price(self, op: Operation, graph: ConvGraph) -> Polynomial:
        """Elements of the outputs of `op`; of a pool only the values, not the places it found them at."""
        return written(op)


def written(op: Operation) -> Polynomial:
    """Elements that one operation writes over the batch that was recorded."""
    if op.kind in VIEWS or not op.outputs:
        return Polynomial()
    outputs = op.outputs[:1] if op.kind in WITH_INDICES else op.outputs
    return sum((elements(shape) for shape in outputs), Polynomial())


WITH_INDICES = frozenset(
    "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d"
    " adaptive_max_pool3d fractional_max_pool2d sort topk".split()
)
"""Kinds whose second output says where the values were found."""
