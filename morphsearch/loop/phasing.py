"""Strategies that judge by evaluation, before a morph: their phase, in the hands of the user's own functions."""

from __future__ import annotations

from collections.abc import Callable

from morphsearch.arguments import named_arguments
from morphsearch.errors import UsageError
from morphsearch.loop.checks import judges
from morphsearch.loop.judging import told
from morphsearch.loop.selection import capped, fill_up
from morphsearch.loop.weighing import Weighing
from morphsearch.strategies.base import Phase

UNJUDGED = (
    "run_phase() was not called before morph(): {} compares widths by their losses there, and has compared none; the "
    "widths are those of a plain scaling."
)


class Phasing(Weighing):
    """The part of :class:`~morphsearch.loop.session.Search` that lets a strategy judge widths by losses."""

    strategy_name: str
    detached: bool
    over: bool
    _phased: bool  # whether it has, in this morph

    @property
    def judges(self) -> bool:
        """Whether the strategy has a phase of its own before a morph, see :meth:`run_phase`."""
        return judges(self.strategy)

    @named_arguments(title="Search.run_phase")
    def run_phase(
        self,
        loss: Callable[[], float],
        on_step: Callable[[dict[str, int], float], None] | None = None,
        train: Callable[[dict[str, int], float], float] | None = None,
    ) -> int:
        """Let a strategy that judges by evaluation choose the widths; to be called right before ``morph()``.

        Args:
            loss: returns the loss of :attr:`model`, as it is at that moment, on held-out data; always the same data.
                Batch norms should take the statistics of the batch.
            on_step: hears widths and their loss on the way.
            train: for strategies that try candidates out (`trials`): trains ``search.graph.resize(widths)`` for a share
                of the epochs, and returns its loss on held-out data, infinity where it diverged.

        Returns:
            How often the strategy evaluated; 0 for one that has no such phase.

        Raises:
            UsageError: a function that is none, or does not return a number. DivergedError: a loss is NaN.
        """
        self._require_going_on("run_phase()")
        self._require_own()
        share, round_to, together = self.rules.shrink_to, self.rules.round_to, self.strategy.together
        phase = Phase(
            self.model,
            self.graph,
            told(loss, "loss", together=together),
            lambda widths: self.budgets.fits(widths, share),
            self.budgets.load,
            round_to=round_to,
            on_step=on_step,
            meets=self.budgets.fits,
            fill=lambda widths: fill_up(
                self.graph,
                widths,
                capped(self.budgets.fits, widths, getattr(self.strategy, "most", None)),
                limit=self.rules.limit,
                round_to=round_to,
                load=self.budgets.load,
            ),
            train=told(train, "train", together=together) if train is not None else None,
        )
        self.strategy.run_phase(phase)
        self._phased = True
        self.notes += [note for note in self.strategy.notes if note not in self.notes]
        return phase.evaluations

    def _unjudged(self) -> list[str]:
        """A note, where a strategy that judges by evaluation was never asked to."""
        asked = self._phased or self.strategy.decided or not self.judges
        return [] if asked else [UNJUDGED.format(self.strategy_name)]

    def _require_going_on(self, call: str) -> None:
        if self.detached:
            raise UsageError(
                f"{call} after detach()",
                "detach() ends the search and leaves search.model plain",
                "make a new Search of this network to search on",
            )
        if self.over:
            raise UsageError(
                f"{call} after the last of {self.budgets.stages} budgets",
                "a schedule of budgets makes one morph for each, and then the search is over",
                "train search.model with your own loss alone, without penalty() and step()",
            )
