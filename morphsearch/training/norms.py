"""Batch norms of few and odd numbers of channels, quicker on the CPU.

In channels-last order torch goes through a batch norm pixel by pixel, one short row of channels after another, and a
row that is no multiple of eight long ends in single numbers. A norm of 6 or 22 channels, as searches leave them at full
resolution, so takes twice as long as one of 8 or 24, and a MobileNet of half the FLOPs as long as the whole.

The same numbers can be read as fewer and longer rows: `f` pixels side by side are one row of `f * c` channels. Mean and
variance of each of these are merged over the pixels of a row,

    mean = mean_f(mean_fc),    var = mean_f(var_fc) + var_f(mean_fc),

and scale and shift are repeated `f` times. The results differ by rounding.

Letters: `n x c x h x w` images, `f` pixels to a row, `r = n h w / f` rows.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

ROW = 128  # numbers that a row should have
MOST = 32  # channels; norms of more, and of whole vectors of channels, are as quick by themselves
VECTOR = 8
SMALLEST = 1 << 17  # numbers in a batch from which on the detour is worth it
CHUNK = 1 << 17  # numbers

_native = functional.batch_norm
_lock = threading.Lock()
_uses = 0


@contextlib.contextmanager
def quick_norms(device: torch.device, channels_last: bool) -> Iterator[None]:
    """Within, batch norms in training mode go by :func:`batch_norm`, on the CPU and in channels-last order."""
    global _uses
    if device.type != "cpu" or not channels_last:
        yield
        return
    with _lock:
        _uses += 1
        setattr(functional, "batch_norm", batch_norm)  # noqa: B010
    try:
        yield
    finally:
        with _lock:
            _uses -= 1
            if not _uses:
                setattr(functional, "batch_norm", _native)  # noqa: B010


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.batch_norm``, by long rows where that is quicker."""
    if torch.compiler.is_compiling() or not training or weight is None or bias is None:
        return _native(input, running_mean, running_var, weight, bias, training, momentum, eps)
    fold = fold_of(input)
    if fold == 1 or any(t is not None and t.dtype != input.dtype for t in (running_mean, running_var, weight, bias)):
        return _native(input, running_mean, running_var, weight, bias, training, momentum, eps)
    with torch.no_grad():
        means, variances = torch.ops.aten.batch_norm_update_stats(_rows(input, fold), None, None, 0.0)
        means, variances = means.view(fold, -1), variances.view(fold, -1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square_().mean(0)
        if running_mean is not None:
            running_mean.lerp_(mean, momentum)
        if running_var is not None:
            count = input.numel() // mean.numel()
            running_var.lerp_(variance * (count / (count - 1)), momentum)
    result: Tensor = _Folded.apply(input, weight, bias, mean, variance, fold, eps)
    return result


def fold_of(images: Tensor) -> int:
    """How many pixels go to a row; 1 where they are better left apart."""
    if images.dtype != torch.float32 or images.dim() != 4 or images.device.type != "cpu":
        return 1
    channels, numbers = images.shape[1], images.numel()
    if channels > MOST or channels % VECTOR == 0 or numbers < SMALLEST:
        return 1
    if not images.is_contiguous(memory_format=torch.channels_last):
        return 1
    pixels, fold = numbers // channels, 1
    while fold * channels < ROW and pixels % (2 * fold) == 0:
        fold *= 2
    return fold


class _Folded(torch.autograd.Function):
    """The normalisation by statistics of the batch; its gradient knows that these follow from the images."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, fold: int, eps: float
    ) -> Tensor:
        factor = weight * (variance + eps).rsqrt_()
        shift = bias - mean * factor
        ctx.save_for_backward(images, weight, mean, variance)
        ctx.fold, ctx.eps = fold, eps
        result = torch.empty_like(images)
        torch.addcmul(shift.repeat(fold), _rows(images, fold), factor.repeat(fold), out=_rows(result, fold))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, variance = ctx.saved_tensors
        fold = ctx.fold
        gradient = outputs[0].contiguous(memory_format=torch.channels_last)
        grown, seen = _rows(gradient, fold), _rows(images, fold)
        wide = [vector.repeat(fold) for vector in (weight, mean, variance)]
        # In evaluation mode: the sums over rows that scale and shift have for gradients, and nothing else.
        _, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            grown, seen, wide[0], wide[1], wide[2], None, None, False, ctx.eps, [False, True, True]
        )
        to_weight, to_bias = to_weight.view(fold, -1).sum(0), to_bias.view(fold, -1).sum(0)
        to_images = None
        if ctx.needs_input_grad[0]:
            count = images.numel() // mean.numel()
            inverse = (variance + ctx.eps).rsqrt_()
            factor = weight * inverse
            slope = factor * inverse * to_weight / -count
            shift = factor * to_bias / -count - slope * mean
            to_images = torch.empty_like(images)
            rows = _rows(to_images, fold)
            shift, factor, slope = (vector.repeat(fold) for vector in (shift, factor, slope))
            few = max(1, CHUNK // rows.shape[1])  # so many rows are still in the cache when they are added to
            for part, one, other in zip(rows.split(few), grown.split(few), seen.split(few), strict=True):
                torch.addcmul(shift, one, factor, out=part).addcmul_(other, slope)
        return to_images, to_weight, to_bias, None, None, None, None


def _rows(images: Tensor, fold: int) -> Tensor:
    """`r x (f c)`, the same memory as the channels-last `images`."""
    return images.permute(0, 2, 3, 1).view(-1, fold * images.shape[1])
