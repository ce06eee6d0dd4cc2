"""Recurrent layers over what convolutions found: sequences of columns, of frames, of samples.

A hidden unit is the same row of every gate, the same column of the recurrent weight, and the same in every layer and
direction of one module, since that has one hidden size. It leaves exactly: with its parameters at zero its state stays
at zero from the first step on (in a GRU half of nothing, in an LSTM an open gate times ``tanh(0)``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphsearch.graph.labels import RIGID, Labels, along, constant
from morphsearch.graph.rules.binding import bind, channel_labels, named, resolve_slot
from morphsearch.graph.tape import Tape

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent(kind: str) -> Callable[..., Any]:
    """The rule of ``torch.lstm`` and its kin, for padded batches and packed sequences."""

    def rule(tape: Tape, func: Any, args: Any, kwargs: Any) -> Any:
        outputs = func(*args, **kwargs)
        packed = isinstance(args[1], Tensor) and isinstance(args[3], (list, tuple))  # data, lengths, states, weights
        x, states, weights, biased, layers = (args[0], *args[2:6]) if packed else args[:5]
        both = args[8] if packed else args[7]
        given = [states] if isinstance(states, Tensor) else list(states)
        per_cell = 4 if biased else 2
        cells = layers * (2 if both else 1)
        names = named(tape, weight=weights[0])
        entering = tape.activation(x)
        if len(weights) == per_cell * cells:
            units = _cells(tape, kind, x, weights, per_cell, cells // layers, given)
        else:  # projected states (arXiv 1402.1128): another number of them than of hidden units
            tape.pin(entering.ids, f"{tape.where('a recurrent layer')} with projected states is not followed")
            units, names = np.full(given[0].shape[-1], RIGID), {}
        made = []
        for place, output in enumerate(outputs):
            if place == 0:
                wide = np.tile(units, cells // layers)
                width = output.shape[-1]
                labels = along(torch.from_numpy(wide), output.dim() - 1, tuple(output.shape))
                labels = labels if wide.size == width else constant(RIGID, tuple(output.shape))
            else:
                fits = output.shape[-1] == units.size
                shape = tuple(output.shape)
                labels = along(torch.from_numpy(units), output.dim() - 1, shape) if fits else constant(RIGID, shape)
            tape.put(output, labels)
            made.append(labels)
        tape.emit("recurrent", [entering], made, parameters=names, attrs={"gates": GATES[kind]})
        return outputs

    return rule


def cell(kind: str) -> Callable[..., Any]:
    """The rule of ``torch.lstm_cell`` and its kin: one step."""

    def rule(tape: Tape, func: Any, args: Any, kwargs: Any) -> Any:
        outputs = func(*args, **kwargs)
        x, states, *weights = args
        given = [states] if isinstance(states, Tensor) else list(states)
        weights = [one for one in weights if one is not None]
        entering = tape.activation(x)
        units = _cells(tape, kind.removesuffix("_cell"), x, weights, len(weights), 1, given)
        made = []
        for output in [outputs] if isinstance(outputs, Tensor) else outputs:
            labels = along(torch.from_numpy(units), output.dim() - 1, tuple(output.shape))
            tape.put(output, labels)
            made.append(labels)
        names = named(tape, weight=weights[0])
        tape.emit("recurrent", [entering], made, parameters=names, attrs={"gates": GATES[kind.removesuffix("_cell")]})
        return outputs

    return rule


def _cells(
    tape: Tape, kind: str, x: Tensor, weights: Sequence[Tensor], per_cell: int, directions: int, states: list[Tensor]
) -> np.ndarray:
    """`h`: the hidden units, bound to every weight of every layer and direction."""
    arriving = channel_labels(tape, x, x.dim() - 1, "a recurrent layer")
    units: np.ndarray | None = None
    for number in range(len(weights) // per_cell):
        of_input, of_state, *biases = weights[number * per_cell : (number + 1) * per_cell]
        found = resolve_slot(tape, of_input, 0, "rows")
        columns = resolve_slot(tape, of_input, 1, "columns")
        back = resolve_slot(tape, of_state, 1, "columns")
        if found is None or columns is None or back is None:
            tape.pin(arriving, f"{tape.where('a recurrent layer')}: its weight is computed from data or parameters")
            return np.full(states[0].shape[-1], RIGID)
        rows = found[0].reshape(GATES[kind], -1)
        units = rows[0] if units is None else units
        every = np.tile(units, GATES[kind])
        tape.union(every, rows, found[1])
        tape.union(arriving, columns[0], columns[1])
        tape.pin(columns[0][arriving == RIGID], f"{tape.where('a recurrent layer')} reads data of fixed size")
        tape.union(units, back[0], back[1])
        for parameter in (of_state, *biases):
            bind(tape, parameter, 0, every, "bias")
        if (number + 1) % directions == 0:
            arriving = np.tile(units, directions)  # the next layer reads all directions
    assert units is not None
    for state in states:
        _begin(tape, state, units)
    return units


def _begin(tape: Tape, state: Tensor, units: np.ndarray) -> None:
    """The state that a layer begins with has its hidden units: an activation, a parameter that is learned, or what code
    made at a size written down."""
    last = state.dim() - 1
    learned = resolve_slot(tape, state, last, "other")
    if learned is not None:
        tape.union(units, *learned)
    elif _carries(tape.activation(state)):
        tape.union(units, channel_labels(tape, state, last, "the state of a recurrent layer"))
    elif hasattr(state, "_morphsearch_made"):
        tape.states[state._morphsearch_made] = str(last)


def _carries(labels: Labels) -> bool:
    return bool((labels.ids > 0).any())


def packing(tape: Tape, func: Any, args: Any, kwargs: Any) -> Any:
    """Sequences of different lengths laid end to end, and back: channels stay along the last dimension."""
    outputs = func(*args, **kwargs)
    data = args[0]
    labels = tape.labels(data)
    if labels is not None and labels.parameter is None:
        units = channel_labels(tape, data, data.dim() - 1, "packed sequences")
        made = along(torch.from_numpy(units), outputs[0].dim() - 1, tuple(outputs[0].shape))
        tape.put(outputs[0], made)
        tape.emit("packing", [labels], [made])
    return outputs


RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.lstm: recurrent("lstm"),
    torch.gru: recurrent("gru"),
    torch.rnn_tanh: recurrent("rnn_tanh"),
    torch.rnn_relu: recurrent("rnn_relu"),
    torch.lstm_cell: cell("lstm_cell"),
    torch.gru_cell: cell("gru_cell"),
    torch.rnn_tanh_cell: cell("rnn_tanh_cell"),
    torch.rnn_relu_cell: cell("rnn_relu_cell"),
    torch._pack_padded_sequence: packing,
    torch._pad_packed_sequence: packing,
}
