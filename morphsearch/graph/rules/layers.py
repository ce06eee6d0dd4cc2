"""Layers with parameters, as torch functions with the arguments they were given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from morphsearch.graph.rules.attention import scaled_dot_product_attention
from morphsearch.graph.rules.convolutions import conv_rule
from morphsearch.graph.rules.einsum import einsum
from morphsearch.graph.rules.linear import linear
from morphsearch.graph.rules.norms import batch_norm, group_norm, instance_norm, layer_norm, weight_norm
from morphsearch.graph.rules.pairs import on_one_side
from morphsearch.graph.rules.recurrent import RULES as RECURRENT
from morphsearch.graph.rules.written_numbers import MAKING
from morphsearch.graph.tape import Tape


def _of_kernel(x: Any, args: Any, kwargs: Any) -> int:
    weight = args[1] if len(args) > 1 else kwargs["weight"]
    return int(x.dim() - weight.dim() + 1)


def _last(x: Any, args: Any, kwargs: Any) -> int:
    return -1


def _second(x: Any, args: Any, kwargs: Any) -> int:
    return 1


def _aside(rule: Callable[..., Any]) -> Callable[..., Any]:
    """`rule`, on shapes alone without the dispatcher: what it computes labels with is nothing to record."""

    def run(tape: Tape, func: Any, args: Any, kwargs: Any) -> Any:
        if not tape.on_meta:
            return rule(tape, func, args, kwargs)
        with torch._C._DisableTorchDispatch():
            return rule(tape, func, args, kwargs)

    return run


_LAYERS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv1d: on_one_side(conv_rule(1, False), _of_kernel),
    torch.conv2d: on_one_side(conv_rule(2, False), _of_kernel),
    torch.conv3d: on_one_side(conv_rule(3, False), _of_kernel),
    torch.conv_transpose1d: on_one_side(conv_rule(1, True), _of_kernel),
    torch.conv_transpose2d: on_one_side(conv_rule(2, True), _of_kernel),
    torch.conv_transpose3d: on_one_side(conv_rule(3, True), _of_kernel),
    F.linear: on_one_side(linear, _last),
    F.batch_norm: on_one_side(batch_norm, _second),
    F.instance_norm: instance_norm,
    F.layer_norm: on_one_side(layer_norm, _last),
    F.group_norm: group_norm,
    F.scaled_dot_product_attention: scaled_dot_product_attention,
    torch._weight_norm: weight_norm,
    **RECURRENT,
}
FUNCTIONS = {function: _aside(rule) for function, rule in _LAYERS.items()} | {torch.einsum: einsum} | MAKING
