"""Where units speak: the parameter slices that what a unit emits is proportional to.

With these slices at zero a unit says nothing, so that its removal changes nothing. They are the scale and shift of
every norm that the unit passes, the rows and biases of the layers that make it, and parameters that meet it element by
element. Rows that go straight into a norm with a scale are left out: the norm divides their size out again, and its
own scale and shift speak for them. Of rows under a weight norm the lengths speak: a direction has no size, and none at
zero.

Letters: `u` units of the graph, `n` slices of one parameter along one dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

SCALE, SHIFT, ROWS, BIAS, FACTOR, DIRECTION = "scale", "shift", "rows", "bias", "factor", "direction"


@dataclass(frozen=True, eq=False)
class Place:
    """Slices of one parameter.

    Attributes:
        name: of the parameter. tensor: itself. dim: along which units lie.
        units: `n` int64, the unit of every slice, -1 where it is none that may leave.
        kind: ``scale`` or ``shift`` of a norm, ``rows`` or ``bias`` of a layer, ``factor`` (meets activations
            element by element). Under a weight norm the lengths of rows are the ``rows``, and the rows ``direction``.
        normed: rows or bias whose output goes straight into norms with a scale.
        layer: name of the weight that a bias, a shift or lengths of rows belong to; else its own name.
    """

    name: str
    tensor: nn.Parameter
    dim: int
    units: np.ndarray
    kind: str
    normed: bool
    layer: str

    def shape(self) -> list[int]:
        """What `n` numbers are viewed as to multiply the parameter."""
        return [-1 if dim == self.dim else 1 for dim in range(self.tensor.dim())]


def free_units(graph: ConvGraph) -> np.ndarray:
    """`u` bool: units of groups that are not frozen."""
    free = np.array([not group.frozen for group in graph.groups.values()], bool)
    return free[graph.unit_group] if graph.num_units else np.zeros(0, bool)


def places(model: nn.Module, graph: ConvGraph) -> list[Place]:
    """All places of units that may leave, in network order; a parameter of several names once."""
    parameters = dict(model.named_parameters())
    free = free_units(graph)
    normed, layer_of, shifts = _layers(graph)
    directions = {
        (binding.tensor, binding.dim): graph.tape.lengths[binding.tensor, binding.dim]
        for binding in graph.bindings
        if binding.role == "rows" and (binding.tensor, binding.dim) in graph.tape.lengths
    }
    lengths = {name: direction for (direction, _), name in directions.items()}
    found: list[Place] = []
    for binding in graph.bindings:
        tensor = parameters.get(binding.tensor)
        kind = SHIFT if binding.tensor in shifts else _KINDS.get(binding.role)
        if tensor is None or kind is None:
            continue
        if binding.tensor in lengths:
            kind = ROWS
        elif (binding.tensor, binding.dim) in directions:
            kind = DIRECTION
        units = np.asarray(binding.units, np.int64)
        units = np.where((units >= 0) & free[units], units, -1)
        if (units >= 0).any():
            layer = lengths.get(binding.tensor) or layer_of.get(binding.tensor, binding.tensor)
            found.append(Place(binding.tensor, tensor, binding.dim, units, kind, layer in normed, layer))
    return found


_KINDS = {"norm": SCALE, "rows": ROWS, "bias": BIAS, "gate": FACTOR}


def speaking(found: list[Place]) -> list[Place]:
    """Those whose size means something: no rows or biases that a norm divides out again, of activations or weights."""
    return [place for place in found if not place.normed and place.kind != DIRECTION]


def _layers(graph: ConvGraph) -> tuple[set[str], dict[str, str], set[str]]:
    """Weights whose every output goes straight into norms with a scale; the weight of every bias and shift; shifts."""
    operations = graph.tape.operations
    readers: dict[int, list[int]] = {}
    for index, operation in enumerate(operations):
        for labels in operation.inputs:
            if labels.producer >= 0:
                readers.setdefault(labels.producer, []).append(index)
    scaled = [op.kind.endswith("_norm") and "weight" in op.parameters for op in operations]
    fed: dict[str, bool] = {}
    layer_of: dict[str, str] = {}
    shifts: set[str] = set()
    for index, operation in enumerate(operations):
        weight, bias = operation.parameters.get("weight"), operation.parameters.get("bias")
        if bias is not None and weight is not None:
            layer_of[bias] = weight
        if operation.kind.endswith("_norm"):
            shifts |= {bias} if bias is not None else set()
        elif weight is not None:
            read = readers.get(index, [])
            fed[weight] = fed.get(weight, True) and bool(read) and all(scaled[reader] for reader in read)
    return {name for name, all_normed in fed.items() if all_normed}, layer_of, shifts


def owners(model: nn.Module, names: set[str]) -> Iterator[tuple[str, nn.Module, str]]:
    """For every parameter of these names, every module that holds it and the attribute that it is there."""
    known = {id(parameter): name for name, parameter in model.named_parameters() if name in names}
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in known:
                yield known[id(parameter)], module, attribute


def rows_of(tensor: Tensor, dim: int) -> Tensor:
    """`n x d`: the slices of a parameter along `dim`."""
    return tensor.movedim(dim, 0).flatten(1) if tensor.dim() > 1 else tensor.unsqueeze(1)


class PerUnit:
    """Sums, means and maxima over the slices of each unit.

    Args:
        units: `k` int64, the unit of every slice, -1 for none. count: `u`, how many units there are.
    """

    def __init__(self, units: np.ndarray, count: int) -> None:
        self.count = count
        self.index = torch.from_numpy(np.where(units >= 0, units, count))
        number = np.bincount(units[units >= 0], minlength=count) if count else np.zeros(0)
        self.number = torch.from_numpy(number.astype(np.float32))

    def present(self) -> Tensor:
        """`u` bool: units that have slices."""
        return self.number > 0

    def _on(self, device: torch.device) -> None:
        if self.index.device != device:
            self.index, self.number = self.index.to(device), self.number.to(device)

    def sum(self, values: Tensor) -> Tensor:
        """`u`: the sum of the `k` values by unit."""
        self._on(values.device)
        total = values.new_zeros(self.count + 1)
        return total.index_add_(0, self.index, values)[:-1]

    def mean(self, values: Tensor) -> Tensor:
        """`u`: their mean; 0 where a unit has none."""
        return self.sum(values) / self.number.clamp(min=1)

    def largest(self, values: Tensor) -> Tensor:
        """`u`: the largest of the `k` non-negative values by unit; 0 where it has none."""
        self._on(values.device)
        found = values.new_zeros(self.count + 1)
        return found.scatter_reduce_(0, self.index, values, "amax")[:-1]
