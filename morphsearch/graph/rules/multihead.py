"""Multi-head attention in one call: ``torch.nn.functional.multi_head_attention_forward``, which
``nn.MultiheadAttention`` consists of.

To PyTorch's function modes it is one operation. Here it is opened: its own code runs under the recording, which sees
its projections and products one by one. What this code expects of their sizes is said beside it: queries, keys and
values have as many channels as what is asked with (``embed_dim``), in equal heads (arXiv 1706.03762, section 3.2.2). So
a unit is a channel of every head together with the channels of the stream at the same places.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from morphsearch.graph.labels import RIGID
from morphsearch.graph.rules.binding import channel_labels, learned, resolve_slot
from morphsearch.graph.tape import Tape

NAME = "multi_head_attention_forward"
_SIGNATURE = inspect.signature(F.multi_head_attention_forward)


def opened(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` without the question whether a mode wants it whole: its code runs, and every call in it is seen."""
    assert isinstance(function, FunctionType)
    names = {**function.__globals__, "has_torch_function": lambda tensors: False}
    own = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    own.__kwdefaults__ = function.__kwdefaults__
    return own


def heads_in_lockstep(tape: Tape, args: Any, kwargs: Any) -> None:
    """Tie the rows of the projections, head by head, to the channels of the query."""
    given = _SIGNATURE.bind(*args, **kwargs)
    given.apply_defaults()
    values = given.arguments
    query: Tensor = values["query"]
    heads: int = values["num_heads"]
    last = query.dim() - 1
    asked = learned(tape, query, last)
    arriving = channel_labels(tape, query, last, NAME) if asked is None else np.asarray(asked.vector(last))
    if values["use_separate_proj_weight"]:
        weights = [values[f"{part}_proj_weight"] for part in "qkv"]
    else:
        weights = [values["in_proj_weight"]]
    reason = tape.where(f"{NAME}: it has as many channels as what it is asked with, and those")
    for weight in weights:
        found = resolve_slot(tape, weight, 0, "rows")
        if found is None:
            tape.pin(arriving, f"{tape.where(NAME)}: a weight of it is computed")
            continue
        for rows in found[0].reshape(-1, arriving.size):  # of queries, keys and values, where they are packed
            parts = rows.reshape(heads, -1)
            tape.union(np.broadcast_to(parts[:1], parts.shape)[1:], parts[1:])
            tape.union(arriving, rows)
            tape.pin(rows[arriving == RIGID], f"{reason} never change")
    if arriving.size > heads:
        tape.mix(arriving, f"{tape.where(NAME)}: its scale follows from the number of channels")


OPENED: dict[Callable[..., Any], tuple[Callable[..., Any], Callable[[Tape, Any, Any], None]]] = {
    F.multi_head_attention_forward: (opened(F.multi_head_attention_forward), heads_in_lockstep)
}
