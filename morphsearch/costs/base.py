"""The base class of cost models that price one operation at a time; a plugin's takes about 20 lines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from morphsearch.costs.batch import batch_size, first_size
from morphsearch.costs.kinds import MOVES
from morphsearch.costs.polynomial import Polynomial, PolynomialCost

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph, Operation


class LayerwiseCost(ABC):
    """A cost that is the sum of the prices of the operations.

    Subclasses set `name` and `unit` and write :meth:`price`::

        class Energy(LayerwiseCost):
            name, unit, per_image = "energy", "nJ", True

            def price(self, op, graph):
                flops = flops_of(op)
                return None if flops is None else 0.0046 * flops + 0.64 * elements_of(op)

    Attributes:
        name: as in ``--budget NAME=50%``.
        unit: printed beside every figure.
        whole: the cost is a whole number at whole widths; totals are then ``int``.
        per_image: divide by the number of images in the example inputs (for work, not for weights).
    """

    name: str
    unit: str
    whole: bool = False
    per_image: bool = False

    @abstractmethod
    def price(self, op: Operation, graph: ConvGraph) -> Polynomial | None:
        """What `op` costs as a function of the widths, ``Polynomial()`` where it is free, None where it is not counted:
        its kind is then named in :attr:`Cost.uncounted <morphsearch.costs.Cost.uncounted>`, unless it only moves data.
        """

    def operations(self, graph: ConvGraph) -> Sequence[Operation]:
        """What is priced: all operations that run."""
        return graph.operations

    def bind(self, graph: ConvGraph) -> PolynomialCost:
        """The cost of `graph` as a function of its widths."""
        layers: dict[str, Polynomial] = {}
        uncounted: set[str] = set()
        for op in self.operations(graph):
            price = self.price(op, graph)
            if price is None:
                uncounted.add(op.kind)
            elif price.coefficients:
                layers[op.module] = layers.get(op.module, Polynomial()) + price
        notes = []
        if self.per_image:
            images = batch_size(graph)
            layers = {layer: price / images for layer, price in layers.items()}
            if images != first_size(graph):
                notes.append(WHOLE)
        names = sorted(uncounted - MOVES)
        return PolynomialCost(len(graph.groups), layers, self.unit, whole=self.whole, uncounted=names, notes=notes)


WHOLE = "of the example inputs as a whole: dimension 0 of the first is not that of all inputs and outputs"
