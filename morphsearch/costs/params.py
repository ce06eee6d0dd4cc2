"""Parameters, equal to ``sum(p.numel() for p in model.parameters())``: biases and norms included, and those that are
not trained (``requires_grad=False``) too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from morphsearch.costs.polynomial import Polynomial, PolynomialCost

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph


class ParamsCost:
    """Number of parameters, trained or not; one that is shared counts once, in the module that names it first."""

    name = "params"
    unit = "parameters"

    def bind(self, graph: ConvGraph) -> PolynomialCost:
        """The number of parameters of `graph` as a function of its widths."""
        layers: dict[str, Polynomial] = {}
        for name, shape in graph.parameter_shapes.items():
            layer = name.rpartition(".")[0]
            layers[layer] = layers.get(layer, Polynomial()) + Polynomial.product(*shape)
        return PolynomialCost(len(graph.groups), layers, self.unit, whole=True)
