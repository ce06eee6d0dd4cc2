"""What the user's own functions return to a search: losses of candidates, and what was measured of a new network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

from torch import Tensor

from morphsearch.errors import DivergedError, UsageError
from morphsearch.loop.schema import finite
from morphsearch.strategies.ranks import mean_loss

P = ParamSpec("P")


def number_of(value: Any) -> float | None:
    """`value` as a float, where it is a number or a tensor of a single one; else None."""
    if isinstance(value, Tensor) or type(value).__module__ == "numpy":
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            return None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def told(function: Callable[P, Any], name: str, *, together: bool = False) -> Callable[P, float]:
    """`function`, which returns a loss, and is found out where it does not.

    Args:
        name: of the argument that it was. together: average over the processes that train together.

    Raises:
        UsageError: at once where it cannot be called, later where it returns something else than a number.
        DivergedError: it returns NaN, which compares with nothing. Infinity it may: a candidate that diverged.
    """
    if not callable(function):
        raise UsageError(
            f"{name} is a {type(function).__name__}",
            f"{name} is a function that returns a loss",
            f"pass the function itself, {name}=evaluate",
        )

    def called(*args: P.args, **kwargs: P.kwargs) -> float:
        found = function(*args, **kwargs)
        loss = number_of(found)
        if loss is None:
            raise UsageError(
                f"{name}() returned a {type(found).__name__}",
                "it returns a loss, one number",
                "return the mean loss over the held-out data, loss.item()",
            )
        loss = mean_loss(loss) if together else loss
        if math.isnan(loss):
            raise DivergedError(
                f"{name}() returned NaN",
                "widths are compared by their losses, and NaN compares with none",
                "lower the learning rate, or train in float32; return infinity for a candidate that diverged",
            )
        return loss

    return called


def measured(found: Any) -> dict[str, float | None]:
    """What a judge returned, as files hold it: numbers by name, and None for what is not finite.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(found, Mapping):
        raise UsageError(
            f"judge() returned a {type(found).__name__}",
            "it returns what it measured of the network, numbers by their names",
            'return for example {"val_accuracy": 0.91, "val_loss": 0.3}, or {}',
        )
    numbers: dict[str, float | None] = {}
    for key, value in found.items():
        number = None if value is None else number_of(value)
        if not isinstance(key, str) or (number is None and value is not None):
            what = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
            raise UsageError(
                f"judge() returned {key!r}: {what}",
                "what it measured are single numbers, or None, by their names",
                f"return {key!r}: a float, or leave it out",
            )
        numbers[key] = number
    return dict(finite(numbers))


__all__ = ["measured", "number_of", "told"]
