"""What strategies say in the same words: options that are wrong, networks that they cannot judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from morphsearch.errors import UsageError, nearest

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph


def one_of(option: str, value: Any, known: Sequence[str], strategy: str) -> str:
    """`value`, one of `known`.

    Raises:
        UsageError: it is not; with the nearest that is.
    """
    if isinstance(value, str) and value in known:
        return value
    close = nearest(value, known) if isinstance(value, str) else []
    raise UsageError(
        f"{option}={value!r}",
        f"{option} of {strategy} is {' or '.join(repr(name) for name in known)}",
        f"did you mean {close[0]!r}?" if close else f"leave it out for {known[0]!r}",
    )


def number_in(option: str, value: Any, low: float, high: float, usual: str, *, open_ends: bool = False) -> float:
    """`value` as a float in [low, high], or within (low, high) with `open_ends`.

    Raises:
        UsageError: it is not a number there.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if number and (low < value < high if open_ends else low <= value <= high):
        return float(value)
    least = f"more than {low:g}" if open_ends else f"{low:g} or more"
    most = "" if math.isinf(high) else f" and less than {high:g}" if open_ends else f", at most {high:g}"
    rule = f"{option} is a number, {least}{most}"
    raise UsageError(f"{option}={value!r}", rule, usual)


def flag(option: str, value: Any) -> bool:
    """`value`, a bool.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, bool):
        return value
    raise UsageError(f"{option}={value!r}", f"{option} is true or false", "write true or false")


FROZEN_TOO = ("magnitude", "logistic-sigmoid", "uniform", "random")  # what judges, or needs not, parameters as they are


def nothing_to_judge(strategy: str, graph: ConvGraph, needed: str, *, trained: bool = False) -> UsageError:
    """The error for a network in which a strategy finds nothing; `trained`: it only looks at what is trained."""
    if all(group.frozen for group in graph.groups.values()):
        return UsageError(
            "every group of this network is frozen",
            f"{strategy} needs units that may leave",
            "run morphsearch verify SEED to see which operation freezes them",
        )
    if trained:
        return UsageError(
            f"no unit of this network that may leave has {needed}",
            f"{strategy} judges units by them, and parameters without requires_grad are not trained",
            f"train them (requires_grad_()), or use a strategy that needs no training of them: {', '.join(FROZEN_TOO)}",
        )
    return UsageError(
        f"no unit of this network that may leave has {needed}",
        f"{strategy} judges units by them",
        "use a strategy that needs no weights: uniform, random",
    )


def unjudged_groups(strategy: str, graph: ConvGraph, scored: Tensor, why: str) -> tuple[str, ...]:
    """A note, where some group that may change has no unit that is `scored` (`u` bool)."""
    judged = np.zeros(len(graph.groups), bool)
    judged[np.asarray(graph.unit_group)[scored.cpu().numpy()]] = True
    free = [not group.frozen for group in graph.groups.values()]
    without = [
        f"{group.name} ({group.width})"
        for group, known, may in zip(graph.groups.values(), judged, free, strict=True)
        if may and not known
    ]
    if not without:
        return ()
    shown = ", ".join(without[:5]) + (" and others" if len(without) > 5 else "")
    how_many = f"{len(without)} of {sum(free)} groups"
    return (f"{strategy} cannot judge {how_many}, since {why}, and keeps them whole: {shown}",)


class Spared:
    """The best unit of every group that must keep one.

    Args:
        graph: the network; its units lie in the order of their groups.
    """

    def __init__(self, graph: ConvGraph) -> None:
        widths = np.bincount(np.asarray(graph.unit_group, np.int64), minlength=len(graph.groups))
        floors = np.array([group.floor > 0 for group in graph.groups.values()], bool)
        occupied = np.nonzero(widths)[0]
        self._starts = (np.cumsum(widths) - widths)[occupied]
        self._place = np.repeat(np.arange(len(self._starts)), widths[occupied])
        self._floors = floors[occupied]
        self._elsewhere: tuple[Tensor, Tensor, Tensor] | None = None

    def best(self, scores: Tensor) -> Tensor:
        """`k` int64, the first of equals.

        Args:
            scores: `u`, finite.
        """
        if not len(self._starts):
            return torch.zeros(0, dtype=torch.int64, device=scores.device)
        if scores.device.type != "cpu":
            return self._best_elsewhere(scores)
        # Fewer and lighter calls than scatters, which look for the place of every unit: here they lie in order.
        values = scores.detach().numpy()
        most = np.maximum.reduceat(values, self._starts)
        # With one more, since nothing is equal where all is NaN.
        reached = np.append(np.flatnonzero(values == most[self._place]), len(values) - 1)
        return torch.from_numpy(reached[np.searchsorted(reached, self._starts)][self._floors])

    def _best_elsewhere(self, scores: Tensor) -> Tensor:
        if self._elsewhere is None or self._elsewhere[0].device != scores.device:
            place = torch.from_numpy(self._place).to(scores.device)
            units = torch.arange(scores.numel(), device=scores.device)
            self._elsewhere = place, units, torch.from_numpy(self._floors).to(scores.device)
        place, units, floors = self._elsewhere
        most = scores.new_full((len(floors),), float("-inf")).scatter_reduce_(0, place, scores, "amax")
        reached = torch.where(scores >= most[place], units, scores.numel() - 1)
        first = units.new_full((len(floors),), scores.numel() - 1).scatter_reduce_(0, place, reached, "amin")
        return first[floors]
