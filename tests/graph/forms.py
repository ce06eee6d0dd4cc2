"""What forward code does with channels, in as few lines as can be: by place, by slice, by loop, in place, as weights.

Each is the middle of a small network; see test_forms.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PERM = torch.randperm(12, generator=torch.Generator().manual_seed(0))


class Parts(nn.Module):
    """Whatever a form may need, for 12 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.heads, self.half = 12, 3, 6
        self.conv, self.conv2, self.fc = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 12, 1), nn.Linear(12, 12)
        self.g, self.w2 = nn.Parameter(torch.ones(12)), nn.Parameter(torch.rand(2))
        self.register_buffer("scale_b", torch.ones(1, 12, 1, 1))
        self.register_buffer("idx", torch.arange(11, -1, -1))
        self.bn, self.inn, self.se = nn.BatchNorm2d(6), nn.InstanceNorm2d(6, affine=True), nn.Linear(6, 6)
        self.up, self.ct = nn.Conv2d(12, 48, 1), nn.ConvTranspose2d(12, 12, 2, 2, groups=3)
        self.dw, self.gc = (nn.Conv2d(12, 12, 3, padding=1, groups=groups) for groups in (12, 3))
        self.lat = nn.ModuleList([nn.Conv2d(6, 6, 1) for _ in range(2)])


def unflatten_const(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).flatten(2)
    return y.unflatten(2, (8, 8))


def unflatten_ch(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return y.unflatten(1, (3, 4)).flatten(1, 2)


def narrow_halves(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    a = y.narrow(1, 0, 6)
    b = y.narrow(1, 6, 6)
    return torch.cat([b, a], 1)


def neg_slices(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.cat([y[:, -4:], y[:, :-4]], 1)


def half_slices(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    c = y.size(1) // 2
    return torch.cat([y[:, :c].relu(), y[:, c:]], 1)


def strided(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.cat([y[:, ::2], y[:, 1::2]], 1)


def einops_like(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    b, c, h, w = y.shape
    return y.reshape(b, c, h * w).transpose(1, 2).reshape(b, h * w, c).transpose(1, 2).reshape(b, c, h, w)


def expand_as(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    z = y.mean((2, 3), keepdim=True).expand_as(y)
    return y * z


def expand_num(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    z = y.mean((2, 3), keepdim=True).expand(2, 12, 8, 8)
    return y * z


def expand_attr(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    z = y.mean((2, 3), keepdim=True).expand((-1, s.c, 8, 8))
    return y * z


def broadcast_num(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return y * torch.broadcast_to(y.mean((2, 3), keepdim=True), (2, 12, 8, 8))


def expand_written(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    if x.shape[-1] > 4:
        y = y * y.mean((2, 3), keepdim=True).expand(x.shape[0], 12, 8, 8)
    return y if s.training else y * 1


def repeat_num(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    z = y.mean((2, 3), keepdim=True).repeat(1, 1, 8, 8)
    return y * z


def zeros_num(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    z = torch.zeros(2, 12, 8, 8, dtype=y.dtype)
    return z + y


def zeros_like_(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    z = torch.zeros_like(y)
    z[:, :, ::2] = y[:, :, ::2]
    return z


def put_channels(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    z = torch.zeros(y.shape, dtype=y.dtype)
    z[:, :6] = y[:, :6]
    z[:, 6:] = y[:, 6:].relu()
    return z


def new_zeros(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    z = y.new_zeros(y.shape[0], s.c, 8, 8)
    return z + y


def matmul_gram(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).flatten(2)
    a = (y @ y.transpose(1, 2)).softmax(-1)
    return (a @ y).view(x.shape)


def linear_last(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).permute(0, 2, 3, 1)
    y = s.fc(y)
    return y.permute(0, 3, 1, 2)


def linear_flat(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).permute(0, 2, 3, 1).reshape(-1, 12)
    y = s.fc(y)
    return y.view(2, 8, 8, 12).permute(0, 3, 1, 2)


def param_view(s: Any, x: Tensor) -> Tensor:
    return s.conv(x) * s.g.view(1, -1, 1, 1)


def param_view_num(s: Any, x: Tensor) -> Tensor:
    return s.conv(x) * s.g.view(1, 12, 1, 1)


def param_none(s: Any, x: Tensor) -> Tensor:
    return s.conv(x) * s.g[None, :, None, None]


def buffer_(s: Any, x: Tensor) -> Tensor:
    return s.conv(x) * s.scale_b


def groupshuffle(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    n, c, h, w = y.size()
    y = y.view(n, s.heads, c // s.heads, h, w)
    return y.transpose(1, 2).contiguous().view(n, c, h, w)


def numpy_prod(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    n = math.prod(y.shape[1:])
    return y.view(-1, n).view(y.shape)


def layernorm(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).permute(0, 2, 3, 1)
    y = F.layer_norm(y, (12,))
    return y.permute(0, 3, 1, 2)


def layernorm_shape(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return F.layer_norm(y, y.shape[1:])


def groupnorm_f(s: Any, x: Tensor) -> Tensor:
    return F.group_norm(s.conv(x), 3)


def layernorm_named(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).permute(0, 2, 3, 1)
    return F.layer_norm(y, normalized_shape=[s.c], weight=s.g).permute(0, 3, 1, 2)


def groupnorm_scaled(s: Any, x: Tensor) -> Tensor:
    return F.group_norm(s.conv(x), num_groups=s.heads, weight=s.g)


def groupnorm_of_six(s: Any, x: Tensor) -> Tensor:
    return F.group_norm(s.conv(x), 6)


def interp_cat(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    z = F.interpolate(F.avg_pool2d(y, 2), scale_factor=2)
    return y + z


def topk_(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    v = y.flatten(2).topk(3, dim=-1).values.mean(-1)
    return y * v[..., None, None]


def sort_(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return y.sort(dim=-1).values


def max_ch(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    m, _ = y.max(1, keepdim=True)
    return y * torch.sigmoid(m)


def while_loop(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    i = 0
    while i < 2:
        y = F.relu(s.conv2(y))
        i += 1
    return y


def listcat(s: Any, x: Tensor) -> Tensor:
    out = []
    for i in range(3):
        out.append(s.conv(x)[:, i * 4 : (i + 1) * 4])
    return torch.cat(out, 1)


def stack_sum(s: Any, x: Tensor) -> Tensor:
    return torch.stack([s.conv(x), s.conv2(x)]).sum(0)


def stack_attn(s: Any, x: Tensor) -> Tensor:
    z = torch.stack([s.conv(x), s.conv2(x)], 1)
    a = z.mean((3, 4)).softmax(1)
    return (z * a[..., None, None]).sum(1)


def chunk3(s: Any, x: Tensor) -> Tensor:
    a, b, c = s.conv(x).chunk(3, 1)
    return torch.cat([a, b * c.sigmoid(), c], 1)


def tensor_split(s: Any, x: Tensor) -> Tensor:
    a, b = s.conv(x).tensor_split(2, dim=1)
    return torch.cat([b, a], 1)


def split_list(s: Any, x: Tensor) -> Tensor:
    a, b = torch.split(s.conv(x), [4, 8], dim=1)
    return torch.cat([b, a], 1)


def unbind_(s: Any, x: Tensor) -> Tensor:
    q, k = s.conv(x).reshape(2, 2, 6, 64).unbind(1)
    return torch.cat([q, k], 1).view(2, 12, 8, 8)


def roll_ch(s: Any, x: Tensor) -> Tensor:
    return torch.roll(s.conv(x), 1, dims=1)


def flip_ch(s: Any, x: Tensor) -> Tensor:
    return s.conv(x).flip(1)


def index_list(s: Any, x: Tensor) -> Tensor:
    return s.conv(x)[:, [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]]


def pixel(s: Any, x: Tensor) -> Tensor:
    return F.pixel_unshuffle(F.pixel_shuffle(s.conv(x), 2), 2)


def cumsum_ch(s: Any, x: Tensor) -> Tensor:
    return s.conv(x).cumsum(1)


def pad_ch(s: Any, x: Tensor) -> Tensor:
    return F.pad(s.conv(x), (0, 0, 0, 0, 0, 2))[:, :12]


def einsum_(s: Any, x: Tensor) -> Tensor:
    return torch.einsum("bchw,c->bchw", s.conv(x), s.g)


def einsum_w(s: Any, x: Tensor) -> Tensor:
    return torch.einsum("bchw,dc->bdhw", s.conv(x), s.fc.weight)


def bmm_(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).flatten(2)
    w = s.fc.weight.expand(2, 12, 12)
    return torch.bmm(w, y).view(2, -1, 8, 8)


def unfold_(s: Any, x: Tensor) -> Tensor:
    y = F.unfold(s.conv(x), 3, padding=1)
    y = y.view(2, 12, 9, 64).mean(2)
    return y.view(2, 12, 8, 8)


def fold_(s: Any, x: Tensor) -> Tensor:
    y = F.unfold(s.conv(x), 3, padding=1)
    return F.fold(y, (8, 8), 3, padding=1)


def fft_(s: Any, x: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(s.conv(x)), s=(8, 8))


def grid_(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    g = torch.zeros(2, 8, 8, 2, dtype=y.dtype)
    return F.grid_sample(y, g, align_corners=False)


def where_(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.where(y > 0, y, s.conv2(x))


def masked(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return y.masked_fill(y < 0, 0.0)


def norm_w(s: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, F.normalize(s.conv.weight, dim=1))


def ws(s: Any, x: Tensor) -> Tensor:
    w = s.conv.weight
    w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-05)
    return F.conv2d(x, w, s.conv.bias)


def cos_sim(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return y * F.cosine_similarity(y, s.conv2(x), dim=1)[:, None]


def gate0(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return y * y[:, :1]


def select0(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return y * y[:, 0].unsqueeze(1)


def pairs(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    z = y[:, ::2] + y[:, 1::2]
    return torch.cat([z, z], 1)


def perm_t(s: Any, x: Tensor) -> Tensor:
    return s.conv(x)[:, PERM]


def dup(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.cat([y[:, :8], y[:, :4] * 3], 1)


def loopsum(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    out = 0
    for i in range(12):
        out = out + y[:, i : i + 1] * (i + 1)
    return y + out


def loopshape(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    out = 0
    for i in range(y.shape[1]):
        out = out + y[:, i : i + 1] * s.g[i]
    return y + out


def split1(s: Any, x: Tensor) -> Tensor:
    p = s.conv(x).split(1, 1)
    return torch.cat([q * 2 if i % 2 else q for i, q in enumerate(p)], 1)


def maxout(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).view(2, 4, 3, 8, 8).max(1).values
    return y.repeat(1, 4, 1, 1)


def maxout2(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).view(2, 3, 4, 8, 8).max(2).values
    return y.repeat_interleave(4, 1)


def groupsoft(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).view(2, 3, 4, 8, 8).softmax(2)
    return y.view(2, 12, 8, 8)


def glu(s: Any, x: Tensor) -> Tensor:
    y = F.glu(s.conv(x), 1)
    return torch.cat([y, y], 1)


def const_vec(s: Any, x: Tensor) -> Tensor:
    return s.conv(x) * torch.arange(1, 13, dtype=x.dtype).view(1, -1, 1, 1)


def const_list(s: Any, x: Tensor) -> Tensor:
    return s.conv(x) * torch.tensor([float(i) for i in range(12)], dtype=x.dtype)[:, None, None]


def const_shape(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return y * torch.arange(y.shape[1], dtype=x.dtype).view(1, -1, 1, 1)


def coords(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    c = torch.linspace(-1, 1, 8, dtype=x.dtype).expand(2, 2, 8, 8)
    return torch.cat([y[:, :10], c], 1)


def flat_part(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).flatten(1)[:, :384]
    return torch.cat([y, y], 1).view(2, 12, 8, 8)


def loopstride(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    z = sum(y[:, i::3] * (i + 1) for i in range(3))
    return torch.cat([z, z, z], 1)


def detach_(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return y + y.detach()


def cachee(s: Any, x: Tensor) -> Tensor:
    s.last = s.conv(x)
    return s.last * 2


def reuse(s: Any, x: Tensor) -> Tensor:
    return s.conv(F.relu(s.conv(x)))


def chan_norm(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    m = y.mean(1, keepdim=True)
    v = (y - m).pow(2).mean(1, keepdim=True)
    return (y - m) / (v + 1e-05).sqrt() * s.g[:, None, None]


def first_half_relu_idx(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    i = torch.arange(12) < 6
    return torch.where(i[:, None, None], y.relu(), y)


def mask_mul(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    m = torch.ones(12, dtype=x.dtype)
    m[:6] = 0
    return y * m[:, None, None]


def mod_ch(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    c = y.shape[1]
    a, b = (y[:, : c - c // 3], y[:, c - c // 3 :])
    return torch.cat([a, b * 2], 1)


def split_sizes_computed(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    c = y.shape[1]
    a, b = y.split([c // 4, c - c // 4], 1)
    return torch.cat([a * 2, b], 1)


def split_attr(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    a, b = y.split([s.c // 4, s.c - s.c // 4], 1)
    return torch.cat([a * 2, b], 1)


def narrow_end(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.cat([y.narrow(1, 0, 8) * 2, y.narrow(1, 8, 4)], 1)


def avgpool_ch(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).flatten(2).transpose(1, 2)
    z = F.avg_pool1d(y, 3)
    return z.transpose(1, 2).reshape(2, 4, 8, 8).repeat(1, 3, 1, 1)


def interp_ch(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).flatten(2).transpose(1, 2)
    z = F.interpolate(y, size=12)
    return z.transpose(1, 2).reshape(2, 12, 8, 8)


def conv1d_ch(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).mean((2, 3))[:, None]
    w = torch.sigmoid(F.conv1d(y, torch.ones(1, 1, 3, dtype=x.dtype), padding=1))
    return x * w.view(2, 12, 1, 1)


def dot_ch(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return y * (y * s.conv2(x)).sum(1, keepdim=True)


def gather_(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    i = torch.zeros(2, 12, 8, 8, dtype=torch.long) + PERM[None, :, None, None]
    return y.gather(1, i)


def scatter_(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    i = PERM[None, :, None, None].expand(2, 12, 8, 8)
    return torch.zeros_like(y).scatter(1, i, y)


def index_add_(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.zeros_like(y).index_add(1, PERM, y)


def setslice(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    z = y.clone()
    z[:, 3:7] = s.conv2(x)[:, 3:7]
    return z


def addslice(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    y[:, :4] += s.conv2(x)[:, :4]
    return y


def mulslice_const(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).clone()
    y[:, :4] *= 2
    return y


def partial_conv(s: Any, x: Tensor) -> Tensor:
    a, b = x.split([4, 8], 1)
    a = F.conv2d(a, s.conv.weight[:4, :4])
    return torch.cat([a, b], 1)


def weight_slice(s: Any, x: Tensor) -> Tensor:
    first = F.conv2d(x, s.conv.weight[:6], s.conv.bias[:6])
    return torch.cat([first, F.conv2d(x, s.conv.weight[6:], s.conv.bias[6:]) * 2], 1)


def weight_mul_const(s: Any, x: Tensor) -> Tensor:
    w = s.conv.weight * torch.arange(1, 13, dtype=x.dtype)[:, None, None, None]
    return F.conv2d(x, w)


def weight_flip(s: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, s.conv.weight.flip(0))


def weight_t(s: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, s.conv.weight.transpose(0, 1))


def weight_sum(s: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, s.conv.weight + s.conv2.weight)


def weight_softmax(s: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, s.conv.weight.softmax(1))


def bias_add_one(s: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, s.conv.weight, s.conv.bias + 1)


def const_add(s: Any, x: Tensor) -> Tensor:
    return s.conv(x) + 1


def sigmoid_(s: Any, x: Tensor) -> Tensor:
    return torch.sigmoid(s.conv(x))


def cosine_exp(s: Any, x: Tensor) -> Tensor:
    return s.conv(x).exp()


def pow_param(s: Any, x: Tensor) -> Tensor:
    return s.conv(x).abs().pow(s.g[:, None, None])


def lerp_(s: Any, x: Tensor) -> Tensor:
    return torch.lerp(s.conv(x), s.conv2(x), s.g[:, None, None])


def prelu_(s: Any, x: Tensor) -> Tensor:
    return F.prelu(s.conv(x), s.g)


def list_pool(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    parts = [y[:, i * 3 : (i + 1) * 3] for i in range(4)]
    return torch.cat([F.max_pool2d(part, 3, 1, 1) if i % 2 else part for i, part in enumerate(parts)], 1)


def bn_func(s: Any, x: Tensor) -> Tensor:
    return F.batch_norm(s.conv(x), torch.zeros(12, dtype=x.dtype), torch.ones(12, dtype=x.dtype), s.g)


def inst(s: Any, x: Tensor) -> Tensor:
    return F.instance_norm(s.conv(x))


def rms(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return y * torch.rsqrt(y.pow(2).mean(1, keepdim=True) + 1e-06) * s.g.view(1, -1, 1, 1)


def l2n(s: Any, x: Tensor) -> Tensor:
    return F.normalize(s.conv(x), dim=1)


def sdpa(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).flatten(2).transpose(1, 2).view(2, 64, 3, 4).transpose(1, 2)
    z = F.scaled_dot_product_attention(y, y, y)
    return z.transpose(1, 2).reshape(2, 64, 12).transpose(1, 2).view(2, 12, 8, 8)


def drop_channels(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.cat([y[:, :6], s.conv2(x)[:, 6:]], 1)


def outer(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).mean((2, 3))
    z = y[:, :, None] * y[:, None, :]
    return x + (z @ x.flatten(2)).view(2, 12, 8, 8)


def tuple_out(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    outs = [y[:, i] for i in range(y.shape[1])]
    return torch.stack(outs, 1)


def stack_rev(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.stack([y[:, 11 - i] for i in range(12)], 1)


def ibn(s: Any, x: Tensor) -> Tensor:
    a, b = torch.split(s.conv(x), s.half, 1)
    return torch.cat([s.inn(a.contiguous()), s.bn(b.contiguous())], 1)


def param_slice(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.cat([y[:, :4] * s.g[:4].view(1, -1, 1, 1), y[:, 4:]], 1)


def se_half(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    a, b = y.chunk(2, 1)
    w = torch.sigmoid(s.se(a.mean((2, 3))))
    return torch.cat([a, b * w[:, :, None, None]], 1)


def chunk_n(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    p = torch.chunk(y, y.shape[1] // 4, 1)
    return torch.cat([p[2], p[0] * 2, p[1]], 1)


def arange_idx(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.cat([y[:, torch.arange(0, 12, 2)], y[:, torch.arange(1, 12, 2)] * 2], 1)


def tsm(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    n, c, h, w = y.size()
    y = y.view(1, n, c, h, w)
    f = c // 4
    o = torch.zeros_like(y)
    o[:, :-1, :f] = y[:, 1:, :f]
    o[:, 1:, f : 2 * f] = y[:, :-1, f : 2 * f]
    o[:, :, 2 * f :] = y[:, :, 2 * f :]
    return o.view(n, c, h, w)


def shiftvit(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    g = y.shape[1] // 4
    o = torch.zeros_like(y)
    o[:, 0:g, :, :-1] = y[:, 0:g, :, 1:]
    o[:, g : 2 * g, :, 1:] = y[:, g : 2 * g, :, :-1]
    o[:, 2 * g :] = y[:, 2 * g :]
    return o


def bifpn(s: Any, x: Tensor) -> Tensor:
    w = F.relu(s.w2)
    w = w / (w.sum() + 0.0001)
    return w[0] * s.conv(x) + w[1] * s.conv2(x)


def index_buffer(s: Any, x: Tensor) -> Tensor:
    return torch.index_select(s.conv(x), 1, s.idx)


def index_buffer2(s: Any, x: Tensor) -> Tensor:
    return s.conv(x)[:, s.idx] * 2


def pixshuf(s: Any, x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pixel_shuffle(s.up(x), 2), 2)


def convt(s: Any, x: Tensor) -> Tensor:
    return F.avg_pool2d(s.ct(x), 2)


def dwgc(s: Any, x: Tensor) -> Tensor:
    return s.gc(F.relu(s.dw(s.conv(x))))


def modlist(s: Any, x: Tensor) -> Tensor:
    p = s.conv(x).chunk(2, 1)
    return torch.cat([layer(q) for layer, q in zip(s.lat, p, strict=True)], 1)


def modlist_cascade(s: Any, x: Tensor) -> Tensor:
    a, b = s.conv(x).chunk(2, 1)
    a = s.lat[0](a)
    b = s.lat[1](b + a)
    return torch.cat([a, b], 1)


def gap_cat(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    g = F.adaptive_avg_pool2d(y, 1)
    return y + F.interpolate(g, size=y.shape[-2:])


def coordatt(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    h = y.mean(3, keepdim=True)
    w = y.mean(2, keepdim=True).permute(0, 1, 3, 2)
    z = s.conv2(torch.cat([h, w], 2))
    a, b = torch.split(z, [8, 8], 2)
    return y * a.sigmoid() * b.permute(0, 1, 3, 2).sigmoid()


def sk(s: Any, x: Tensor) -> Tensor:
    a, b = (s.conv(x), s.conv2(x))
    u = (a + b).mean((2, 3))
    z = F.softmax(torch.stack([s.fc(u), s.fc(u) * 2], 1), 1)
    return a * z[:, 0, :, None, None] + b * z[:, 1, :, None, None]


def spatial_att(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    m = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
    return y * torch.sigmoid(m.sum(1, keepdim=True))


def repeat_ch(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)[:, :6]
    return y.repeat(1, 2, 1, 1)


def repeat_int(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)[:, :6]
    return y.repeat_interleave(2, dim=1)


def expand_ch(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)[:, :4]
    return y[:, :, None].expand(-1, -1, 3, -1, -1).reshape(2, 12, 8, 8)


def rev_slices(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.cat([y[:, 8:], y[:, 4:8], y[:, :4]], 1)


def half_skip(s: Any, x: Tensor) -> Tensor:
    a, b = (x[:, :6], x[:, 6:])
    return torch.cat([a, F.relu(s.conv(x))[:, :6] + b], 1)


def residual_first(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    z = torch.cat([x[:, :6] + y[:, :6], y[:, 6:]], 1)
    return z


def padded_skip(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return y + F.pad(x[:, :8], (0, 0, 0, 0, 2, 2))


def strided_ch(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.cat([y[:, 0::3], y[:, 1::3] * 2, y[:, 2::3] * 3], 1)


def window(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    b, c, h, w = y.shape
    y = y.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
    y = F.layer_norm(y, (c,))
    return y.view(b, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)


def mhsa(s: Any, x: Tensor) -> Tensor:
    y = x.flatten(2).transpose(1, 2)
    q = s.fc(y).reshape(2, 64, 3, 4).transpose(1, 2)
    k = q
    v = q
    a = (q @ k.transpose(-2, -1) * 4 ** (-0.5)).softmax(-1)
    return (a @ v).transpose(1, 2).reshape(2, 64, 12).transpose(1, 2).reshape(2, 12, 8, 8)


def linattn(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x).flatten(2)
    q = F.relu(y)
    k = F.relu(s.conv2(x).flatten(2))
    kv = k @ y.transpose(1, 2)
    return (kv.transpose(1, 2) @ q).view(2, -1, 8, 8)


def ghost(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)[:, :6]
    z = F.conv2d(y, s.dw.weight[:6], padding=1, groups=6)
    return torch.cat([y, z], 1)


def octave(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    high, low = (y[:, :9], F.avg_pool2d(y[:, 9:], 2))
    return torch.cat([high, F.interpolate(low, scale_factor=2)], 1)


def cond_training(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    if s.training:
        y = F.dropout2d(y, 0.1)
    return y * 2


def enumerate_slices(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    outs = []
    for i, layer in enumerate(s.lat):
        outs.append(layer(y[:, i * 6 : (i + 1) * 6]))
    return torch.cat(outs, 1)


def start_end(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    c = y.shape[1]
    k = c - 4
    return torch.cat([y[:, :k], y[:, k:].sigmoid()], 1)


def softmax_gate_idx(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    g = y[:, -1:].sigmoid()
    return torch.cat([y[:, :-1] * g, y[:, -1:]], 1)


def film(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    p = torch.cat([s.fc(y.mean((2, 3))), s.fc(y.amax((2, 3)))], 1)
    a, b = p.chunk(2, 1)
    return y * a[..., None, None] + b[..., None, None]


def parts_stacked(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    b, c, h, w = y.shape
    z = y.view(b, 2, c // 2, h, w)
    return torch.stack([z[:, 0].relu(), z[:, 1]], 1).view(b, c, h, w)


def parts_gated(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    b, c, h, w = y.shape
    z = y.view(b, 3, c // 3, h, w)
    return (z * torch.sigmoid(z.mean((3, 4), keepdim=True))).view(b, c, h, w)


def parts_as_images(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    b, c, h, w = y.shape
    z = y.view(b * 3, c // 3, h, w)
    return (z * torch.sigmoid(F.adaptive_avg_pool2d(z, 1))).view(b, c, h, w)


def shuffle_attention(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    b, c, h, w = y.shape
    p, q = y.reshape(b * 2, c // 2, h, w).chunk(2, 1)
    z = torch.cat([p * p.mean((2, 3), keepdim=True).sigmoid(), q * q.sum((2, 3), keepdim=True).tanh()], 1)
    return z.reshape(b, 2, -1, h, w).transpose(1, 2).reshape(b, c, h, w)


def lrn(s: Any, x: Tensor) -> Tensor:
    return F.local_response_norm(s.conv(x), 3)


def std_pool(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return y * torch.cat([y.mean((2, 3), keepdim=True), y.std((2, 3), keepdim=True)], 2).sum(2, keepdim=True)


def max_pair(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    a, b = y.chunk(2, 1)
    return torch.cat([torch.max(a, b), torch.min(a, b)], 1)


def crelu(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)[:, :6]
    return torch.cat([F.relu(y), F.relu(-y)], 1)


def tensor_list_sum(s: Any, x: Tensor) -> Tensor:
    return sum([s.conv(x), s.conv2(x), x])


def pow_sum(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return y / (y.pow(2).sum(dim=(1, 2, 3), keepdim=True).sqrt() + 1)


def asmlp(s: Any, x: Tensor) -> Tensor:
    return torch.cat([torch.roll(c, i - 1, 2) for i, c in enumerate(torch.chunk(s.conv(x), 3, 1))], 1)


def flips(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.cat([y[:, :4].flip(3), y[:, 4:]], 1)


def padshift(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.cat([F.pad(y[:, :4, :, 1:], (0, 1)), y[:, 4:]], 1)


def transp(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.cat([y[:, :4].transpose(2, 3), y[:, 4:]], 1)


def spatial_slice(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    a = torch.cat([y[:, :4, :, 1:], y[:, :4, :, :1]], 3)
    return torch.cat([a, y[:, 4:]], 1)


def expand_first(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.cat([y[:, :4, :1].expand(-1, -1, 8, -1), y[:, 4:]], 1)


def roll_idx(s: Any, x: Tensor) -> Tensor:
    y = s.conv(x)
    i = torch.arange(7, -1, -1)
    return torch.cat([y[:, :4][:, :, i], y[:, 4:]], 1)


FORMS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    name: value
    for name, value in list(globals().items())
    if getattr(value, "__code__", None) and value.__module__ == __name__
}


def network(name: str) -> nn.Sequential:
    """The form between layers that make and read its channels."""
    kind = type(name, (Parts,), {"forward": FORMS[name]})
    return nn.Sequential(nn.Conv2d(3, 12, 1), kind(), nn.Conv2d(12, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
