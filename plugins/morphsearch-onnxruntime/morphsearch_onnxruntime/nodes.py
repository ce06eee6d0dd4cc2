"""From ONNX Runtime's profile of a session to observations.

ONNX Runtime keeps convolutions in blocks of channels and pads their shapes to whole blocks; true sizes are read from
the exported model, to which a node leads back by the name of its result. Changes of layout count with the operation
that needs another one: before it, or after it.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from morphsearch.types import Observation

KINDS = {
    "Conv": "conv",
    "FusedConv": "conv",
    "ConvTranspose": "conv_transpose",
    "Gemm": "linear",
    "FusedGemm": "linear",
    "MatMul": "matmul",
    "FusedMatMul": "matmul",
    "GlobalAveragePool": "mean",
    "ReduceMean": "mean",
    "AveragePool": "avg_pool",
    "MaxPool": "max_pool",
    "Concat": "cat",
    "Clip": "hardtanh",
    "QuickGelu": "silu",
    "Gelu": "gelu",
    "Add": "add",
    "Sub": "add",
    "Mul": "mul",
    "Div": "mul",
    "Resize": "upsample",
    "Softmax": "softmax",
    "HardSigmoid": "hardsigmoid",
    "LeakyRelu": "leaky_relu",
    "BatchNormalization": "batch_norm",
    "Transpose": "copy",
    "Pad": "copy",
    "Slice": "copy",
    "Gather": "copy",
    "Split": "copy",
}
ACTIVATIONS = {
    "Relu": "relu",
    "Clip": "hardtanh",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "LeakyRelu": "leaky_relu",
    "HardSigmoid": "hardsigmoid",
}
VIEWS = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape", "Constant", "Cast"))
WARMUP = 2
ENOUGH = 6  # passes
HALF = 0.5  # of a microsecond, that rounding down takes off on average
FUSED = "fused "
SUFFIXES = ("_kernel_time", "_nchwc", "/QuickGeluFusion/", "/GatherSliceToSplitFusion")


def observations(
    model: bytes, profile: str, disturbed: Sequence[bool], again: Mapping[str, float] | None = None
) -> list[Observation]:
    """What a profile of a session over `model` says of its last passes; `disturbed` ones are left out where
    half of them, or :data:`ENOUGH`, are left. `again` prices what a convolution does to its results in the end."""
    path = Path(profile)
    events = [event for event in json.loads(path.read_text(encoding="utf-8")) if event.get("cat") == "Node"]
    events = [event for event in events if str(event.get("name", "")).endswith("_kernel_time")]
    passes = len(disturbed) + WARMUP
    count, rest = divmod(len(events), passes)
    if rest or not count:
        return []
    rows = [events[start * count : (start + 1) * count] for start in range(WARMUP, passes)]
    steady = [row for row, waited in zip(rows, disturbed, strict=True) if not waited]
    rows = steady if len(steady) >= min(ENOUGH, len(rows) / 2) else rows
    repeats = len(rows)
    filters, shapes = _filters(model), _true_shapes(model)
    last = _last(model, {_result(str(event["name"])) for event in rows[0]})
    times = _times(rows)
    found: list[Observation] = []
    pending: list[float] = [0.0] * repeats  # layout changes that the next operation asked for
    for place, event in enumerate(rows[0]):
        operation = str(event["args"].get("op_name", ""))
        if operation == "ReorderOutput":
            pending = [sum(pair) for pair in zip(pending, times[place], strict=True)]
            continue
        if operation == "ReorderInput" and found:
            more = tuple(a + 1e-6 * b for a, b in zip(found[-1].seconds, times[place], strict=True))
            found[-1] = replace(found[-1], seconds=more)
            continue
        seconds = tuple(1e-6 * (a + b) for a, b in zip(times[place], pending, strict=True))
        pending = [0.0] * repeats
        one = _observation(event, operation, seconds, filters, shapes)
        price = (again or {}).get(last.get(_result(str(event["name"])), ""), 0.0)
        found.append(replace(one, again=price * prod(one.outputs[0])) if price and one.outputs else one)
    return found


def _times(rows: Sequence[Sequence[dict[str, Any]]]) -> list[list[float]]:
    """Microseconds of every node in every pass (`n x passes`), from the events of each pass.

    ONNX Runtime tells how long a node took in whole microseconds, rounded down, which for a node of three is up to a
    quarter of it, and the same in every pass. When nodes begin it tells in whole microseconds too, but those fall
    anywhere, so that means over passes are finer. From one node to the next it takes the node itself and what keeping
    the profile takes, which is about the same for all nodes of one operator, and on average makes up for the
    difference.
    """
    begins = np.array([[float(event["ts"]) for event in row] for row in rows])
    told = np.array([[float(event["dur"]) + HALF for event in row] for row in rows])
    until = np.diff(begins, axis=1)
    operators = np.array([str(event["args"].get("op_name", "")) for event in rows[0]][:-1], object)
    found = told.copy()
    for operator in dict.fromkeys(operators.tolist()):
        own = np.nonzero(operators == operator)[0]
        kept = np.sort(until[:, own] - told[:, own], axis=0)  # without the eighth that had to wait, or began late
        end = len(kept) // 8
        found[:, own] = until[:, own] - kept[end : len(kept) - end].mean()
    result: list[list[float]] = np.maximum(found, 0.0).T.tolist()
    return result


def _observation(
    event: dict[str, Any],
    operation: str,
    seconds: tuple[float, ...],
    filters: dict[str, tuple[tuple[int, ...], int]],
    shapes: dict[str, tuple[int, ...]],
) -> Observation:
    inputs = [tuple(shape) for entry in event["args"].get("input_type_shape", ()) for shape in entry.values()]
    outputs = tuple(tuple(shape) for entry in event["args"].get("output_type_shape", ()) for shape in entry.values())
    kind = "view" if operation in VIEWS else KINDS.get(operation, operation.lower())
    if kind in ("conv", "conv_transpose") and len(inputs) > 1:
        weight, groups = filters.get(_result(event["name"]), (inputs[1], inputs[0][1] // max(1, inputs[1][1])))
        # A sum that is fused in is read too.
        given = [inputs[0], *(shape for shape in inputs[2:] if len(shape) == len(inputs[0]))]
        x, y = list(given[0]), list(outputs[0])
        if kind == "conv":
            x[1], y[1] = weight[1] * groups, weight[0]
        summed = [(shape[0], y[1], *shape[2:]) for shape in given[1:]]
        return Observation(kind, (tuple(x), *summed), (tuple(y),), seconds, weight, groups)
    if kind == "linear":
        return Observation(kind, tuple(inputs[:1]), outputs, seconds, (outputs[0][-1], inputs[0][-1]))
    if kind in ("batch_norm", "copy", "upsample", "hardtanh", "mean"):
        inputs = inputs[:1]
    true = shapes.get(_result(event["name"]))
    if true is not None and outputs and len(true) == len(outputs[0]) > 1 and kind != "cat":
        padded = outputs[0][1]
        inputs = [(s[0], true[1], *s[2:]) if len(s) == len(true) and s[1] == padded else s for s in inputs]
        outputs = (true, *outputs[1:])
    return Observation(kind, tuple(inputs), outputs, seconds)


def _result(name: str) -> str:
    """The result, or the node, that a node of a profile is named after."""
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name.removeprefix(FUSED)


def _true_shapes(model: bytes) -> dict[str, tuple[int, ...]]:
    """Shapes of results before they are padded to whole blocks, by the name of the result and of its node."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model)).graph
    known = {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
    }
    known = {name: shape for name, shape in known.items() if shape and all(shape)}
    return {**known, **{node.name: known[node.output[0]] for node in graph.node if node.output[0] in known}}


def _filters(model: bytes) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape of the filters and groups of the convolution behind every result that it may be renamed to by fusion."""
    import onnx

    graph = onnx.load_model_from_string(model).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    known: dict[str, tuple[tuple[int, ...], int]] = {}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            if len(node.input) > 1 and node.input[1] in shapes:
                groups = next((a.i for a in node.attribute if a.name == "group"), 1)
                known[node.output[0]] = known[node.name] = (shapes[node.input[1]], int(groups))
        elif node.op_type in (*ACTIVATIONS, "Add"):
            found = [known[name] for name in node.input if name in known]
            if found:
                known[node.output[0]] = known[node.name] = found[-1]
    return known


def _last(model: bytes, ran: Container[str]) -> dict[str, str]:
    """The kind of the activation that a convolution or a linear layer ends in, by every name that it may have once it
    is fused; `ran` are the names of what ran, in which a fused activation is missing."""
    import onnx

    graph = onnx.load_model_from_string(model).graph
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
            continue
        names, at, kind = [node.output[0], node.name], node, ""
        while not kind and len(readers.get(at.output[0], ())) == 1:
            at = readers[at.output[0]][0]
            if at.op_type not in (*ACTIVATIONS, "Add", "BatchNormalization"):
                break
            kind = ACTIVATIONS.get(at.op_type, "")
            names += [at.output[0], at.name]
        # A convolution that swallowed its activation may be called by either's name; one of two ran, then.
        own = [name for name in names[-2:] if name in ran] if kind else []
        if kind and not (own and any(name in ran for name in names[:-2])):
            found |= dict.fromkeys(names, kind)
    return found
