"""The kernels that a fusing backend makes of a graph, with what each computes and moves.

A convolution, a linear layer or an element-wise operation takes in the element-wise operations after it, as long as
nobody else reads what lies between: those then cost no launch, and what lies between never leaves the chip. Batch norm
of a trained network is element-wise. Views cost nothing; everything else (pools, softmax, resizing, concatenation,
other norms) is a kernel of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from morphsearch.costs.flops import flops_of, weights_of
from morphsearch.costs.kinds import VIEWS
from morphsearch.costs.polynomial import Polynomial
from morphsearch.costs.running import running
from morphsearch.costs.sizes import elements
from morphsearch.hardware.kinds import POINTWISE, VIEW, WEIGHTED, canonical

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph, Operation, TensorShape

PRODUCTS = frozenset("conv conv_transpose linear matmul".split())
"""Canonical kinds that multiply and add: two floating-point operations for each of our FLOPs."""


@dataclass
class Kernel:
    """One launch.

    Attributes:
        module: whose first operation it is. kinds: of all operations in it.
        computed: floating-point operations, two for a multiply-add. elements: read and written, weights included.
    """

    module: str
    kinds: list[str] = field(default_factory=list)
    computed: Polynomial = field(default_factory=Polynomial)
    elements: Polynomial = field(default_factory=Polynomial)


def kernels_of(graph: ConvGraph, *, fuses: bool) -> list[Kernel]:
    """The kernels of `graph`, in the order of execution."""
    return _Fusing(graph, fuses).kernels()


class _Fusing:
    def __init__(self, graph: ConvGraph, fuses: bool) -> None:
        self.runs, self.fuses = running(graph), fuses
        self.operations = self.runs.operations
        self.sizes = {name: Polynomial.product(*shape) for name, shape in graph.parameter_shapes.items()}
        self.readers: dict[int, int] = {}
        for operation in self.runs.present:
            for producer in {self.runs.producer(labels.producer) for labels in operation.raw.inputs}:
                self.readers[producer] = self.readers.get(producer, 0) + 1

    def kernels(self) -> list[Kernel]:
        found: list[list[int]] = []
        home: dict[int, int] = {}
        for index, operation in enumerate(self.operations):
            kind = canonical(operation.kind)
            if index in self.runs.gone or operation.kind in VIEWS or kind == VIEW or not operation.outputs:
                continue
            into = self._absorbing(operation, kind, home) if self.fuses else None
            if into is None:
                found.append([index])
                home[index] = len(found) - 1
            else:
                found[into].append(index)
                home[index] = into
        return [self._kernel(members) for members in found]

    def _absorbing(self, operation: Operation, kind: str, home: dict[int, int]) -> int | None:
        """The latest kernel that can take in an operation."""
        if kind not in POINTWISE:
            return None
        makers = [self.runs.producer(labels.producer) for labels in operation.raw.inputs]
        able = [
            home[maker]
            for maker in makers
            if maker in home
            and self.readers[maker] == 1
            and canonical(self.operations[maker].kind) in POINTWISE | WEIGHTED
        ]
        return max(able, default=None)

    def _kernel(self, members: list[int]) -> Kernel:
        kernel = Kernel(self.operations[members[0]].module)
        inside = set(members)
        read: dict[int, TensorShape] = {}
        for index in members:
            operation = self.operations[index]
            kernel.kinds.append(operation.kind)
            kernel.computed += self._computed(operation)
            kernel.elements += self._weights(operation)
            for labels, shape in zip(operation.raw.inputs, operation.inputs, strict=True):
                if self.runs.producer(labels.producer) not in inside:
                    read[id(labels)] = shape
        written = self.operations[members[-1]].outputs
        for shape in [*read.values(), *written]:
            kernel.elements += elements(shape)
        return kernel

    def _computed(self, operation: Operation) -> Polynomial:
        """Two for every multiply-add of a product; elsewhere one for every element of the larger side."""
        flops = flops_of(operation)
        if canonical(operation.kind) in PRODUCTS and flops is not None:
            return flops * 2.0
        sides = [sum((elements(s) for s in side), Polynomial()) for side in (operation.inputs, operation.outputs)]
        return max(sides, key=lambda side: sum(side.coefficients.values())) if operation.inputs else sides[1]

    def _weights(self, operation: Operation) -> Polynomial:
        """Elements of parameters that are read."""
        weight = weights_of(operation)
        others = [name for role, name in operation.parameters.items() if role != "weight" or not weight.coefficients]
        return sum((self.sizes[name] for name in others if name in self.sizes), weight)
