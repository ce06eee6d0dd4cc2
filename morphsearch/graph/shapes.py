"""Output shapes of common operations, where PyTorch would compute them in Python.

On meta tensors PyTorch runs Python code for some operations, slowly, and the first of them imports its compiler and
sympy (two seconds). What is here is computed from the sizes alone; for anything unusual the answer is None, and PyTorch
does it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_UNARY = "relu relu6 silu sigmoid tanh gelu hardtanh hardswish hardsigmoid leaky_relu elu mish softplus".split()
_BINARY = "add sub mul div".split()
_KINDS = {f"aten::{name}{place}": "unary" for name in _UNARY for place in ("", "_")}
_KINDS |= {f"aten::{name}{place}": "binary" for name in _BINARY for place in ("", "_")}
_KINDS |= {"aten::max_pool2d_with_indices": "max_pool", "aten::mean": "mean"}
_KINDS |= {f"aten::{name}": "upsample" for name in ("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d")}
_KINDS |= {"aten::_upsample_nearest_exact2d": "upsample", "aten::clamp_min": "clamp", "aten::clamp_max": "clamp"}


def quick_shape(func: Any, args: Any, kwargs: Any) -> Any:
    """The output of ``func(*args, **kwargs)`` as empty meta tensors; None where PyTorch should say."""
    kind = _KINDS.get(func._schema.name)
    if kind is None or not isinstance(args[0], Tensor) or not args[0].is_meta or not args[0].is_floating_point():
        return None
    x = args[0]
    if kind == "unary":
        return x if func._schema.name.endswith("_") else _empty(x.shape, x)
    if kind == "binary":
        return _binary(func, x, args[1])
    if kind == "max_pool":
        return _max_pool(x, *args[1:])
    if kind == "upsample":
        return _upsample(func, x, args[1])
    if kind == "clamp":
        return _empty(x.shape, x) if func._overloadname == "default" and isinstance(args[1], int | float) else None
    return _mean(func, x, args[1:], kwargs)


def _empty(shape: Any, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype or like.dtype, device="meta")


def _binary(func: Any, x: Tensor, y: Any) -> Tensor | None:
    if isinstance(y, Tensor):
        if not y.is_meta or y.dtype != x.dtype:
            return None
        if x.shape != y.shape:
            return None  # broadcasting, and its errors, are PyTorch's
    elif not isinstance(y, int | float) or isinstance(y, bool):
        return None
    return x if func._schema.name.endswith("_") else _empty(x.shape, x)


def _max_pool(
    x: Tensor, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil_mode: bool = False
) -> tuple[Tensor, Tensor] | None:
    if x.dim() != 4 or ceil_mode:
        return None
    sizes = []
    for place, size in enumerate(x.shape[2:]):
        k, p, d = _at(kernel, place), _at(padding, place), _at(dilation, place)
        s = _at(stride, place) if len(stride) else k
        if min(k, s, d) < 1 or p < 0 or 2 * p > k:
            return None
        sizes.append((size + 2 * p - d * (k - 1) - 1) // s + 1)
    if min(sizes) < 1:
        return None
    shape = (*x.shape[:2], *sizes)
    return _empty(shape, x), _empty(shape, x, torch.int64)


def _upsample(func: Any, x: Tensor, size: Any) -> Tensor | None:
    if func._overloadname != "default" or x.dim() != 4 or len(size) != 2 or min(size) < 1:
        return None
    return _empty((*x.shape[:2], *size), x)


def _at(values: Any, place: int) -> int:
    return int(values[place if len(values) > 1 else 0])


def _mean(func: Any, x: Tensor, rest: Any, kwargs: Any) -> Tensor | None:
    if func._overloadname != "dim" or kwargs or not rest or not rest[0]:
        return None
    if any(not -x.dim() <= d < x.dim() for d in rest[0]):
        return None
    dims = {d % x.dim() for d in rest[0]}
    keep = len(rest) > 1 and bool(rest[1])
    shape = [1 if d in dims else size for d, size in enumerate(x.shape) if keep or d not in dims]
    return _empty(shape, x)
