"""Numbers that remember how they follow from the sizes of tensors.

While a network is traced, ``x.shape`` holds such numbers instead of plain ones. They are integers (or floats) in every
respect, so that any code computes with them; what comes out knows its expression, which the exporter writes down in
place of the number.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from morphsearch.exporting.steps import Value

Expression = tuple[Any, ...]
"""``("dim", value, i)``, ``("numel", value)``, ``("in", value)``, ``("call", name, x)``, ``(symbol, left, right)``."""


class TracedInt(int):
    """A whole number with its expression."""

    expression: Expression

    def __new__(cls, number: int, expression: Expression) -> TracedInt:
        """The number `number`, known to be `expression`."""
        made = super().__new__(cls, number)
        made.expression = expression
        return made

    def __reduce__(self) -> Any:
        return int, (int(self),)

    def __deepcopy__(self, memo: Any) -> TracedInt:
        return self


class TracedFloat(float):
    """A real number with its expression."""

    expression: Expression

    def __new__(cls, number: float, expression: Expression) -> TracedFloat:
        """The number `number`, known to be `expression`."""
        made = super().__new__(cls, number)
        made.expression = expression
        return made

    def __reduce__(self) -> Any:
        return float, (float(self),)

    def __deepcopy__(self, memo: Any) -> TracedFloat:
        return self


def traced(number: Any, expression: Expression) -> Any:
    """`number` with its expression; what is no plain number stays as it is."""
    if type(number) is int:
        return TracedInt(number, expression)
    return TracedFloat(number, expression) if type(number) is float else number


def of(number: Any) -> Any:
    """What stands for a number in an expression: its own expression, or the number."""
    return number.expression if isinstance(number, TracedInt | TracedFloat) else number


def plain(number: Any) -> Any:
    """The number without its history."""
    if isinstance(number, TracedInt):
        return int.__int__(number)
    return float.__float__(number) if isinstance(number, TracedFloat) else number


def _binary(symbol: str, compute: Callable[[Any, Any], Any], *, swapped: bool) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        if type(other) not in (int, float, TracedInt, TracedFloat):
            return NotImplemented
        left, right = (other, self) if swapped else (self, other)
        return traced(compute(plain(left), plain(right)), (symbol, of(left), of(right)))

    return method


def _unary(name: str, compute: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda self: traced(compute(plain(self)), ("call", name, of(self)))


_BINARY: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "add": ("+", operator.add),
    "sub": ("-", operator.sub),
    "mul": ("*", operator.mul),
    "floordiv": ("//", operator.floordiv),
    "truediv": ("/", operator.truediv),
    "mod": ("%", operator.mod),
    "pow": ("**", operator.pow),
}
for _kind in (TracedInt, TracedFloat):
    for _name, (_symbol, _compute) in _BINARY.items():
        setattr(_kind, f"__{_name}__", _binary(_symbol, _compute, swapped=False))
        setattr(_kind, f"__r{_name}__", _binary(_symbol, _compute, swapped=True))
    for _name, _word, _one in (
        ("neg", "-", operator.neg),
        ("ceil", "math.ceil", math.ceil),
        ("floor", "math.floor", math.floor),
        ("trunc", "math.trunc", math.trunc),
        ("round", "round", round),
        ("abs", "abs", abs),
    ):
        setattr(_kind, f"__{_name}__", _unary(_word, _one))


def values_in(expression: Any) -> list[Value]:
    """The tensors (and passed numbers) that an expression reads."""
    if not isinstance(expression, tuple):
        return []
    if expression[0] in ("dim", "numel", "in"):
        return [expression[1]]
    return [value for part in expression[1:] for value in values_in(part)]
