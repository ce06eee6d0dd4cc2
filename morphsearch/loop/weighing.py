"""What a search makes of scores: who is alive, what a unit costs, how hard to press, and in the end who stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphsearch import plugins
from morphsearch.arguments import shown
from morphsearch.errors import DivergedError, GraphError
from morphsearch.loop import morphing
from morphsearch.loop.controller import ENOUGH
from morphsearch.loop.pressing import demand
from morphsearch.loop.selection import Facts, free_units, protect, widths_of
from morphsearch.loop.shrinking import Shrinking
from morphsearch.strategies.threshold import settled

NO_GAP = (
    "The scores have no gap at the threshold ({:.2g}): {} units are within a factor of 3 of each other about it, so "
    "that those of them that left are hardly worse than those that stay."
)


class Weighing(Shrinking):
    """The part of :class:`~morphsearch.loop.session.Search` that reads scores, prices units and chooses widths.

    Attributes:
        pricing: "share" or "unit". own_threshold: whether the threshold is the strategy's, and may move into a gap.
        seed: of what is drawn at random.
    """

    pricing: str
    own_threshold: bool
    seed: int
    _spared: dict[str, int]
    _threshold: float  # that the last choice was made by

    def _look(self, lr: float) -> None:
        """Read scores, price units at the widths that are alive, and set the strength."""
        facts = self._facts()
        widths = self._alive_widths(facts)
        facts.price = self._reprice(widths)
        need, fullness, target = 0.0, 1.0, self.rules.shrink_to
        if self.strategy.presses and self.controller.fixed is None and self.controller.pressing(self.morph_step):
            need, prices = demand(
                self.graph,
                facts,
                self.leaving.present,
                lambda widths: self.budgets.fits(widths, target),
                self._spared,
                self.rules.threshold,
                self.rules.round_to,
            )
            self._prices = torch.from_numpy(prices)
            fullness = self.budgets.load(widths) / target
        self.controller.update(self.morph_step, need, lr, fullness)
        if self.strategy.presses and self.controller.fixed is None and fullness < ENOUGH:
            fits: Callable[[dict[str, int]], bool] = lambda widths: self.budgets.fits(widths, target)  # noqa: E731
            back = self.leaving.unasked(facts, fits, self.rules.round_to)
            if back.size:
                self.strategy.revive(torch.from_numpy(back))
        # Units that nothing presses leave all the same, masked where the network cannot be cut.
        followed = self.live and self.followers is not None
        if self.strategy.needs_training and self.strategy.live and (followed or not self.strategy.presses):
            self._silence(facts)

    def _reprice(self, widths: Mapping[str, int]) -> np.ndarray:
        """Set and return the `u` prices at these widths, with mean 1 over the units that may leave.

        With ``pricing="share"`` the price of a unit is multiplied by the number of alive units of its group: it is then
        the price of a given *share* of the group. Pressure by the unit's own price alone strips the early layers, whose
        few channels are dear, and nothing resists: a norm that follows takes out whatever scales a whole layer down.
        """
        price: np.ndarray = self.budgets.prices(widths, self.rules.shrink_to).numpy().clip(min=0.0)
        if self.pricing == "share":
            price = price * np.array([widths[name] for name in self.graph.groups], np.float64)
        price = price[self.graph.unit_group]
        mean = price[free_units(self.graph) & self.leaving.present].mean()
        price = price / (mean if mean > 0 else 1.0)
        self._prices = torch.from_numpy(price)
        return price

    def _facts(self, threshold: float | None = None) -> Facts:
        found: Any = self.strategy.scores()
        units = self.graph.num_units
        plugins.answered(
            isinstance(found, Tensor) and tuple(found.shape) == (units,),
            *("strategies", str(self.strategy.name), f"scores() returned {shown(found)}"),
            f"scores() gives a tensor with one score for each of the {units} units",
        )
        score = found.detach().double().cpu().numpy()
        if not np.isfinite(score).all():
            raise DivergedError(
                "the scores of some units are not finite",
                "a network whose weights are not finite has nothing to tell",
                "check the data for NaN, lower the learning rate, clip gradients, or train in float32"
                + ("; the last saved state is kept" if self.run is not None else ""),
            )
        judged = self.strategy.scored().cpu().numpy()
        alive = self.strategy.alive(self.rules.threshold if threshold is None else threshold).cpu().numpy()
        # Silent units come last wherever units are ranked.
        score, alive = np.where(self.leaving.silent, -1.0, score), alive & self.leaving.present
        return Facts(score, self._prices.numpy(), judged, alive)

    def _alive_widths(self, facts: Facts) -> dict[str, int]:
        return widths_of(self.graph, protect(self.graph, facts.alive, facts.score, self.rules.round_to)[0])

    def _rebuilt(self) -> tuple[morphing.Choice, morphing.Rebuilt]:
        """What is chosen, and the network of it.

        Where that cannot be built, branches stay, and then nothing is widened: no training is lost for it.

        Raises:
            GraphError: nor can those be built.
        """
        choice = self._choice()
        seed = self.seed + len(self.architectures)

        def build(choice: morphing.Choice) -> morphing.Rebuilt:
            with self.strategy.plain():
                return morphing.rebuild(self.graph, choice, self.budgets, self.example_inputs, seed)

        try:
            return choice, build(choice)
        except GraphError as error:
            failure = error
        if any(self.graph.widths[name] and not width for name, width in choice.widths.items()):
            self.notes.append(f"Branches stay, with one unit at least: {failure.arrived}.")
            self.graph.keep_branches()
            self.budgets = self.budgets.rebound(self.graph)  # of a branch that is silent nothing was counted
            choice = self._choice()
            try:
                return choice, build(choice)
            except GraphError as error:
                failure = error
        if not (self.strategy.needs_training and (choice.multiplicity > 1).any()):
            raise failure
        self.notes.append(f"Nothing is widened: {failure.arrived}.")
        choice = self._choice(expand=False)
        return choice, build(choice)

    def _choice(self, expand: bool = True) -> morphing.Choice:
        if not self.strategy.needs_training:
            rng = np.random.default_rng([self.seed, len(self.architectures)])
            return morphing.propose(self.graph, self.strategy, self.budgets, self.rules, rng)
        facts = self._facts()
        presses, left, crowd = self.strategy.presses, self.leaving.left, 0
        self._threshold = self.rules.threshold
        if presses:
            judged = torch.from_numpy(facts.score[facts.judged & self.leaving.present & free_units(self.graph)])
            threshold, crowd = settled(judged, self.rules.threshold, left)
            if self.own_threshold:
                self._threshold = threshold
                facts = self._facts(threshold)
        facts.price = self._reprice(self._alive_widths(facts))
        rules = replace(self.rules, threshold=self._threshold)
        if not expand:
            rules = replace(rules, expand=False, shrink_to=1.0)
        choice = morphing.choose(self.graph, facts, self.budgets, rules, left=left, presses=presses)
        if crowd:
            choice.notes.append(NO_GAP.format(self._threshold, crowd))
        return choice
