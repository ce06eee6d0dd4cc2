"""Two traces of one network on inputs of different sizes, made one: what differs between them follows from the size."""

from __future__ import annotations

from typing import Any

from morphsearch.exporting.steps import Call, Const, Lit, Op, Par, Ref, Size, Unsupported, Value, Vary


class Diverged(Exception):
    """The network does different things at different sizes."""


def merge(first: Call, second: Call) -> None:
    """Enter into `first` what `second` says: shapes of values, and constants that were others there.

    Raises:
        Diverged: they are not the same steps.
    """
    _require(first.path == second.path and (first.body is None) == (second.body is None))
    for name in ("bound", "actual", "result", "out"):
        setattr(first, name, pair(getattr(first, name), getattr(second, name)))
    _require(len(first.body or ()) == len(second.body or ()))
    for one, other in zip(first.body or (), second.body or (), strict=True):
        _require(type(one) is type(other))
        if isinstance(one, Call):
            merge(one, other)  # type: ignore[arg-type]
        else:
            assert isinstance(other, Op)
            _require(one.name == other.name)
            for name in ("args", "kwargs", "out"):
                setattr(one, name, pair(getattr(one, name), getattr(other, name)))


def pair(one: Any, other: Any) -> Any:
    """Two trees made one."""
    if isinstance(one, Const) and isinstance(other, Const):
        return _constants(one, other)
    _require(type(one) is type(other))
    if isinstance(one, slice):
        return slice(pair(one.start, other.start), pair(one.stop, other.stop), pair(one.step, other.step))
    if isinstance(one, list | tuple):
        _require(len(one) == len(other))
        parts = [pair(a, b) for a, b in zip(one, other, strict=True)]
        return type(one)(*parts) if hasattr(one, "_fields") else type(one)(parts)
    if isinstance(one, dict):
        _require(list(one) == list(other))
        return {**one, **{key: pair(value, other[key]) for key, value in one.items()}} if type(one) is dict else one
    if isinstance(one, Ref):
        _match(one.value, other.value)
    elif isinstance(one, Size):
        _expressions(one.expression, other.expression)
    elif isinstance(one, Par):
        _require(one == other)
    elif isinstance(one, Lit) and one.tensor is not other.tensor:
        _literals(one, other)
    return one


def _literals(one: Lit, other: Lit) -> None:
    import torch

    same = one.tensor.shape == other.tensor.shape and one.tensor.dtype == other.tensor.dtype
    if not same or not torch.equal(one.tensor.detach(), other.tensor.detach()):
        raise Unsupported("a tensor comes from code that torch functions do not show (numpy, or compiled code)")


def _constants(one: Const, other: Const) -> Any:
    a, b = one.value, other.value
    if type(a) is int and type(b) is int and a != b:
        return Vary(a, b)
    try:
        same = type(a) is type(b) and (a is b or bool(a == b) or bool(a != a))
    except Exception as error:  # a dataclass compares its tensors
        raise Unsupported(f"a {type(a).__name__} passes between modules, and has no source") from error
    _require(same)
    return one


def _match(one: Value, other: Value) -> None:
    _require(one.index == other.index and (one.shape is None) == (other.shape is None))
    _require(one.shape is None or len(one.shape) == len(other.shape or ()))
    one.other = other.shape


def _expressions(one: Any, other: Any) -> None:
    if isinstance(one, tuple) and isinstance(other, tuple):
        _require(len(one) == len(other))
        for a, b in zip(one, other, strict=True):
            _expressions(a, b)
    elif isinstance(one, Value) and isinstance(other, Value):
        _match(one, other)
    else:
        _require(type(one) is type(other) and one == other)


def _require(condition: bool) -> None:
    if not condition:
        raise Diverged
