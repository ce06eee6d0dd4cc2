"""Output shapes of common operations, where PyTorch would compute them in Python.

On meta tensors PyTorch runs Python code for some operations, slowly, and the first of them imports its compiler and
sympy (two seconds). What is here is computed from the sizes alone; for anything unusual the answer is None, and PyTorch
does it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from morphsearch.graph.schemas import full_name

_UNARY = "relu relu6 silu sigmoid tanh gelu hardtanh hardswish hardsigmoid leaky_relu elu mish softplus".split()
_BINARY = "add sub mul div".split()
_KINDS = {f"aten::{name}{place}": "unary" for name in _UNARY for place in ("", "_")}
_KINDS |= {f"aten::{name}{place}": "binary" for name in _BINARY for place in ("", "_")}
_KINDS |= {"aten::max_pool2d_with_indices": "max_pool", "aten::mean": "mean"}
_KINDS |= {f"aten::{name}": "upsample" for name in ("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d")}
_KINDS |= {"aten::_upsample_nearest_exact2d": "upsample", "aten::clamp_min": "clamp", "aten::clamp_max": "clamp"}
_KINDS |= {
    f"aten::{name}": "same" for name in "sin cos exp log sqrt rsqrt neg abs reciprocal pow cumsum _softmax".split()
}
_KINDS |= {"aten::bmm": "product", "aten::mm": "product", "aten::linalg_vector_norm": "norm", "aten::clone": "clone"}
_KINDS |= {"aten::cat": "cat", "aten::stack": "stack", "aten::avg_pool2d": "avg_pool"}
_KINDS |= {"aten::index": "index", "aten::index_select": "index_select"}


def quick_shape(func: Any, args: Any, kwargs: Any) -> Any:
    """The output of ``func(*args, **kwargs)`` as empty meta tensors; None where PyTorch should say."""
    kind = _KINDS.get(full_name(func))
    if kind is None:
        return None
    x = args[0]
    if kind in _JOINING:
        return _JOINING[kind](x, *args[1:], **kwargs) if x and all(_is_alike(one, x[0]) for one in x) else None
    if not isinstance(x, Tensor) or not x.is_meta or not x.is_floating_point():
        return None
    if kind == "unary":
        return x if full_name(func).endswith("_") else _empty(x.shape, x)
    if kind == "binary":
        return _binary(func, x, args[1])
    if kind == "clamp":
        return _empty(x.shape, x) if func._overloadname == "default" and isinstance(args[1], int | float) else None
    rule = _OF_FUNCTION.get(kind)
    return rule(func, x, args[1:], kwargs) if rule is not None else None


def _empty(shape: Any, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype or like.dtype, device="meta")


def _is_alike(x: Any, like: Tensor) -> bool:
    return isinstance(x, Tensor) and x.is_meta and x.is_floating_point() and x.dtype == like.dtype


def _is_plain(x: Any, like: Tensor) -> bool:
    """A floating-point tensor without strides of its own: what is made of such has none either."""
    return _is_alike(x, like) and x.is_contiguous()


def _in_order(x: Tensor) -> bool:
    """Every dimension lies inside the one before it, also where only part of the memory is its own."""
    strides = x.stride()
    return 0 not in strides and all(a >= b for a, b in pairwise(strides))


def _binary(func: Any, x: Tensor, y: Any) -> Tensor | None:
    shape: Any = x.shape
    if isinstance(y, Tensor):
        if not y.is_meta or y.dtype != x.dtype:
            return None
        if shape != y.shape:
            shape = _broadcast(x, y)
            if shape is None:
                return None  # its errors are PyTorch's
    elif not isinstance(y, int | float) or isinstance(y, bool):
        return None
    if not full_name(func).endswith("_"):
        return _empty(shape, x)
    return x if shape == x.shape else None


def _broadcast(x: Tensor, y: Tensor) -> tuple[int, ...] | None:
    if not x.dim() or not y.dim():
        return None
    if not _is_plain(x, x) or not _is_plain(y, x):  # the first one, if it is as large, says how the result lies
        against = zip(x.shape[x.dim() - y.dim() :], y.shape, strict=False)
        fits = y.dim() <= x.dim() and all(b in (1, a) for a, b in against)
        return tuple(x.shape) if fits and 1 not in x.shape[1:] and _in_order(x) else None
    longer, shorter = (x.shape, y.shape) if x.dim() >= y.dim() else (y.shape, x.shape)
    pairs = list(zip(longer, (1,) * (len(longer) - len(shorter)) + tuple(shorter), strict=True))
    if any(a != b and 1 not in (a, b) for a, b in pairs):
        return None
    return tuple(b if a == 1 else a for a, b in pairs)


def _cat(parts: list[Tensor], dim: int = 0) -> Tensor | None:
    first = parts[0]
    rank = first.dim()
    if not rank or not -rank <= dim < rank:
        return None
    # Images may lie channels last, and then so does what is made of them; else the result has no strides of its own.
    if rank in (4, 5) and not any(part.is_contiguous() and part[:1].numel() > 1 for part in parts):
        return None
    dim %= rank
    rest = [(*part.shape[:dim], *part.shape[dim + 1 :]) for part in parts]
    if any(part.dim() != rank for part in parts) or rest.count(rest[0]) != len(rest):
        return None
    return _empty((*first.shape[:dim], sum(part.shape[dim] for part in parts), *first.shape[dim + 1 :]), first)


def _stack(parts: list[Tensor], dim: int = 0) -> Tensor | None:
    first = parts[0]
    if (
        any(part.shape != first.shape or not part.is_contiguous() for part in parts)
        or not -first.dim() - 1 <= dim <= first.dim()
    ):
        return None
    dim %= first.dim() + 1
    return _empty((*first.shape[:dim], len(parts), *first.shape[dim:]), first)


def _same(func: Any, x: Tensor, rest: Any, kwargs: Any) -> Tensor | None:
    odd = kwargs or any(isinstance(one, Tensor) or one is True or not -x.dim() <= one < x.dim() for one in rest)
    return None if odd or not _is_plain(x, x) else _empty(x.shape, x)


def _clone(func: Any, x: Tensor, rest: Any, kwargs: Any) -> Tensor | None:
    written = kwargs.get("memory_format", torch.preserve_format)
    plain = written == torch.contiguous_format or (written == torch.preserve_format and x.is_contiguous())
    return _empty(x.shape, x) if plain else None


def _product(func: Any, x: Tensor, rest: Any, kwargs: Any) -> Tensor | None:
    y = rest[0]
    if (
        len(rest) > 1
        or not y.is_meta
        or y.dtype != x.dtype
        or x.shape[-1] != y.shape[-2]
        or x.shape[:-2] != y.shape[:-2]
    ):
        return None
    return _empty((*x.shape[:-1], y.shape[-1]), x)


def _index(func: Any, x: Tensor, rest: Any, kwargs: Any) -> Tensor | None:
    *whole, index = rest[0]
    if index is None or any(one is not None for one in whole) or not _is_plain(x, x):
        return None
    if index.dtype != torch.int64 or not index.is_meta or (whole and len(whole) != x.dim() - 1):
        return None
    return _empty((*x.shape[: len(whole)], *index.shape, *x.shape[len(whole) + 1 :]), x)


def _index_select(func: Any, x: Tensor, rest: Any, kwargs: Any) -> Tensor | None:
    dim, index = rest
    if index.dim() != 1 or not index.is_meta or not _is_plain(x, x) or not -x.dim() <= dim < x.dim():
        return None
    dim %= x.dim()
    return _empty((*x.shape[:dim], index.shape[0], *x.shape[dim + 1 :]), x)


def _max_pool(func: Any, x: Tensor, rest: Any, kwargs: Any) -> tuple[Tensor, Tensor] | None:
    shape = _pooled(x, *rest)
    return None if shape is None or kwargs else (_empty(shape, x), _empty(shape, x, torch.int64))


def _avg_pool(func: Any, x: Tensor, rest: Any, kwargs: Any) -> Tensor | None:
    given = dict(zip(("kernel", "stride", "padding", "ceil_mode"), rest, strict=False))
    shape = _pooled(x, **given)
    return None if shape is None or kwargs or not _is_plain(x, x) else _empty(shape, x)


def _pooled(
    x: Tensor, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil_mode: bool = False
) -> tuple[int, ...] | None:
    if x.dim() != 4 or ceil_mode or 0 in x.shape:  # of no channels at all nothing is pooled: PyTorch says so
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
    return (*x.shape[:2], *sizes)


def _upsample(func: Any, x: Tensor, rest: Any, kwargs: Any) -> Tensor | None:
    size = rest[0]
    if func._overloadname != "default" or x.dim() != 4 or len(size) != 2 or min(size) < 1:
        return None
    return _empty((*x.shape[:2], *size), x)


def _at(values: Any, place: int) -> int:
    return int(values[place if len(values) > 1 else 0])


def _mean(func: Any, x: Tensor, rest: Any, kwargs: Any) -> Tensor | None:
    if func._overloadname != "dim" or kwargs or not rest:
        return None
    return _reduced(x, *rest)


def _norm(func: Any, x: Tensor, rest: Any, kwargs: Any) -> Tensor | None:
    return None if kwargs or len(rest) < 2 else _reduced(x, *rest[1:])


def _reduced(x: Tensor, over: Any, keepdim: bool = False, *_: Any) -> Tensor | None:
    if not over or any(not -x.dim() <= d < x.dim() for d in over):
        return None
    dims = {d % x.dim() for d in over}
    shape = [1 if d in dims else size for d, size in enumerate(x.shape) if keepdim or d not in dims]
    return _empty(shape, x)


_JOINING: dict[str, Callable[..., Tensor | None]] = {"cat": _cat, "stack": _stack}
_OF_FUNCTION: dict[str, Callable[..., Any]] = {
    "same": _same,
    "clone": _clone,
    "product": _product,
    "index": _index,
    "index_select": _index_select,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "upsample": _upsample,
    "mean": _mean,
    "norm": _norm,
}
