"""Misspelt arguments of the public Python API, and those of a wrong type, answered like those of the command line."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from morphsearch.errors import MorphError, UnknownName, UsageError, nearest

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

MOST_SEED = 2**32 - 1
"""The largest seed that every generator takes (NumPy's older ones have 32 bits)."""


@overload
def named_arguments(function: Callable[P, R]) -> Callable[P, R]: ...


@overload
def named_arguments(*, title: str) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def named_arguments(
    function: Callable[P, R] | None = None, *, title: str = ""
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """`function`, which says what a call that does not fit its signature got wrong, with the nearest names.

    Signature, docstring and types stay. The error is a :class:`~morphsearch.errors.UnknownName` for a keyword that
    there is not, and a :class:`~morphsearch.errors.UsageError` for anything else, in place of Python's TypeError.

    Args:
        title: what users call it, where that is not its qualified name.
    """
    if function is None:
        return lambda one: _named(one, title)
    return _named(function, title)


def _named(function: Callable[P, R], title: str) -> Callable[P, R]:
    signature = inspect.signature(function)
    parameters = signature.parameters.values()
    named = [
        one.name
        for one in parameters
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name not in ("self", "cls")
    ]
    further = any(one.kind is one.VAR_KEYWORD for one in parameters)
    title = title or function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            for key in kwargs:
                if key not in named and (not further or nearest(key, named)):
                    raise UnknownName.of(f"argument of {title}", key, named) from None
            shape = ", ".join(named) or "no argument"
            raise UsageError(f"a call of {title}: {error}", f"it takes {shape}", f"see help({title})") from None
        return function(*args, **kwargs)

    return called


def named_fields(made: type[T]) -> type[T]:
    """A dataclass whose constructor answers as :func:`named_arguments` does. Goes above ``@dataclass``."""
    made.__init__ = named_arguments(made.__init__)  # type: ignore[method-assign]
    return made


def require(
    holds: object, name: str, value: object, rule: str, repair: str, *, kind: type[MorphError] = UsageError
) -> None:
    """Raise `kind` unless it `holds` of the argument `name` that it is `rule`, such as "true or false"."""
    if not holds:
        raise kind(f"{name}={shown(value)}", f"{name} is {rule}", repair)


def is_seed(value: object) -> bool:
    """Whether every generator takes it as a seed."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_SEED


def require_seed(value: object, name: str = "seed") -> None:
    """Raise UsageError unless every generator takes `value` as a seed.

    Raises:
        UsageError: as said.
    """
    require(is_seed(value), name, value, f"a whole number from 0 to {MOST_SEED:,}", f"write for example {name}=0")


def require_module(model: object, *, kind: type[MorphError] = UsageError) -> None:
    """Raise `kind` unless `model` is a network."""
    from torch import nn

    if isinstance(model, nn.Module):
        return
    repair = "pass the network itself, not its class or weights"
    if isinstance(model, str):
        repair = f"pass the network itself: morphsearch.models.build_seed({shown(model)}).model builds a named one"
    raise kind(
        f"the model is {f'the class {model.__name__}' if isinstance(model, type) else f'a {type(model).__name__}'}",
        "it must be a torch.nn.Module",
        repair,
    )


def is_path(value: object) -> bool:
    """Text or a Path that names something."""
    return isinstance(value, str | os.PathLike) and bool(os.fspath(value))


def require_path(path: object, name: str) -> None:
    """Raise UsageError unless `path` can be one.

    Raises:
        UsageError: as said; nothing, too, is none, since the present folder would be meant by accident.
    """
    require(
        is_path(path),
        name,
        path,
        "the path of a file or folder, as text or a Path",
        f'write for example {name}="runs/a"',
    )


def shown(value: Any, most: int = 80) -> str:
    """`value` as it is quoted in an error: one line, not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[:most]}..."
