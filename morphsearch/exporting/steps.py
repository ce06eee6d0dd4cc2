"""What a trace is made of: values, operations and calls of modules, as a tree that mirrors the network's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class Value:
    """A tensor (or a number passed on as an argument) in the scope of one call.

    `shape` and `dtype` are None for a number; `other` is the shape in the second trace, on inputs of another size.
    """

    index: int
    call: Call | None
    shape: tuple[int, ...] | None
    other: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Ref:
    """A leaf of arguments: a value."""

    value: Value


@dataclass(frozen=True)
class Par:
    """A leaf of arguments: a parameter or buffer, by all its names."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Size:
    """A leaf of arguments: a number that follows from sizes; see :mod:`morphsearch.exporting.numbers`."""

    expression: Any
    number: Any = field(compare=False)


@dataclass(frozen=True)
class Const:
    """A leaf of arguments: a plain constant."""

    value: Any


@dataclass(frozen=True)
class Vary:
    """A leaf of arguments: a number that was another one on inputs of another size, and does not say why."""

    first: int
    second: int


@dataclass(frozen=True)
class Mode:
    """A leaf of arguments: true in training, false in evaluation."""


@dataclass(frozen=True, eq=False)
class Lit:
    """A leaf of arguments: a tensor that is neither parameter nor buffer and was there before the trace."""

    tensor: Tensor


@dataclass(eq=False)
class Op:
    """One call of a torch function. `name` is its dotted name."""

    name: str
    args: Any
    kwargs: Any
    out: Any
    grad: bool = True


@dataclass(eq=False)
class Call:
    """One call of a module.

    Args:
        path: of the module.
        parent: the call that it happened in; None for the network itself.
        bound: name of each argument to its tree, leaves in this call's scope; `actual` the same in the parent's.
        body: steps; None for a module of torch that is kept whole.
        result: tree in this call's scope; `out` the same in the parent's.
    """

    path: str
    module: nn.Module
    parent: Call | None
    bound: dict[str, Any] = field(default_factory=dict)
    actual: dict[str, Any] = field(default_factory=dict)
    body: list[Step] | None = None
    result: Any = None
    out: Any = None
    grad: bool = True
    positional: int = 0

    def steps(self) -> Iterator[tuple[Call, Step]]:
        """Every step of this call and those within it, with the call that it belongs to."""
        for step in self.body or ():
            yield self, step
            if isinstance(step, Call):
                yield from step.steps()


Step = Op | Call


def walk(tree: Any, visit: Callable[[Any], Any]) -> Any:
    """The same containers with every leaf replaced by what `visit` gives for it."""
    if isinstance(tree, slice):
        return slice(walk(tree.start, visit), walk(tree.stop, visit), walk(tree.step, visit))
    if isinstance(tree, tuple):
        parts = [walk(part, visit) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    if isinstance(tree, list):
        return [walk(part, visit) for part in tree]
    if isinstance(tree, dict):
        made = {key: walk(part, visit) for key, part in tree.items()}
        return made if type(tree) is dict else _like(tree, made)
    return visit(tree)


def _like(tree: Any, made: dict[Any, Any]) -> Any:
    try:
        return type(tree)(made)
    except Exception:
        return made


def leaves(tree: Any) -> list[Any]:
    """All leaves in order."""
    found: list[Any] = []
    walk(tree, lambda leaf: found.append(leaf))
    return found


class Unsupported(Exception):
    """Something that no Python source can be written for; `reason` is for the user."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
