"""What a search refuses before anything is trained."""

from __future__ import annotations

import inspect
import math
import platform
from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING, Any

from morphsearch.errors import GraphError, UnknownName, UsageError

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph
    from morphsearch.strategies.base import Strategy

Rule = tuple[Callable[[float], bool], bool, str, str]

#: Argument to: what holds of it, whether it is whole, the rule in words, the repair.
_RULES: dict[str, Rule] = {
    "steps": (lambda v: v >= 1, True, "a whole number of optimizer steps, 1 or more", "leave it out to self-pace"),
    "strength": (lambda v: v >= 0, False, "zero or more", "leave it out to have it found"),
    "threshold": (lambda v: v >= 0, False, "zero or more", "leave it out to take the strategy's own"),
    "shrink_to": (lambda v: 0 < v <= 1, False, "a share of the budget in (0, 1]", "use 0.75"),
    "limit": (lambda v: v >= 1, False, "a number, at least 1", "use 4"),
    "round_to": (lambda v: v >= 1, True, "a whole number, 1 or more", "use 1, 8 or 16"),
    "warmup": (lambda v: 0 <= v < 1, False, "a share of the steps in [0, 1)", "use 0.2"),
    "seed": (lambda v: v >= 0, True, "a whole number, 0 or more", "use 0"),
}
OPTIONAL = ("steps", "strength", "threshold", "shrink_to", "warmup")


def check_arguments(**values: Any) -> None:
    """Check arguments of a search by their names.

    Raises:
        UsageError: one is of the wrong type or out of range.
    """
    for name, value in values.items():
        holds, whole, rule, repair = _RULES[name]
        if value is None and name in OPTIONAL:
            continue
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not holds(value):
            raise UsageError(f"{name}={value!r}", f"{name} is {rule}", repair)


def check_options(options: Mapping[str, Any], taker: Callable[..., Any], taken: Container[str]) -> None:
    """Refuse options that `taker`, which they are handed on to, does not know; those `taken` are given to it already.

    Raises:
        UnknownName: as said, with the nearest names.
    """
    known = [name for name in inspect.signature(taker).parameters if name not in taken]
    for name in options:
        if name not in known:
            raise UnknownName.of("option", name, known)


def check_strength(strategy: Strategy, strength: float | None) -> None:
    """Refuse a strength for a strategy that trains without one.

    Raises:
        UsageError: as said.
    """
    if strength is not None and strategy.needs_training and not strategy.presses:
        raise UsageError(
            f"strength={strength!r} with strategy {strategy.name!r}",
            f"{strategy.name} takes units away by rank; nothing presses them",
            "leave the strength out, or use a strategy that presses, such as gamma-l1",
        )


def require_convolutions(graph: ConvGraph) -> None:
    """Raise GraphError for a network without convolutions or with nothing that may change."""
    if not any(operation.kind in ("conv", "conv_transpose") for operation in graph.operations):
        raise GraphError(
            "the network has no convolution",
            "morphsearch searches the widths of convolutional networks",
            "check that the right network is built, and that its forward pass runs its convolutions",
        )
    if not graph.free:
        reasons = sorted({str(group.frozen) for group in graph.groups.values()})
        raise GraphError(
            f"no group of the network may change: {'; '.join(reasons[:3])}",
            "a search needs at least one group of channels that can leave",
            "see `morphsearch verify` for what freezes them",
        )


def versions() -> dict[str, str]:
    """Versions that results depend on."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    try:
        own = version("morphsearch")
    except PackageNotFoundError:
        own = "unknown"
    return {"morphsearch": own, "torch": torch.__version__, "python": platform.python_version()}
