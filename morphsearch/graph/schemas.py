"""What an ATEN operation is called, and what it writes: asked once of its schema, which takes long to tell."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

MANY = 4096  # operations that are remembered: more than PyTorch's own that run


@lru_cache(MANY)
def full_name(func: Any) -> str:
    """``aten::relu_``, without overload."""
    return str(func._schema.name)


@lru_cache(MANY)
def short_name(func: Any) -> str:
    """``aten::relu_`` -> ``relu``: the plain name of an operation, in place or not."""
    return plain_name(full_name(func))


def plain_name(name: str) -> str:
    """The same of an operation's full name."""
    name = name.split("::")[-1]
    return name.rstrip("_") if not name.startswith("_") else name


@lru_cache(MANY)
def spoken_name(func: Any) -> str:
    """``aten::_softmax`` -> ``softmax``: what messages call it."""
    return full_name(func).split("::")[-1].strip("_")


@lru_cache(MANY)
def argument_names(func: Any) -> tuple[str, ...]:
    """What its arguments are called, in their order."""
    return tuple(argument.name for argument in func._schema.arguments)


@lru_cache(MANY)
def is_mutable(func: Any) -> bool:
    """It writes into something that it is given."""
    return bool(func._schema.is_mutable)


@lru_cache(MANY)
def gives_views(func: Any) -> bool:
    """What it gives may share memory with what it is given."""
    return any(returned.alias_info is not None for returned in func._schema.returns)


@lru_cache(MANY)
def writes_first_alone(func: Any) -> bool:
    """It writes into nothing that it is given, but perhaps its first argument."""
    rest = func._schema.arguments[1:]
    return not any(one.alias_info is not None and one.alias_info.is_write for one in rest)


@lru_cache(MANY)
def is_pointwise(func: Any) -> bool:
    """Element-wise, by PyTorch's own tag."""
    return torch.Tag.pointwise in func.tags


__all__ = [
    "argument_names",
    "full_name",
    "gives_views",
    "is_mutable",
    "is_pointwise",
    "plain_name",
    "short_name",
    "spoken_name",
    "writes_first_alone",
]
