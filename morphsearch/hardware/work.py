"""What an operation has to do, as a row of numbers, from an observation or, as a function of the widths, from a graph.

Letters: `o` operations, `g` groups, `f` columns of :data:`COLUMNS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from morphsearch.costs.batch import batch_size
from morphsearch.costs.flops import flops_of
from morphsearch.costs.running import Running, running
from morphsearch.hardware.kinds import BIAS, POINTWISE, VIEW, WEIGHTED, Fusion, canonical, family

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from morphsearch.graph import ConvGraph, Extent, Operation, TensorShape
    from morphsearch.types import Observation

COLUMNS = (
    *("channels_in", "channels_out", "per_group", "kernel", "positions_in", "positions_out", "read", "written"),
    *("resident", "again"),
)
"""Channels; input channels of a convolution group; taps; positions (batch included); elements read and written;
elements that pass through the caches in the network that the operation is part of, see :func:`placed`; results that
what is fused into the operation goes over once more, see :attr:`morphsearch.hardware.kinds.Fusion.again`.

What has no filters has channels where it works on images, since layouts depend on them, and otherwise zeros.
"""
IMAGE = 4  # dimensions of a batch of images
READ, WRITTEN, RESIDENT, AGAIN = map(COLUMNS.index, ("read", "written", "resident", "again"))
ACTIVATIONS = 0.3  # of the elements that are written: buffers are used again
OWN = [COLUMNS.index(name) for name in ("channels_out", "per_group", "kernel")]  # whose product is a filter's size


def row_of(seen: Observation) -> tuple[str, list[float]]:
    """Family and row (`f`) of what a backend observed."""
    name, row = _row_of(seen)
    return name, [*row, *(0.0,) * (AGAIN - len(row)), float(seen.again)]


def _row_of(seen: Observation) -> tuple[str, list[float]]:
    """Without the columns that no shape tells."""
    kind = canonical(seen.kind)
    read, written = sum(map(prod, seen.inputs)), sum(map(prod, seen.outputs))
    if kind == "linear" and seen.inputs and seen.outputs:
        c, o = seen.inputs[0][-1], seen.outputs[0][-1]
        positions = prod(seen.outputs[0][:-1])
        return kind, [c, o, c, 1, positions, positions, read, written]
    if kind in ("conv", "conv_transpose") and len(seen.weight) > 2:
        x, y, dims = seen.inputs[0], seen.outputs[0], len(seen.weight) - 2
        c, o, kernel = x[-dims - 1], y[-dims - 1], prod(seen.weight[2:])
        per_group = c / max(seen.groups, 1)
        row = [c, o, per_group, kernel, prod(x) / max(c, 1), prod(y) / max(o, 1), read, written]
        return family(kind, kernel=kernel, per_group=per_group, groups=seen.groups), [float(v) for v in row]
    if kind == "adaptive_pool" and seen.outputs and prod(seen.outputs[0][2:]) == 1:
        kind = "mean"
    if kind == "matmul" and len(seen.inputs) > 1:
        return kind, _product(seen.inputs[0], seen.inputs[1], read, written)
    return kind, [_channels(seen.inputs), _channels(seen.outputs), 0, 0, 0, 0, float(read), float(written)]


def _channels(shapes: tuple[tuple[int, ...], ...]) -> float:
    """Of the first of some activations, where that is a batch of images; else 0."""
    return float(shapes[0][1]) if shapes and len(shapes[0]) == IMAGE else 0.0


def _product(left: tuple[int, ...], right: tuple[int, ...], read: float, written: float) -> list[float]:
    """Of two activations: the inner dimension, and the outputs of each of its elements."""
    inner, own = left[-1], prod(right) / max(1, prod(right[:-1]))
    return [inner, own, inner, 1, prod(left) / max(1, inner), prod(left) / max(1, inner), read, written]


def filters(families: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """`... x o`: elements of the filters of operations; `rows` is `... x o x f`."""
    with_filters = np.array([name in WEIGHTED for name in families], np.float64)
    found: np.ndarray = with_filters * np.prod(rows[..., OWN], axis=-1)
    return found


def passing(families: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """`... x o`: elements that operations bring into the caches: their filters, and a share of what they write."""
    writes = np.array([name != VIEW for name in families], np.float64)
    found: np.ndarray = filters(families, rows) + ACTIVATIONS * writes * rows[..., WRITTEN]
    return found


def placed(families: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """The operations of a network (`o x f`) with what passes through the caches in all of it in their last column.

    Between two passes over a filter lies the whole network. One that fits a cache finds its filters there again; one
    that does not reads each of them from memory, every time.
    """
    rows = rows.copy()
    rows[:, RESIDENT] = passing(families, rows).sum()
    return rows


@dataclass
class Works:
    """The operations that a backend runs for a graph, after fusion.

    Attributes:
        families: `o`. modules: `o`, the module that each is charged to.
        constant: `o x f`. linear: `o x f x g`: rows at widths `w` are ``constant + linear @ w``.
        steps: number of operations before fusion, views included.
    """

    families: list[str]
    modules: list[str]
    constant: np.ndarray
    linear: np.ndarray
    steps: int

    def rows(self, widths: np.ndarray) -> np.ndarray:
        """`... x o x f` at `widths`, `... x g`."""
        found: np.ndarray = self.constant + np.einsum("ofg,...g->...of", self.linear, widths)
        return found

    def readers(self) -> np.ndarray:
        """`o x g` bool: which groups each operation depends on."""
        found: np.ndarray = (self.linear != 0).any(axis=1)
        return found


def works_of(graph: ConvGraph, fusion: Fusion, batch: int) -> Works:
    """The work of `graph` at a batch size, fused as a backend does it."""
    from morphsearch.graph.extent import Extent

    scale = batch / batch_size(graph)
    runs = running(graph)
    fused = _fused(runs, fusion)
    besides = _read_besides(runs, fused)
    again = _gone_over(runs, fused, fusion)
    families, modules, constants, linears = [], [], [], []
    groups = len(graph.groups)
    for index, operation in enumerate(runs.operations):
        if index in fused or index in runs.gone or not operation.outputs:
            continue
        name, extents = _extents(operation, scale)
        for shape in besides.get(index, ()):
            extents[READ] = extents[READ] + shape.numel * scale
        if index in again:
            extents += [Extent()] * (AGAIN - len(extents)) + [again[index] * scale]
        constant, linear = np.zeros(len(COLUMNS)), np.zeros((len(COLUMNS), groups))
        for column, extent in enumerate(extents):
            constant[column] = extent.const
            for group, coefficient in extent.coefficients.items():
                linear[column, group] = coefficient
        families.append(name)
        modules.append(operation.module)
        constants.append(constant)
        linears.append(linear)
    if not families:
        return Works([], [], np.zeros((0, len(COLUMNS))), np.zeros((0, len(COLUMNS), groups)), 0)
    return Works(families, modules, np.stack(constants), np.stack(linears), len(runs.present))


def _extents(operation: Operation, scale: float) -> tuple[str, list[Extent]]:
    """Family and columns of an operation as sizes that depend on the widths."""
    from morphsearch.graph.extent import Extent

    kind = canonical(operation.kind)
    attrs = operation.attrs
    outputs = operation.outputs[:1] if kind == "max_pool" else operation.outputs
    read = sum((shape.numel for shape in operation.inputs), Extent()) * scale
    written = sum((shape.numel for shape in outputs), Extent()) * scale
    if kind == "adaptive_pool" and set(attrs.get("output", ())) == {1}:
        kind = "mean"

    def channels(shapes: Sequence[TensorShape]) -> Extent:
        first: tuple[int, ...] = shapes[0].shape if shapes else ()
        count = int(np.prod(first))
        return shapes[0].numel * (first[1] / count) if len(first) == IMAGE and count else Extent()

    if not operation.inputs:
        return kind, [Extent(), channels(outputs), *([Extent()] * 4), read, written]
    if kind in ("conv", "conv_transpose") and "output_spatial" in attrs:
        taken, made = (float(attrs["batch"] * prod(attrs[name])) for name in ("input_spatial", "output_spatial"))
        c, o = operation.inputs[0].numel * (1 / taken), operation.outputs[0].numel * (1 / made)
        kernel, groups = prod(attrs["kernel"]), int(attrs["groups"])
        grouped = groups > 1 or bool(attrs.get("whole"))  # also one that has lost all groups but one
        columns = operation.rows if kind == "conv_transpose" else operation.columns
        per_group = columns if columns is not None and kind == "conv" else c * (1 / max(1, groups))
        depthwise = not per_group.coefficients and per_group.const <= 1
        name = family(kind, kernel=kernel, per_group=1 if depthwise else 2, groups=2 if grouped else 1)
        return name, [c, o, per_group, Extent(kernel), Extent(taken * scale), Extent(made * scale), read, written]
    if kind == "linear" and operation.rows is not None and operation.columns is not None:
        shape = operation.outputs[0].shape
        positions = Extent(prod(shape[:-1]) * scale)
        c, o = operation.columns, operation.rows
        return kind, [c, o, c, Extent(1), positions, positions, read, written]
    flops = flops_of(operation) if kind in ("matmul", "linear") else None
    if flops is not None and len(operation.inputs) > 1:
        row = _product(operation.inputs[0].shape, operation.inputs[1].shape, 0, 0)
        return "matmul", [*(Extent(v) for v in row[:4]), *(Extent(v * scale) for v in row[4:6]), read, written]
    return kind, [channels(operation.inputs), channels(outputs), *([Extent()] * 4), read, written]


def _fused(runs: Running, fusion: Fusion) -> dict[int, int]:
    """Positions of the operations that vanish into one before them, with the position of that."""
    into_weights, into_pointwise = fusion.into_weights, fusion.into_pointwise
    if not into_weights and not into_pointwise:
        return {}
    readers: dict[int, int] = {}
    for operation in runs.present:
        for labels in operation.raw.inputs:
            producer = runs.producer(labels.producer)
            readers[producer] = readers.get(producer, 0) + 1
    heads: dict[int, str] = {}  # what runs the operation at this position: "weights", "pointwise" or neither
    gone: dict[int, int] = {}
    for index, operation in enumerate(runs.operations):
        if index in runs.gone:
            continue
        kind = canonical(operation.kind)
        plain = "conv" if kind.startswith("conv") else kind
        heads[index] = "weights" if plain in WEIGHTED else "pointwise" if kind in POINTWISE else ""
        for labels in operation.raw.inputs:
            before = runs.producer(labels.producer)
            if not 0 <= before < index or readers.get(before) != 1:
                continue
            into = heads[before]
            absorbed = into_weights if into == "weights" else into_pointwise if into == "pointwise" else frozenset()
            if kind in absorbed and kind != VIEW:
                gone[index] = gone.get(before, before)
                heads[index] = into
                break
    return gone


def _gone_over(runs: Running, fused: Mapping[int, int], fusion: Fusion) -> dict[int, Extent]:
    """What is gone over once more for what vanished, by the position of what it vanished into."""
    found: dict[int, Extent] = {}
    for index, operation in enumerate(runs.operations):
        kind = canonical(operation.kind) if index in fused else BIAS if _adds_a_bias(operation) else ""
        price = fusion.again.get(kind, 0.0)
        if price:
            head, more = fused.get(index, index), operation.outputs[0].numel * price
            found[head] = found[head] + more if head in found else more
    return found


def _adds_a_bias(operation: Operation) -> bool:
    """Whether a convolution has one; kernels that go channel by channel add theirs while they sum up."""
    if canonical(operation.kind) not in ("conv", "conv_transpose") or "bias" not in operation.parameters:
        return False
    groups = int(operation.attrs.get("groups", 1))
    return groups == 1 or groups != operation.inputs[0].shape[1]


def _read_besides(runs: Running, fused: Mapping[int, int]) -> dict[int, list[TensorShape]]:
    """What operations read for those that vanished into them, by position: the other side of a sum."""
    found: dict[int, list[TensorShape]] = {}
    for index, head in fused.items():
        operation = runs.operations[index]
        for labels, shape in zip(operation.raw.inputs, operation.inputs, strict=True):
            before = runs.producer(labels.producer)
            if fused.get(before, before) != head:
                found.setdefault(head, []).append(shape)
    return found
