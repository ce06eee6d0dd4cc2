"""Numbers that are known on shapes alone: of positions, of integer buffers, and of whatever is computed from these.

Code that makes an index on its way (``table[torch.arange(n)[:, None] - torch.arange(n)]``) can be recorded on meta
tensors: beside those that hold known numbers goes a tensor with them, and what computes with such tensors alone is
computed on the numbers too. What meets a tensor of data, of parameters or of chance is not known any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from morphsearch.graph.schemas import full_name, gives_views, is_mutable, writes_first_alone
from morphsearch.graph.tape import unseen
from morphsearch.graph.tensors import mapped, tensors_in

_KNOWN = "_morphsearch_known"
_COUNTING = frozenset(f"aten::{name}" for name in "arange linspace logspace eye tril_indices triu_indices".split())
_META = torch.device("meta")
FEW = 1024


@dataclass(slots=True)
class _Known:
    """The numbers of a meta tensor; `valid` is shared by all that view the same memory. What is `lent` belongs to the
    network: it is never written to."""

    numbers: Tensor
    valid: list[bool] = field(default_factory=lambda: [True])
    lent: bool = False


def know(tensor: Tensor, numbers: Tensor) -> None:
    """These are the numbers of a meta tensor. Of a few it gets a copy, since the network may write into them; many are
    known no longer where it does."""
    few = numbers.numel() <= FEW
    setattr(tensor, _KNOWN, _Known(numbers.clone() if few else numbers, lent=not few))


def numbers_in(tensor: Tensor) -> Tensor | None:
    """The numbers of a tensor, where they are known; never to be written to."""
    if not tensor.is_meta:
        return tensor
    known: _Known | None = getattr(tensor, _KNOWN, None)
    return known.numbers if known is not None and known.valid[0] else None


@dataclass(slots=True)
class Computed:
    """What an operation on known numbers gives: `out`, None where PyTorch must make it since it views what it is given;
    and the `numbers` of it."""

    out: Any
    numbers: Any
    known: dict[int, _Known]

    def attach(self, out: Any) -> None:
        """`out` is what the operation gave on shapes."""
        if not isinstance(out, (Tensor, tuple, list)):
            return
        for tensor, numbers in zip(tensors_in(out), tensors_in(self.numbers), strict=False):
            if tensor.is_meta:
                known = _Known(numbers)
                before = self.known.get(_memory(numbers))
                if before is not None:
                    known.valid, known.lent = before.valid, before.lent
                setattr(tensor, _KNOWN, known)


def computed(func: Any, args: Any, kwargs: Any) -> Computed | None:
    """``func(*args, **kwargs)`` on numbers; None where some of them are not known."""
    first = args[0] if args else None
    if isinstance(first, Tensor) and first.is_meta and not hasattr(first, _KNOWN) and writes_first_alone(func):
        return None
    given = tensors_in((args, kwargs))
    device = kwargs.get("device")
    sources: list[_Known] = []
    if given:
        if not any(tensor.is_meta for tensor in given) and device != _META:
            return None  # no meta tensor comes of it
        sources = [known for tensor in given if (known := getattr(tensor, _KNOWN, None)) is not None]
        lent = is_mutable(func) and any(known.lent for known in sources)
        if lent or any(numbers_in(tensor) is None for tensor in given) or _by_chance(func):
            _forget_written(func, args, kwargs)
            return None
    elif full_name(func) not in _COUNTING or device != _META:
        return None

    def numbers_of(value: Any) -> Any:
        if isinstance(value, Tensor):
            return numbers_in(value)
        return torch.device("cpu") if value == _META and isinstance(value, torch.device) else value

    try:
        with unseen():
            result = func(*mapped(numbers_of, args), **mapped(numbers_of, kwargs))
    except Exception:
        _forget_written(func, args, kwargs)
        return None  # PyTorch says what is wrong
    return Computed(_made(func, args, device, result), result, {_memory(one.numbers): one for one in sources})


def _made(func: Any, args: Any, device: Any, result: Any) -> Any:
    """What the operation gives on shapes, where that shares no memory with what it is given; else None."""
    if device is not None and device != _META:
        return result  # moved to where numbers are
    if gives_views(func):
        return None
    return mapped(_stand_in, result) if isinstance(result, (Tensor, list, tuple)) else result


def _stand_in(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="meta")


def _by_chance(func: Any) -> bool:
    """What comes out is random, or not filled yet."""
    name = full_name(func).removeprefix("aten::").removeprefix("new_")
    return torch.Tag.nondeterministic_seeded in func.tags or name.startswith(("empty", "rand"))


def _forget_written(func: Any, args: Any, kwargs: Any) -> None:
    """Whatever the operation writes into is not known any more, nor are its other views."""
    if not is_mutable(func):
        return
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            for tensor in tensors_in(value):
                known: _Known | None = getattr(tensor, _KNOWN, None)
                if known is not None:
                    known.valid[0] = False


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


__all__ = ["Computed", "computed", "know", "numbers_in"]
