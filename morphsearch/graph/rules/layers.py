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
from morphsearch.graph.rules.norms import batch_norm, group_norm, instance_norm, layer_norm

FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv1d: conv_rule(1, False),
    torch.conv2d: conv_rule(2, False),
    torch.conv3d: conv_rule(3, False),
    torch.conv_transpose1d: conv_rule(1, True),
    torch.conv_transpose2d: conv_rule(2, True),
    torch.conv_transpose3d: conv_rule(3, True),
    F.linear: linear,
    F.batch_norm: batch_norm,
    F.instance_norm: instance_norm,
    F.layer_norm: layer_norm,
    F.group_norm: group_norm,
    F.scaled_dot_product_attention: scaled_dot_product_attention,
    torch.einsum: einsum,
}
