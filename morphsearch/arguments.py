"""Misspelt arguments of the public Python API, answered like those of the command line."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar, overload

from morphsearch.errors import UnknownName, UsageError, nearest

P = ParamSpec("P")
R = TypeVar("R")


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
