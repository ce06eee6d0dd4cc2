"""Peak memory of one step at the batch size of the example inputs: inference, and training.

Inference: parameters and buffers, and the activations that are there at once in eager mode
(:mod:`~morphsearch.costs.lifetimes`). Training (:mod:`~morphsearch.costs.backward`): also what the backward pass needs
of the forward pass, gradients, and the state of the optimizer.

Counted are tensors, as PyTorch's allocator counts them. Not counted: the interpreter, the libraries and their
workspaces (the reordered copies that oneDNN makes of a convolution's operands, cuDNN's scratch space), the data loader,
and fragmentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphsearch.costs.backward import backward
from morphsearch.costs.batch import batch_size
from morphsearch.costs.peak import Part, PeakCost
from morphsearch.costs.polynomial import Polynomial
from morphsearch.costs.running import lifetimes
from morphsearch.graph.extent import Extent

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

MIB = 2.0**20
OPTIMIZER_STATES = 1  # tensors per parameter that SGD with momentum keeps; Adam keeps 2


class MemoryCost:
    """Peak memory of inference, in MiB."""

    name = "memory"
    unit = "MiB"

    def bind(self, graph: ConvGraph) -> PeakCost:
        """The peak as a function of the widths of `graph`, at the batch size that it was recorded with."""
        seen = lifetimes(graph)
        always = _held(graph, 1)
        parts = [*always, *(Part(storage.size / MIB, storage.module) for storage in seen.storages)]
        fixed = frozenset(range(len(always)))
        moments = [
            fixed | {len(always) + storage for storage in live}
            for number, live in enumerate(seen.live)
            if number not in seen.gone
        ]
        return PeakCost(len(graph.groups), parts, moments or [fixed], self.unit, notes=[_note(graph)])


class TrainingMemoryCost:
    """Peak memory of one training step, in MiB.

    Args:
        states: tensors of a parameter's size that the optimizer keeps for each: 1 for SGD with momentum, 2 for Adam.
    """

    name = "memory-training"
    unit = "MiB"

    def __init__(self, states: int = OPTIMIZER_STATES) -> None:
        self.states = states

    def bind(self, graph: ConvGraph) -> PeakCost:
        """The peak as a function of the widths of `graph`, at the batch size that it was recorded with."""
        step = backward(graph, lifetimes(graph))
        always = _held(graph, 1 + self.states)
        gradients = {name: Part(size / MIB, _layer(name)) for name, size in _parameters(graph).items()}
        place = {name: len(always) + index for index, name in enumerate(gradients)}
        first = len(always) + len(gradients)
        parts = [*always, *gradients.values()]
        parts += [Part(storage.size / MIB, storage.module) for storage in step.storages]
        fixed = frozenset(range(len(always)))
        moments = [
            fixed | {first + storage for storage in live} | {place[name] for name in done if name in place}
            for live, done in step.moments
        ]
        notes = [f"{_note(graph)}, by an optimizer that keeps {self.states} more for each parameter"]
        return PeakCost(len(graph.groups), parts, moments or [fixed], self.unit, uncounted=step.unknown, notes=notes)


def _note(graph: ConvGraph) -> str:
    count = batch_size(graph)
    return f"tensors in memory at once, at a batch of {count} image{'s' * (count != 1)} (--input N,C,H,W)"


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _held(graph: ConvGraph, copies: int) -> list[Part]:
    """What is always there: parameters (with their optimizer's state, `copies` in all) and buffers, by layer."""
    layers: dict[str, Polynomial] = {}
    for name, size in _parameters(graph).items():
        layers[_layer(name)] = layers.get(_layer(name), Polynomial()) + size * float(copies)
    for name, size in _buffers(graph).items():
        layers[_layer(name)] = layers.get(_layer(name), Polynomial()) + size
    return [Part(size / MIB, layer) for layer, size in layers.items()]


def _parameters(graph: ConvGraph) -> dict[str, Polynomial]:
    """Bytes of every parameter, shared ones once."""
    sizes = {name: parameter.element_size() for name, parameter in graph.model.named_parameters()}
    return {name: Polynomial.product(*shape) * float(sizes[name]) for name, shape in graph.parameter_shapes.items()}


def _buffers(graph: ConvGraph) -> dict[str, Polynomial]:
    """Bytes of every buffer (running statistics)."""
    resolution = graph.resolution
    widths = np.array([group.width for group in resolution.groups.values()], np.float64)
    found = {}
    there = {_layer(name) for name in graph.parameter_shapes}
    gone = {_layer(name) for name, _ in graph.model.named_parameters()} - there  # left out with their branch
    for name, buffer in graph.model.named_buffers():
        if _layer(name) in gone:
            continue
        slots = graph.tape.slots
        shape = [
            Extent.count(widths, resolution.unit_of[slots[name, dim]], resolution.unit_group)
            if (name, dim) in slots
            else Extent(size)
            for dim, size in enumerate(buffer.shape)
        ]
        found[name] = Polynomial.product(*shape, buffer.element_size())
    return found
