"""How sparsities, moments, blocks and N:M are written: as numbers in Python, as text on the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

from morphsearch.arguments import require
from morphsearch.errors import UsageError

Moment = int | float
"""A whole number of optimizer steps, or a float: a fraction of all of them."""


def share(value: Any, name: str = "target") -> float:
    """A sparsity in [0, 1): ``0.7`` or ``"70%"``.

    Raises:
        UsageError: it is none.
    """
    number = _number(value)
    if number is not None and 0 <= number < 1 and not isinstance(value, bool):
        return number
    repair = "write 70% or 0.7"
    if number is not None and 1 < number < 100 and not str(value).strip().endswith("%"):
        repair = f"did you mean {number:g}%?"
    elif number is not None and number >= 1:
        repair = "leave some weights: 99% or 0.99 is the usual limit of what still learns"
    raise UsageError(f"{name}={value!r}", f"{name} is the share of weights that become zero, in [0, 1)", repair)


def moment(value: Any, name: str) -> Moment:
    """``200`` (steps), ``0.1`` or ``"10%"`` (of all steps).

    Raises:
        UsageError: it is neither.
    """
    value = _whole(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    number = None if isinstance(value, int | bool) else _number(value)
    if number is not None and 0 <= number <= 1:
        return number
    raise UsageError(
        f"{name}={value!r}",
        f"{name} is a whole number of optimizer steps, 0 or more, or a share of all of them in [0, 1]",
        "write 200 for step 200, 10% or 0.1 for a tenth of the training",
    )


def count(value: Any, name: str) -> int:
    """A whole number, at least 1.

    Raises:
        UsageError: it is none.
    """
    value = _whole(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise UsageError(f"{name}={value!r}", f"{name} is a whole number, at least 1", f"write for example {name}=100")


def block_size(value: Any) -> tuple[int, int]:
    """``(4, 1)`` or ``"4,1"``: rows (outputs) and columns (inputs) of a block.

    Raises:
        UsageError: it is none.
    """
    parts = re.split(r"[,x]", value.strip("()[] ")) if isinstance(value, str) else value
    try:
        rows, columns = (int(str(part)) for part in parts)
    except (TypeError, ValueError):
        rows = columns = 0
    if min(rows, columns) < 1:
        raise UsageError(
            f"block={value!r}", "a block is two whole numbers above 0: outputs, inputs", "write for example 4,1"
        )
    return rows, columns


def n_of_m(value: Any) -> tuple[int, int]:
    """``(2, 4)`` or ``"2:4"``: at most n of m neighbouring weights are not zero.

    Raises:
        UsageError: it is none.
    """
    parts = value.split(":") if isinstance(value, str) else value
    try:
        n, m = (int(str(part)) for part in parts)
    except (TypeError, ValueError):
        n = m = 0
    if not 0 < n < m:
        raise UsageError(
            f"nm={value!r}", "N:M keeps N of every M weights, 0 < N < M", "write 2:4, which hardware knows"
        )
    return n, m


def listed(value: Any, name: str) -> list[str]:
    """``["blocks.*", "stem"]`` or ``"stem"``: patterns of layers.

    Raises:
        UsageError: something else, None included.
    """
    found = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    rule = "one or more patterns of layers, as text"
    require(
        all(isinstance(one, str) for one in found), name, value, rule, f"write {name}=['blocks.*'], or leave it out"
    )
    return found


def table(value: Any, name: str, what: str, example: str) -> dict[str, Any]:
    """A mapping by name, None for an empty one.

    Raises:
        UsageError: it is none.
    """
    given = {} if value is None else value
    named = isinstance(given, Mapping) and all(isinstance(key, str) for key in given)
    require(named, name, value, f"a dict of {what}", f"write for example {name}={example}, or leave it out")
    return dict(given)


def percent(value: float) -> str:
    """``70%``, ``62.5%``."""
    return f"{100 * value:.4g}%"


def _whole(value: Any) -> Any:
    """An int of digits, or of another type of whole numbers (NumPy's); anything else as it is."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*", value):
        return int(value)
    if isinstance(value, bool):
        return value
    return int(value) if isinstance(value, Integral) else value


def _number(value: Any) -> float | None:
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
