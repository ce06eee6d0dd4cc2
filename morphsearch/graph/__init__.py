"""The recorded network: the only package that knows how a network becomes a graph, and back."""

from morphsearch.graph.extent import Extent
from morphsearch.graph.graph import ConvGraph
from morphsearch.graph.operations import Operation, TensorShape
from morphsearch.graph.recorder import record
from morphsearch.graph.resolve import Binding, Group

__all__ = ["Binding", "ConvGraph", "Extent", "Group", "Operation", "TensorShape", "record"]
