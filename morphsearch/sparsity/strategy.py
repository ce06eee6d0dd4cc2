"""Criteria by which single weights leave, among the strategies; they serve `sparsify` and not the search for widths."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from morphsearch import plugins
from morphsearch.arguments import shown
from morphsearch.errors import UsageError
from morphsearch.strategies.base import Strategy
from morphsearch.strategies.registry import get

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph


class MaskStrategy(Strategy):
    """Judges single weights. A subclass answers :meth:`saliency`, and is registered like any strategy.

    Masks, schedules, blocks, N:M and checkpoints are the sparsifier's; the criterion is all that there is to write.
    """

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def saliency(self, name: str, weight: Tensor) -> Tensor:
        """How much each weight matters: of the weight's shape, finite, 0 or more; those of least saliency leave.

        Args:
            name: of the parameter.
            weight: its values, without gradient; zero where it is masked already.
        """

    def attach(self, model: nn.Module, graph: ConvGraph) -> None:
        """Refuses: units are not what this judges.

        Raises:
            UsageError: always; the message names `sparsify`.
        """
        raise UsageError(
            f"strategy {self.name!r} sets single weights to zero; it finds no widths",
            "a search needs a strategy that judges whole units, such as gamma-l1",
            f"morphsearch sparsify SEED --target 70% --strategy {self.name} (or search with --strategy gamma-l1)",
        )

    def scores(self) -> Tensor:
        """Refuses, see :meth:`attach`."""
        raise UsageError(
            f"strategy {self.name!r} judges single weights, not units", "a search scores units", "use ms.sparsify"
        )


class MagnitudeSparsity(MaskStrategy):
    """The absolute value of the weight (Zhu & Gupta 2017, arXiv 1710.01878, section 3)."""

    name = "magnitude-sparsity"

    def saliency(self, name: str, weight: Tensor) -> Tensor:
        """``|w|``."""
        return weight.abs()


_WHAT = "strategy is the name of a strategy that judges weights, or such a strategy"


def criterion(strategy: str | MaskStrategy, options: dict[str, Any] | None = None) -> MaskStrategy:
    """The criterion of that name.

    Raises:
        UnknownName: no such strategy. UsageError: one that judges units, or none; or options of one that is made.
    """
    given: Any = strategy
    if isinstance(given, type):
        raise UsageError(
            f"strategy is the class {given.__name__}", _WHAT, f"pass one of them: strategy={given.__name__}()"
        )
    if not isinstance(given, str | Strategy):
        raise UsageError(f"strategy={shown(given)}", _WHAT, f"leave it out for {MagnitudeSparsity.name}")
    if options and not isinstance(strategy, str):
        raise UsageError(
            f"strategy_options beside a {type(strategy).__name__}",
            "options go to a strategy that is made by its name",
            f"give them to it where you make it: {type(strategy).__name__}({next(iter(options))}=...)",
        )
    made = get(strategy, **(options or {})) if isinstance(strategy, str) else strategy
    if isinstance(made, MaskStrategy):
        return made
    name = getattr(made, "name", type(made).__name__)
    known = [one for one, record in plugins.registry("strategies").items() if _is_mask(one, record.factory)]
    raise UsageError(
        f"strategy {name!r} judges whole units, not single weights",
        f"sparsify takes strategies that judge weights: {', '.join(known)}",
        f"leave it out for {MagnitudeSparsity.name}, or find widths with it: morphsearch search --strategy {name}",
    )


def _is_mask(name: str, factory: Any) -> bool:
    """Whether a record makes one of these; of a factory that is a function only calling it would tell."""
    return name == MagnitudeSparsity.name or (inspect.isclass(factory) and issubclass(factory, MaskStrategy))
