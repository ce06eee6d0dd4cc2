"""What a recording on real numbers found in its data, told again when the network is run once more.

Code that looks at values goes where they lead: a detector looks closer at the boxes that it finds. A rewritten network
computes other values, so it would find others, or none, and could not be compared with the seed operation by operation.
So the first recording writes down what follows from data and is no plain activation: integers, masks, numbers that code
asks for, and sizes that depend on them. Later runs are told the same, as long as the same is asked about tensors of the
same sizes. What they compute beside that does not matter, so large activations are left at zero there: only their sizes
are found.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from morphsearch.graph.schemas import full_name, is_mutable
from morphsearch.graph.shapes import quick_shape
from morphsearch.graph.tensors import mapped, tensors_in

LARGE = 1 << 14  # elements from which on it takes longer to compute an operation than to find its sizes
MANY = 1 << 18  # elements from which on a mask is not kept: what is small and made of it is
_FOLLOWS = (
    "_morphsearch_follows"  # marks tensors that follow from the network's inputs, not from sizes and constants alone
)

# What takes time for each product, and PyTorch knows the sizes of on shapes alone.
_HEAVY = frozenset(
    f"aten::{name}"
    for name in "convolution addmm baddbmm native_batch_norm native_layer_norm native_group_norm".split()
) | {"torchvision::roi_align"}

Key = tuple[Any, ...]  # module, operation, and the sizes that it is given


@dataclass(frozen=True)
class _Sizes:
    """Those of a tensor whose numbers are not kept."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@dataclass
class Answers:
    """What follows from data in one run of a network: found here, or told where `known` is what another run found."""

    known: dict[Key, list[Any]] | None = None
    found: dict[Key, list[Any]] = field(default_factory=dict)
    count: dict[Key, int] = field(default_factory=dict)

    def again(self) -> Answers:
        """For another run, which is told what this one found, or was told."""
        return Answers(self.found if self.known is None else self.known)

    def run(self, module: str, func: Any, args: Any, kwargs: Any) -> Any:
        """What ``func(*args, **kwargs)`` gives in `module`."""
        given = tensors_in((args, kwargs))
        if not any(hasattr(one, _FOLLOWS) for one in given):
            return func(*args, **kwargs)
        return _marked(self._of_data(module, func, args, kwargs, given))

    def _of_data(self, module: str, func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
        if not _makes(func):
            return func(*args, **kwargs)
        key = (module, func, kwargs.get("dtype"), *((one.shape, one.dtype) for one in given))
        if self.known is None:
            out = func(*args, **kwargs)
            if _is_answer(out, given):
                self.found.setdefault(key, []).append(mapped(_kept, out))
            return out
        if key not in self.known:
            return _sized(func, args, kwargs, given)
        place = self.count[key] = self.count.get(key, -1) + 1
        if place >= len(self.known[key]):
            return func(*args, **kwargs)
        told = self.known[key][place]
        if is_mutable(func) or any(map(_is_lost, _leaves(told))):
            return _corrected(_sized(func, args, kwargs, given), told)
        return mapped(_given, told)


def from_data(tensor: Tensor) -> None:
    """Whatever is computed from this tensor follows from data."""
    setattr(tensor, _FOLLOWS, True)


_MAKES: dict[Any, bool] = {}


def _makes(func: Any) -> bool:
    """The operation gives numbers of its own, or writes some: it is no view."""
    makes = _MAKES.get(func)
    if makes is None:
        aliases = [one.alias_info for one in func._schema.returns if one.alias_info is not None]
        makes = _MAKES[func] = not any(not one.is_write for one in aliases)
    return makes


def _is_answer(out: Any, given: list[Tensor]) -> bool:
    """Of what is no plain activation: integers, masks, numbers, and activations that such have chosen."""
    made = _leaves(out)
    if any(not isinstance(one, Tensor) or not one.is_floating_point() for one in made if one is not None):
        return True
    return any(not one.is_floating_point() and hasattr(one, _FOLLOWS) for one in given)


def _is_lost(told: Any) -> bool:
    """Numbers that were too many to keep."""
    return isinstance(told, _Sizes) and not told.dtype.is_floating_point


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]


def _kept(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point() or value.is_complex() or value.numel() > MANY:
        return _Sizes(value.shape, value.dtype, value.device)
    return value.detach().clone()


def _given(told: Any) -> Any:
    if isinstance(told, _Sizes):
        return torch.zeros(told.shape, dtype=told.dtype, device=told.device)
    return told.clone() if isinstance(told, Tensor) else told


def _corrected(out: Any, told: Any) -> Any:
    """`out` with what was told: numbers written into it, or another tensor where its sizes are others."""
    if isinstance(out, (list, tuple)):
        parts = [_corrected(own, other) for own, other in zip(out, told, strict=True)]
        return parts if isinstance(out, list) else tuple(parts)
    if not isinstance(out, Tensor):
        return told
    if out.shape != told.shape:
        return _given(told)
    return out.copy_(told) if isinstance(told, Tensor) else out


def _marked(out: Any) -> Any:
    for tensor in tensors_in(out):
        setattr(tensor, _FOLLOWS, True)
    return out


def _sized(func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
    """What an operation gives, all at zero where it would take long."""
    if sum(one.numel() for one in given) >= LARGE and given[0].is_floating_point():
        shapes = mapped(_on_shapes, args), mapped(_on_shapes, kwargs)
        out = quick_shape(func, *shapes)
        if out is None and full_name(func) in _HEAVY:
            with suppress(NotImplementedError):  # an operator of somebody else's, which knows no shapes
                out = func(*shapes[0], **shapes[1])
        if out is not None:
            return args[0] if is_mutable(func) else mapped(partial(_zeros, given[0].device), out)
    return func(*args, **kwargs)


def _on_shapes(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="meta")


def _zeros(device: torch.device, like: Any) -> Any:
    """A tensor of zeros that lies in memory as `like` does; nothing is written, so that it takes no time."""
    if not isinstance(like, Tensor):
        return like
    strides = like.stride()
    order = sorted(range(like.dim()), key=lambda dim: -strides[dim])
    laid = torch.zeros([like.shape[dim] for dim in order], dtype=like.dtype, device=device)
    return laid.permute([order.index(dim) for dim in range(like.dim())])


__all__ = ["Answers"]
