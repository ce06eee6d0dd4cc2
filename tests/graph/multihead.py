"""Multi-head attention in one call: every way to call it, behind a convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.mechanisms import case, cbr, net

REASON = "its scale follows from the number of channels"
mechanism = case(removable=0.9, exact=False, reason=REASON)


def tokens(x: Tensor) -> Tensor:
    """`b c h w` -> `b hw c`."""
    return x.flatten(2).transpose(1, 2)


def attending(forward: Callable[..., Any], attention: nn.Module, **parts: Any) -> nn.Module:
    """A network whose attention, over 12 channels, is called by `forward`."""
    return net(forward, a=cbr(3, 12), attention=attention, head=nn.Linear(12, 5), **parts)


def attention(**options: Any) -> nn.MultiheadAttention:
    """Three heads over 12 channels."""
    return nn.MultiheadAttention(12, 3, batch_first=True, **options)


def onto_itself(s: nn.Module, x: Tensor) -> Tensor:
    y = tokens(s.a(x))
    return s.head((y + s.attention(y, y, y, need_weights=False)[0]).mean(1))


@mechanism
def multihead_attention() -> nn.Module:
    return attending(onto_itself, attention())


@mechanism
def multihead_without_bias() -> nn.Module:
    return attending(onto_itself, attention(bias=False))


@mechanism
def multihead_with_learned_keys() -> nn.Module:
    return attending(onto_itself, attention(add_bias_kv=True))


@mechanism
def multihead_with_a_zero_key() -> nn.Module:
    return attending(onto_itself, attention(add_zero_attn=True))


@mechanism
def multihead_that_gives_its_weights() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = tokens(s.a(x)).transpose(0, 1)
        z, weights = s.attention(y, y, y)
        return s.head((y + z).mean(0)) + weights.mean()

    return attending(forward, nn.MultiheadAttention(12, 3))


@mechanism
def multihead_under_masks() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = tokens(s.a(x))
        count = y.shape[1]
        later = torch.ones(count, count, dtype=torch.bool, device=y.device).triu(1)
        padding = torch.zeros(y.shape[0], count, dtype=torch.bool, device=y.device)
        padding[:, -3:] = True
        y = y + s.attention(y, y, y, attn_mask=later, need_weights=False)[0]
        return s.head((y + s.attention(y, y, y, key_padding_mask=padding)[0]).mean(1))

    return attending(forward, attention())


@mechanism
def multihead_without_a_shortcut() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = tokens(s.a(x))
        return s.head(s.next(s.attention(y, y, y)[0]).relu().mean(1))

    return attending(forward, attention(), next=nn.Linear(12, 12))


@mechanism
def multihead_across() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y, key, value = tokens(s.a(x)), tokens(s.b(x)), tokens(s.c(x))
        return s.head((y + s.attention(y, key, value)[0]).mean(1))

    return attending(forward, attention(kdim=8, vdim=6), b=cbr(3, 8), c=cbr(3, 6))


@mechanism
def multihead_across_equal_widths() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y, other = tokens(s.a(x)), tokens(s.b(x))
        return s.head((y + s.attention(y, other, other)[0]).mean(1))

    return attending(forward, attention(), b=cbr(3, 12))


@mechanism
def learned_queries() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        asked = s.queries.expand(x.shape[0], -1, -1)
        y = tokens(s.a(x))
        return s.head((asked + s.attention(asked, y, y)[0]).mean(1))

    return attending(forward, attention(), queries=nn.Parameter(torch.randn(1, 4, 12)))


@mechanism
def attention_pool() -> nn.Module:
    """As image encoders trained on text end: the mean of all positions asks."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x).flatten(2).permute(2, 0, 1)
        y = torch.cat([y.mean(0, keepdim=True), y]) + s.places[:, None]
        parts: tuple[Any, ...] = (None, torch.cat([s.q.bias, s.k.bias, s.v.bias]), None, None, False, 0.0)
        out, _ = F.multi_head_attention_forward(
            *(y[:1], y, y, y.shape[-1], 3, *parts, s.attention.weight, s.attention.bias),
            training=s.training,
            need_weights=False,
            use_separate_proj_weight=True,
            q_proj_weight=s.q.weight,
            k_proj_weight=s.k.weight,
            v_proj_weight=s.v.weight,
        )
        return s.head(out.squeeze(0))

    projections = {name: nn.Linear(12, 12) for name in "qkv"}
    return attending(forward, nn.Linear(12, 12), places=nn.Parameter(torch.randn(65, 12)), **projections)


@mechanism
def multihead_at_a_written_width() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = tokens(s.a(x)).transpose(0, 1)
        parts: tuple[Any, ...] = (None, None, None, False, 0.0)
        out, _ = F.multi_head_attention_forward(
            *(y, y, y, 12, 3, s.packed, *parts, s.attention.weight, s.attention.bias),
            training=s.training,
            need_weights=False,
        )
        return s.head((y + out).mean(0))

    return attending(forward, nn.Linear(12, 12), packed=nn.Parameter(torch.randn(36, 12)))


@case(removable=0.9, exact=False, reason=REASON)
def transformer_layers() -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True, norm_first=True)
    decoder = nn.TransformerDecoderLayer(12, 3, 10, batch_first=True)

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.attention(tokens(s.a(x)))
        return s.head(s.decoder(s.queries.expand(x.shape[0], -1, -1), y).mean(1))

    queries = nn.Parameter(torch.randn(1, 4, 12))
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return attending(forward, encoder, decoder=decoder, queries=queries)


@mechanism
def decoder_of_embedded_queries() -> nn.Module:
    """Queries that are the weight of an embedding, through norms that come first (arXiv 2005.12872)."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        asked = s.queries.weight.unsqueeze(0).expand(x.shape[0], -1, -1)
        return s.head(s.attention(asked, tokens(s.a(x))).mean(1))

    layer = nn.TransformerDecoderLayer(12, 3, 10, batch_first=True, norm_first=True)
    return attending(forward, nn.TransformerDecoder(layer, 2), queries=nn.Embedding(4, 12))
