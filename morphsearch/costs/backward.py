"""What a training step keeps in memory: the backward pass, acted out on the recorded operations.

Autograd saves, for every operation, what its derivative needs: the input of a convolution or a norm, the result of a
``relu``, both factors of a product, nothing for a sum. Those tables (after PyTorch's ``derivatives.yaml``) and the
lifetimes of the forward pass give what is there at every moment:

- forward: what Python still names, and what is saved so far;
- backward, operation by operation from the last: what the operations before it saved, the gradients of its outputs and
  inputs and those that wait for other branches, and the parameters' gradients so far.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from morphsearch.costs.kinds import MOVES, VIEWS
from morphsearch.costs.lifetimes import Lifetimes, Storage
from morphsearch.costs.running import running
from morphsearch.costs.sizes import elements
from morphsearch.graph.labels import Labels

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph, Operation, TensorShape

_INPUT = """
    conv conv_transpose linear mixture batch_norm layer_norm group_norm instance_norm max_pool1d_with_indices
    max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d
    _adaptive_avg_pool3d silu gelu hardswish hardsigmoid hardtanh relu6 mish leaky_relu elu celu selu prelu
    _prelu_kernel softplus clamp clamp_min clamp_max log abs square pow var reflection_pad1d reflection_pad2d
    reflection_pad3d replication_pad1d replication_pad2d replication_pad3d grid_sampler_2d grid_sampler_3d glu
    log_sigmoid_forward
"""
_OUTPUT = "relu sigmoid tanh exp sqrt rsqrt reciprocal _softmax softmax _log_softmax log_softmax"
_BOTH = "amax amin norm linalg_vector_norm std"
_FACTORS = "mul div matmul mm bmm addmm baddbmm einsum atan2 lerp addcmul addcdiv maximum minimum dot"
_NOTHING = """
    add sub rsub neg mean sum cat concat stack constant_pad_nd upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa pixel_shuffle pixel_unshuffle
    channel_shuffle native_channel_shuffle roll flip clone copy index index_select repeat _to_copy contiguous dropout
    cumsum floor round ceil sign where max min
"""
# In place these save their result; others of _INPUT and _FACTORS a copy of what they write over.
_IN_PLACE_RESULT = frozenset("leaky_relu elu".split())

INPUT, OUTPUT, BOTH, FACTORS, NOTHING = (
    frozenset(names.split()) for names in (_INPUT, _OUTPUT, _BOTH, _FACTORS, _NOTHING)
)
# The gradient passes through as it is; that of a part (slice, split) fills new memory of the size of the whole.
_PARTS = frozenset("chunk diagonal narrow select slice split split_with_sizes tensor_split unbind unfold".split())
_THROUGH = (VIEWS | frozenset("add sub cat concat clone".split())) - _PARTS


@dataclass
class Step:
    """A training step.

    Attributes:
        storages: activations, saved copies and gradients of activations.
        moments: the storages that are there, and the names of the parameters that have their gradient already.
        saved: what the forward pass leaves for the backward pass.
        unknown: kinds whose derivative is not in the tables; taken to save what they read.
    """

    storages: list[Storage]
    moments: list[tuple[frozenset[int], frozenset[str]]] = field(default_factory=list)
    saved: frozenset[int] = frozenset()
    unknown: tuple[str, ...] = ()


def backward(graph: ConvGraph, seen: Lifetimes) -> Step:
    """Act out one training step on the operations of `graph`."""
    return _Acting(graph, seen).step()


class _Acting:
    def __init__(self, graph: ConvGraph, seen: Lifetimes) -> None:
        self.runs, self.seen = running(graph), seen
        self.operations = self.runs.operations
        self.storages = list(seen.storages)
        self.trained = {name for name, parameter in graph.model.named_parameters() if parameter.requires_grad}
        self.waiting: dict[int, int] = {}  # gradients, from the identity of a value's labels to a storage
        self.differentiable: set[int] = set()  # values that a gradient reaches
        self.made = {id(labels) for op in self.operations for labels in op.raw.outputs}
        self.unknown: set[str] = set()
        weights = (p for p in graph.model.parameters() if p.is_floating_point())
        self.bytes = float(next((p.element_size() for p in weights), 4))

    def step(self) -> Step:
        flows = self._flows()
        saved = [self._saved(number, op) if flows[number] else frozenset() for number, op in enumerate(self.operations)]
        step = Step(self.storages)
        so_far: frozenset[int] = frozenset()
        for number, live in enumerate(self.seen.live):
            so_far |= saved[number]
            if number not in self.runs.gone:
                step.moments.append((live | so_far, frozenset()))
        step.saved = so_far
        until = [frozenset[int]()]
        for more in saved:
            until.append(until[-1] | more)
        # What the caller still holds in the backward pass: the inputs and the outputs of the network.
        held = frozenset(self._inputs())
        ends = [n for n, op in enumerate(self.operations) if op.kind == "output"]
        held |= frozenset(s for n in ends for s in self.seen.inputs[n] if s >= 0)
        done: set[str] = set()
        for number in range(len(self.operations) - 1, -1, -1):
            op = self.operations[number]
            if not flows[number]:
                continue
            before = set(self.waiting.values())
            after = self._back(op)
            done.update(name for name in op.parameters.values() if name in self.trained)
            there = held | until[number + 1] | before | after
            step.moments.append((there, frozenset(done)))
        step.unknown = tuple(sorted(self.unknown))
        return step

    def _inputs(self) -> set[int]:
        """Storages of the network's own inputs."""
        produced = {s for outputs in self.seen.outputs for s in outputs}
        return {s for inputs in self.seen.inputs for s in inputs if s >= 0 and s not in produced}

    def _flows(self) -> list[bool]:
        """Whether a gradient reaches each operation: it has parameters, or what it reads depends on some."""
        flows = []
        for number, op in enumerate(self.operations):
            if number in self.runs.gone and number not in self.runs.left:
                flows.append(False)
                continue
            own = any(name in self.trained for name in op.parameters.values())
            found = own or any(self._value(labels) in self.differentiable for labels in op.raw.inputs)
            flows.append(found)
            if found:
                self.differentiable.update(id(labels) for labels in op.raw.outputs)
        return flows

    def _value(self, labels: Labels) -> int:
        """Which value an operation reads: that of its labels, or what the operation that made it gave."""
        if id(labels) in self.made or not 0 <= labels.producer < len(self.operations):
            return id(labels)
        return id(self.operations[labels.producer].raw.outputs[0])

    def _saved(self, number: int, op: Operation) -> frozenset[int]:
        """Storages that autograd keeps for the derivative of an operation."""
        arriving = [s for s in self.seen.inputs[number] if s >= 0]
        leaving = [s for s in self.seen.outputs[number] if s >= 0]
        in_place = bool(leaving) and leaving[0] in arriving and op.kind not in VIEWS
        known = INPUT | BOTH | FACTORS
        if op.kind in NOTHING | VIEWS | (MOVES - known) or _is_mean(op):
            return frozenset()
        if op.kind in OUTPUT or (in_place and op.kind in _IN_PLACE_RESULT):
            return frozenset(leaving[:1])
        if op.kind in FACTORS and len(op.raw.inputs) < 2 and not op.parameters:
            return frozenset()  # it meets a number, or a constant
        if op.kind not in known:
            self.unknown.add(op.kind)
        if in_place:
            return frozenset([self._new(op.inputs[0], op.module), *arriving[1:]])
        more = leaving if "max_pool" in op.kind else leaving[:1]
        indices = more[1:] if op.kind in INPUT else more if op.kind in BOTH else []
        return frozenset([*arriving, *indices])

    def _new(self, like: TensorShape, module: str) -> int:
        """A new storage for a tensor of that shape."""
        self.storages.append(Storage(elements(like) * self.bytes, module))
        return len(self.storages) - 1

    def _back(self, op: Operation) -> set[int]:
        """Pass the gradients of an operation's outputs on to its inputs; returns the gradients that are there then."""
        arrived = [self.waiting.pop(id(labels)) for labels in op.raw.outputs if id(labels) in self.waiting]
        for labels, shape in zip(op.raw.inputs, op.inputs, strict=True):
            value = self._value(labels)
            if value not in self.differentiable or not (arrived or op.kind == "output"):
                continue
            found = arrived[0] if op.kind in _THROUGH and arrived else self._new(shape, op.module)
            known = self.waiting.get(value)
            if known is None:
                self.waiting[value] = found
            elif list(self.waiting.values()).count(known) > 1 or known in arrived:
                # Somebody else reads the sum so far: the new one goes to memory of its own.
                self.waiting[value] = self._new(shape, op.module)
                arrived += [known, found]
            else:
                arrived.append(found)
        return {*self.waiting.values(), *arrived}


def _is_mean(op: Operation) -> bool:
    """Adaptive pooling to a single place is a mean, which needs nothing."""
    return op.kind.startswith("adaptive_avg") and all(size == 1 for size in op.attrs.get("output", (0,)))
