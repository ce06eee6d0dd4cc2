"""Scaled dot-product attention, as the one function that PyTorch makes of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from morphsearch.graph.labels import Labels
from morphsearch.graph.rules.products import factor, multiply, sizes, transposed
from morphsearch.graph.tape import Tape


def scaled_dot_product_attention(tape: Tape, func: Any, args: Any, kwargs: Any) -> Tensor:
    """`... l x e`, `... s x e`, `... s x v` -> `... l x v`: queries and keys lose the same channels, the output has
    those of the values (arXiv 1706.03762, equation 1)."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, args, strict=False)) | kwargs
    query, key, value, mask = (given.get(name) for name in ("query", "key", "value", "attn_mask"))
    assert query is not None
    assert key is not None
    assert value is not None
    if query.is_meta:
        leading = torch.broadcast_shapes(query.shape[:-2], *([value.shape[:-2]] if not given.get("enable_gqa") else []))
        out = torch.empty((*leading, query.shape[-2], value.shape[-1]), dtype=query.dtype, device="meta")
    else:
        out = func(*args, **kwargs)
    name = "scaled_dot_product_attention"
    queries, keys, values = factor(tape, query, -1), factor(tape, key, -1), factor(tape, value, -2)
    turned = transposed(keys)
    if given.get("scale") is None and any(ids.shape[-1] > 1 for ids in _sides(queries)):
        for ids in _sides(queries):
            tape.mix(ids, f"{tape.where(name)}: its scale follows from the number of channels")
    scores = multiply(tape, name, queries, turned, (*out.shape[:-1], key.shape[-2]))
    tape.emit("bmm", [queries, turned], [scores], attrs=sizes(queries, turned))
    for ids in _sides(scores):
        if ids.shape[-1] > 1:
            tape.mix(ids, f"{tape.where(name)}: a softmax over channels")
    if mask is not None and not (seen := tape.activation(mask)).blank:
        tape.pin(seen.ids, f"{tape.where(name)}: it masks positions")
    result = multiply(tape, name, scores, values, tuple(out.shape))
    tape.emit("bmm", [scores, values], [result], attrs=sizes(scores, values))
    tape.put(out, result)
    return out


def _sides(labels: Labels) -> tuple[Tensor, ...]:
    return (labels.ids,) if labels.second is None else (labels.ids, labels.second)
