"""Attention and other mixers of tokens inside convolutional networks, one mechanism each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.mechanisms import case, cbr, conv, head, net

# -- heads and how they are laid out ----------------------------------------------------------------------------------


@case(removable=0.9, exact=False, reason="a product of two activations over channels")
def heads_in_one_reshape() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, c, h, w = x.shape
        y = s.norm(x.flatten(2).transpose(1, 2))
        q, k, v = s.qkv(y).reshape(b, h * w, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q * 0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        y = s.proj(y.transpose(1, 2).reshape(b, h * w, c))
        return s.head(x + y.transpose(1, 2).reshape(b, c, h, w))

    return net(forward, a=cbr(3, 8), norm=nn.LayerNorm(8), qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8), head=head(8))


@case(removable=0.9, exact=False, reason="a product of two activations over channels")
def heads_then_chunk() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, _, h, w = x.shape
        q, k, v = s.qkv(x).view(b, 2, 12, -1).chunk(3, dim=2)
        y = v @ (q.transpose(-2, -1) @ k).softmax(-1).transpose(-2, -1)
        return s.head(x + s.proj(y.reshape(b, 8, h, w)))

    return net(forward, a=cbr(3, 8), qkv=conv(8, 24, 1), proj=conv(8, 8, 1), head=head(8))


@case(removable=0.9, exact=False, reason="a product of two activations over channels")
def heads_then_split() -> nn.Module:
    """Keys and values of other sizes, biases by a table that is looked up and cached."""

    def biases(s: nn.Module, x: Tensor) -> Tensor:
        if s.training:
            return s.table[:, s.index]
        key = str(x.device)
        if key not in s.cache:
            s.cache[key] = s.table[:, s.index]
        return s.cache[key]

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, c, h, w = x.shape
        q, k, v = s.qkv(x.flatten(2).transpose(1, 2)).view(b, h * w, 2, -1).split([3, 3, 5], dim=3)
        q, k, v = q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1), v.permute(0, 2, 1, 3)
        y = (q @ k + biases(s, x)).softmax(-1) @ v
        y = s.proj(y.transpose(1, 2).reshape(b, h * w, 10)).transpose(1, 2)
        return s.head(x + y.reshape(b, c, h, w))

    module = net(
        forward,
        a=cbr(3, 8),
        qkv=nn.Linear(8, 22),
        proj=nn.Linear(10, 8),
        head=head(8),
        table=nn.Parameter(torch.randn(2, 15)),
        index=torch.arange(64).view(1, -1).sub(torch.arange(64).view(-1, 1)).abs() % 15,
    )
    module.cache = {}
    return module


@case(removable=0.9, exact=False, reason="over channels")
def heads_with_norms_and_one_key() -> nn.Module:
    """Queries of several heads share one key and value; queries and keys are normed."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, _, h, w = x.shape
        q = s.q_norm(s.q(x).reshape(b, 4, 6, h * w).transpose(-1, -2))
        k = s.k_norm(s.k(x).reshape(b, 1, 6, h * w).transpose(-1, -2))
        v = s.v(x).reshape(b, 1, 5, h * w).transpose(-1, -2)
        y = F.scaled_dot_product_attention(q, k, v, scale=0.3).transpose(-1, -2).reshape(b, 20, h, w)
        return s.head(x + s.proj(y))

    return net(
        forward,
        a=cbr(3, 8),
        q=conv(8, 24, 1),
        k=conv(8, 6, 1),
        v=conv(8, 5, 1),
        q_norm=nn.LayerNorm(6),
        k_norm=nn.LayerNorm(6),
        proj=conv(20, 8, 1),
        head=head(8),
    )


@case(removable=0.9, exact=False, reason="a product of two activations over channels")
def heads_as_a_batch_of_images() -> nn.Module:
    """A depthwise convolution of the keys, all heads through the same kernels; windows of tokens."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, c, h, w = x.shape
        q, k, v = s.qkv(x.flatten(2).transpose(1, 2)).reshape(b, h * w, 3, 2, 4).permute(2, 0, 3, 1, 4)
        k = k.transpose(2, 3).reshape(b * 2, 4, h, w)
        k = s.pool(k).reshape(b, 2, 4, -1)
        y = (q @ k).softmax(-1) @ F.avg_pool2d(v.transpose(2, 3).reshape(b * 2, 4, h, w), 2).reshape(
            b, 2, 4, -1
        ).transpose(2, 3)
        return s.head(x + s.proj(y.transpose(1, 2).reshape(b, h * w, 8)).transpose(1, 2).reshape(b, c, h, w))

    return net(
        forward,
        a=cbr(3, 8),
        qkv=nn.Linear(8, 24),
        pool=nn.Conv2d(4, 4, 2, 2, groups=4),
        proj=nn.Linear(8, 8),
        head=head(8),
    )


@case(removable=0.9, exact=False, reason="a layer norm over channels")
def windows_of_tokens() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, c, h, w = x.shape
        y = x.view(b, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 3, 5, 1).reshape(b * 4, -1, c)
        y = s.norm(y)
        bias = torch.cat([s.q_bias, s.zero, s.v_bias])
        q, k, v = F.linear(y, s.qkv, bias).view(b * 4, -1, 2, 12).transpose(1, 2).chunk(3, dim=3)
        y = s.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=s.bias).transpose(1, 2).reshape(b * 4, -1, 8))
        y = y.view(b, 2, 2, h // 2, w // 2, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        return s.head(x + y)

    return net(
        forward,
        a=cbr(3, 8),
        norm=nn.LayerNorm(8),
        qkv=nn.Parameter(torch.randn(24, 8)),
        q_bias=nn.Parameter(torch.randn(8)),
        zero=torch.zeros(8),
        v_bias=nn.Parameter(torch.randn(8)),
        bias=nn.Parameter(torch.randn(2, 16, 16)),
        proj=nn.Linear(8, 8),
        head=head(8),
    )


@case(removable=0.9, exact=False, reason="a product of two activations over channels")
def einsum_attention() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, _, h, w = x.shape
        q, k, v = (layer(x).reshape(b, 2, -1, h * w) for layer in (s.q, s.k, s.v))
        y = torch.einsum("bhdn,bhdm->bhnm", q, k).softmax(-1)
        return s.head(x + s.proj(torch.einsum("bhnm,bhdm->bhdn", y, v).reshape(b, -1, h, w)))

    return net(
        forward, a=cbr(3, 8), q=conv(8, 6, 1), k=conv(8, 6, 1), v=conv(8, 10, 1), proj=conv(10, 8, 1), head=head(8)
    )


# -- positions --------------------------------------------------------------------------------------------------------


@case(removable=0.5, exact=False, reason="its units come to lie across rows and columns")
def relative_positions() -> nn.Module:
    """Queries times a table of relative positions, skewed to absolute ones."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, _, h, w = x.shape
        q, k, v = torch.split(s.qkv(x), [8, 8, 12], dim=1)
        q = q.reshape(b * 2, 4, -1).transpose(-1, -2)
        relative = (q.reshape(b * 2, h, w, 4) @ s.table.transpose(-1, -2)).reshape(-1, w, 2 * w - 1)
        relative = F.pad(F.pad(relative, [0, 1]).flatten(1), [0, w - 1]).reshape(-1, w + 1, 2 * w - 1)
        relative = relative[:, :w, w - 1 :].reshape(b * 2, h, 1, w, w).expand(-1, -1, h, -1, -1)
        scores = q @ k.reshape(b * 2, 4, -1) + relative.permute(0, 1, 3, 2, 4).reshape(b * 2, h * w, h * w)
        y = (scores.softmax(-1) @ v.reshape(b * 2, 6, -1).transpose(-1, -2)).transpose(-1, -2)
        return s.head(x + s.proj(y.reshape(b, 12, h, w)))

    return net(
        forward,
        a=cbr(3, 8),
        qkv=conv(8, 28, 1),
        table=nn.Parameter(torch.randn(15, 4)),
        proj=conv(12, 8, 1),
        head=head(8),
    )


def _add_relative(scores: Tensor, q: Tensor, size: tuple[int, int], table: Tensor) -> Tensor:
    """Decomposed relative positions; it branches on sizes, writes into `scores` and gives it back."""
    h, w = size
    scale = max(h / w, 1.0)
    offset = (torch.arange(h).view(-1, 1) * scale - torch.arange(h).view(1, -1) + h - 1).long()
    r = torch.einsum("bnhwc,hkc->bnhwk", q.reshape(*q.shape[:2], h, w, q.shape[-1]), table[offset])
    scores[:, :, :, :] = (scores.view(*scores.shape[:2], h, w, h, w) + r.unsqueeze(-1)).view(scores.shape)
    return scores


@case(removable=0.9, exact=False, reason="over channels")
def decomposed_relative_positions() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, c, h, w = x.shape
        q, k, v = s.qkv(x.flatten(2).transpose(1, 2)).reshape(b, h * w, 3, 2, 4).permute(2, 0, 3, 1, 4)
        scores = _add_relative(q @ k.transpose(-2, -1), q, (h, w), s.table)
        y = scores.softmax(-1) @ v
        y.add_(q)
        return s.head(x + s.proj(y.transpose(1, 2).reshape(b, -1, 8)).transpose(1, 2).reshape(b, c, h, w))

    return net(
        forward,
        a=cbr(3, 8),
        qkv=nn.Linear(8, 24),
        table=nn.Parameter(torch.randn(15, 4)),
        proj=nn.Linear(8, 8),
        head=head(8),
    )


# -- outer products of channels ---------------------------------------------------------------------------------------


@case(removable=0.9, exact=False, reason="over channels")
def attention_between_channels() -> nn.Module:
    """A map of channels by channels, normed over positions (arXiv 2106.09681)."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, c, h, w = x.shape
        q, k, v = s.qkv(x.flatten(2).transpose(1, 2)).reshape(b, h * w, 3, 2, 4).permute(2, 0, 3, 4, 1).unbind(0)
        scores = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)) * s.temperature
        y = (scores.softmax(-1) @ v).permute(0, 3, 1, 2).reshape(b, h * w, 8)
        return s.head(x + s.proj(y).transpose(1, 2).reshape(b, c, h, w))

    return net(
        forward,
        a=cbr(3, 8),
        qkv=nn.Linear(8, 24),
        temperature=nn.Parameter(torch.rand(2, 1, 1)),
        proj=nn.Linear(8, 8),
        head=head(8),
    )


@case(removable=0.9, exact=False, reason="a product of two activations over channels")
def linear_attention() -> nn.Module:
    """Keys times values first, with a row of ones that counts (arXiv 2205.14756)."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, _, h, w = x.shape
        qkv = torch.cat([y := s.qkv(x), s.b(y)], 1).reshape(b, -1, 12, h * w).transpose(-1, -2)
        q, k, v = qkv[..., :4], qkv[..., 4:8], qkv[..., 8:]
        v = F.pad(v, (0, 1), value=1.0)
        y = q.relu() @ (k.relu().transpose(-1, -2) @ v)
        y = y[..., :-1] / (y[..., -1:] + 1e-3)
        return s.head(x + s.proj(y.transpose(-1, -2).reshape(b, -1, h, w)))

    return net(forward, a=cbr(3, 8), qkv=conv(8, 24, 1), b=conv(24, 24, 1, groups=6), proj=conv(16, 8, 1), head=head(8))


@case(removable=0.9, exact=False, reason="a product of two activations over channels")
def content_and_position_lambdas() -> nn.Module:
    """Lambda layers (arXiv 2102.08602): values as an image of one channel beside the units."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, _, h, w = x.shape
        q, k, v = torch.split(s.qkv(x), [8, 4, 5], dim=1)
        q = s.norm_q(q).reshape(b, 2, 4, h * w).transpose(-1, -2)
        v = s.norm_v(v).reshape(b, 5, h * w).transpose(-1, -2)
        k = k.reshape(b, 4, h * w).softmax(-1)
        content = q @ (k @ v).unsqueeze(1)
        position = s.positions(v.reshape(b, 1, h, w, 5)).reshape(b, 1, 4, h * w, 5).transpose(2, 3)
        y = content + (q.unsqueeze(-2) @ position).squeeze(-2)
        return s.head(s.proj(y.transpose(-1, -2).reshape(b, 10, h, w)))

    return net(
        forward,
        a=cbr(3, 8),
        qkv=conv(8, 17, 1),
        norm_q=nn.BatchNorm2d(8),
        norm_v=nn.BatchNorm2d(5),
        positions=nn.Conv3d(1, 4, (3, 3, 1), padding=(1, 1, 0)),
        proj=conv(10, 8, 1),
        head=head(8),
    )


@case(removable=0.9, exact=False, reason="a product of two activations over channels")
def mixed_hidden_states() -> nn.Module:
    """Layers on one side of an outer product (arXiv 2411.15241): channels by states."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        b, _, h, w = x.shape
        x = x.flatten(2)
        weigh, read, step = torch.split(s.states(x), [5, 5, 5], dim=1)
        hidden = x @ ((step + s.rate.view(1, -1, 1)).softmax(-1) * weigh).transpose(-2, -1)
        y, z = torch.split(s.hz(hidden), [6, 6], dim=1)
        y = s.bn(s.out(y * F.silu(z) + y * s.skip))
        return s.head((y @ read).reshape(b, -1, h, w))

    return net(
        forward,
        a=cbr(3, 8),
        states=nn.Conv1d(8, 15, 1),
        rate=nn.Parameter(torch.rand(5)),
        hz=nn.Conv1d(8, 12, 1),
        skip=nn.Parameter(torch.ones(1)),
        out=nn.Conv1d(6, 8, 1),
        bn=nn.BatchNorm1d(8),
        head=head(8),
    )


# -- tokens beside those of the image ---------------------------------------------------------------------------------


@case(removable=0.9, exact=False, reason="a layer norm over channels")
def class_token() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x).flatten(2).transpose(1, 2) + s.positions
        y = torch.cat([s.token.expand(y.shape[0], -1, -1), y], 1)
        y = y + s.mlp(s.norm(y))
        first, rest = y[:, :1], y[:, 1:]
        rest = s.b(rest.transpose(1, 2).reshape(x.shape[0], -1, 8, 8)).flatten(2).transpose(1, 2)
        y = torch.cat([first, rest], 1)
        return s.out(y[:, 0] + y[:, 1:].mean(1))

    return net(
        forward,
        a=cbr(3, 8),
        positions=nn.Parameter(torch.randn(1, 64, 8)),
        token=nn.Parameter(torch.randn(1, 1, 8)),
        norm=nn.LayerNorm(8),
        mlp=nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)),
        b=conv(8, 8, groups=8),
        out=nn.Linear(8, 5),
    )


@case(removable=0.9)
def stacked_tokens_joined() -> nn.Module:
    """Tokens of several branches, stacked and joined by a convolution over the stack."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        tokens = [branch(x).mean((2, 3)) for branch in (s.a, s.b, s.c)]
        return s.out(s.join(torch.stack(tokens, 1)).squeeze(1))

    return net(forward, a=cbr(3, 8), b=cbr(3, 8), c=cbr(3, 8), join=nn.Conv1d(3, 1, 1), out=nn.Linear(8, 5))


@case(removable=0.9, exact=False, reason="a layer norm over channels")
def shared_encoding_of_positions() -> nn.Module:
    """One module with sizes written into it, reached from two places."""

    def encode(s: nn.Module, v: Tensor) -> Tensor:
        b, heads, n, d = v.shape
        image = v.transpose(-1, -2).reshape(b, heads * d, 8, 8)
        first, second = torch.split(image, [4, 8], dim=1)
        return torch.cat([s.a(first), s.b(second)], 1).reshape(b, heads, d, n).transpose(-1, -2)

    def attend(s: nn.Module, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = s.qkv(s.norm(x)).reshape(b, n, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = q @ (k.softmax(2).transpose(-1, -2) @ v) + q * s.encoding(v)
        return x + s.proj(y.transpose(1, 2).reshape(b, n, 12))

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.second(s.first(s.a(x).flatten(2).transpose(1, 2)))
        return s.head(y.transpose(1, 2).reshape(-1, 8, 8, 8))

    encoding = net(encode, a=conv(4, 4, groups=4), b=conv(8, 8, 5, groups=8))
    blocks = [
        net(attend, norm=nn.LayerNorm(8), qkv=nn.Linear(8, 36), proj=nn.Linear(12, 8), encoding=encoding)
        for _ in range(2)
    ]
    return net(forward, a=cbr(3, 8), first=blocks[0], second=blocks[1], head=head(8))


@case(removable=0.9, exact=False, reason="its scale follows from the number of channels")
def size_given_in_the_call() -> nn.Module:
    def attend(s: nn.Module, x: Tensor, size: tuple[int, int]) -> Tensor:
        b, n, c = x.shape
        q = s.q(x).reshape(b, n, 2, c // 2).permute(0, 2, 1, 3)
        y = s.reduce(x.permute(0, 2, 1).reshape(b, c, *size)).reshape(b, c, -1).permute(0, 2, 1)
        k, v = s.kv(y).reshape(b, -1, 2, 2, c // 2).permute(2, 0, 3, 1, 4)
        return s.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        y = s.attention(x.flatten(2).transpose(1, 2), x.shape[-2:])
        return s.head(x + y.transpose(1, 2).reshape(x.shape))

    attention = net(attend, q=nn.Linear(8, 8), reduce=nn.Conv2d(8, 8, 2, 2), kv=nn.Linear(8, 16), proj=nn.Linear(8, 8))
    return net(forward, a=cbr(3, 8), attention=attention, head=head(8))


@case(removable=0.9, exact=False, reason="its scale follows")
def code_that_branches_on_sizes() -> nn.Module:
    """It cannot be traced; its sizes become others in a copy of its source."""

    def attend(s: nn.Module, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        if h % 4 or w % 4:
            x = F.pad(x, (0, -w % 4, 0, -h % 4))
        q, k, v = s.qkv(x).reshape(b, 2, 12, -1).transpose(-1, -2).chunk(3, 3)
        y = s.proj(F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, 8, *x.shape[2:]))
        return y[:, :, :h, :w]

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(x + s.attention(x))

    return net(forward, a=cbr(3, 16), attention=net(attend, qkv=conv(16, 24, 1), proj=conv(8, 16, 1)), head=head(16))


# -- what patched code must keep --------------------------------------------------------------------------------------


@case(removable=0.9)
def results_that_nobody_reads() -> nn.Module:
    """Statements that write into a tensor, in code that has to be patched for its sizes."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        first, second = torch.split(s.a(x), [5, 7], dim=1)
        second = s.b(second)
        first = s.c(first)
        second.add_(first)
        s.act(second)
        return s.head(second)

    return net(
        forward,
        a=cbr(3, 12),
        b=nn.Sequential(conv(7, 6), nn.BatchNorm2d(6)),
        c=conv(5, 6),
        act=nn.ReLU(inplace=True),
        head=head(6),
    )


@case(removable=0.9)
def positions_that_are_resized() -> nn.Module:
    """Learned positions of another image size, as transformers resize them."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        places = s.places.reshape(1, 5, 5, -1).permute(0, 3, 1, 2)
        places = F.interpolate(places, size=x.shape[2:], mode="bilinear").permute(0, 2, 3, 1).reshape(1, -1, x.shape[1])
        y = x.flatten(2).transpose(1, 2) + places
        return s.head(s.b(y.transpose(1, 2).reshape(x.shape)))

    return net(forward, a=cbr(3, 8), b=cbr(8, 6), places=nn.Parameter(torch.randn(1, 25, 8)), head=head(6))


@case(removable=0.9)
def learned_tokens_through_a_layer() -> nn.Module:
    """Tokens that are learned go through a linear layer of their own before they meet what the image gave."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x).flatten(2).transpose(1, 2)
        tokens = s.embed(s.tokens).relu().expand(x.shape[0], -1, -1)
        return s.head(torch.cat([tokens, y], 1).transpose(1, 2).unsqueeze(-1))

    tokens = nn.Parameter(torch.randn(1, 4, 12))
    return net(forward, a=cbr(3, 8), embed=nn.Linear(12, 8), tokens=tokens, head=head(8))
