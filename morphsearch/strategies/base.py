"""What a strategy is: it decides how important every unit is, or proposes widths outright.

Shapes: `u` units of the graph in its flat numbering (``graph.unit_group`` says whose they are), `g` groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

Widths = dict[str, int]
Fits = Callable[[Widths], bool]


class Phase:
    """What a strategy has in :meth:`Strategy.run_phase`.

    Attributes:
        model: the network that was trained. graph: its graph. widths: of its groups.
        loss: the held-out loss of the network as it is now, gates and all: batch norms take the statistics of the
            held-out batch, everything else is in evaluation.
        fits: whether complete widths meet every budget as far as the morph narrows. load: how full they make the budget
            that binds, 1 for full. round_to: widths are multiples of it.
        meets: whether complete widths meet every budget. fill: widths that do, with what rounding left unused spent on
            single units.
        train: the held-out loss of a new network of the given widths, trained from scratch for a share of the search's
            epochs; None where nobody can train one. Always the same for the same widths.
        on_step: to be told widths and loss on the way.
        evaluations: how often the strategy evaluated; it counts.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ConvGraph,
        loss: Callable[[], float],
        fits: Fits,
        load: Callable[[Widths], float],
        *,
        round_to: int = 1,
        on_step: Callable[[Widths, float], None] | None = None,
        meets: Fits | None = None,
        fill: Callable[[Widths], Widths] | None = None,
        train: Callable[[Widths, float], float] | None = None,
    ) -> None:
        self.meets: Fits = meets or fits
        self.fill: Callable[[Widths], Widths] = fill or (lambda widths: widths)
        self.train = train
        self.model, self.graph, self.widths = model, graph, dict(graph.widths)
        self.loss, self.fits, self.load, self.round_to = loss, fits, load, round_to
        self.on_step: Callable[[Widths, float], None] = on_step or (lambda widths, loss: None)
        self.evaluations = 0


class Strategy(ABC):
    """Scores the units of a graph.

    The loop calls :meth:`attach` at the start of each morph, then in every training step :meth:`penalty` before the
    backward pass and :meth:`after_step` after the optimizer's step, and :meth:`alive` and :meth:`scores` when it
    judges. Both hooks of the step must stay a few vectorised operations over flat vectors. Where units leave while
    training goes on it calls :meth:`leave`, and at the end of the search :meth:`detach`. A strategy that judges by
    evaluation instead brings its own phase (:meth:`run_phase`); one that needs no training at all sets
    ``needs_training = False`` and answers in :meth:`propose`.

    Attributes:
        name: the name it is registered by.
        needs_training: its scores mean something only after training.
        presses: it lowers scores by ``lr * strength * price`` a step (less what the loss gives back), so that units die
            under strength. Where it does not, strength means nothing, and the loop takes units away by rank, lowest
            score per price first, as many as its schedule asks for.
        rests: without strength its scores stand still, so that the pressure may stop once the target is reached. (Where
            the loss moves them too, units that just died would come back.)
        live: units may leave while it trains. One that cannot go on with a smaller network in :meth:`leave` sets False.
        default_threshold: what :meth:`alive` is asked with unless the user says otherwise.
        notes: what the user should know about this network, one sentence each; filled by :meth:`attach`.
        decided: it has chosen what :meth:`run_phase` chooses; False: nobody has asked it to yet.
        progress: the share of the schedule that is done, 0 to 1, for what is annealed; set by the loop.
        together: processes of a ``torch.distributed`` group train one network: what is taken from gradients is averaged
            over them, see :mod:`morphsearch.strategies.ranks`. False where one process searches by itself.
        uniform_share: the share of every group that a plain scaling to the morph's target keeps; set by the loop.
    """

    name: str
    needs_training: bool = True
    presses: bool = True
    rests: bool = False
    live: bool = True
    default_threshold: float = 0.0
    notes: Sequence[str] = ()
    decided: bool = True
    progress: float = 0.0
    uniform_share: float = 0.5
    together: bool = True

    @abstractmethod
    def attach(self, model: nn.Module, graph: ConvGraph) -> None:
        """Bind to the `model` that is being trained and its `graph`. Called again after every morph.

        Raises:
            UsageError: the network has nothing that this strategy can judge; the message says which strategies fit.
        """

    def leave(self, model: nn.Module, graph: ConvGraph, kept: Tensor) -> None:
        """Go on with the network without units that left amid a morph (live shrinking).

        By default: :meth:`attach`, and back comes what :meth:`state_dict` held, tensors with one row a unit without the
        rows of units that left.

        Args:
            model: the same module object as before, with smaller parameters in it. graph: its graph now.
            kept: `v` int64, the units that stay, in the former numbering of `u`.
        """
        tensors, state = self.state_dict()
        units = len(self.scores())
        rows = {
            name: value[kept.to(value.device)] if value.dim() and len(value) == units else value
            for name, value in tensors.items()
        }
        self.attach(model, graph)
        self.load_state_dict(rows, state)

    @abstractmethod
    def scores(self) -> Tensor:
        """`u`, finite, non-negative: the importance of every unit, larger is more."""

    def scored(self) -> Tensor:
        """`u` bool: units that this strategy can judge. The others are always alive, and their scores say nothing."""
        return torch.ones_like(self.scores(), dtype=torch.bool)

    def alive(self, threshold: float) -> Tensor:
        """`u` bool: units whose score is above `threshold`, and all that cannot be judged."""
        scores = self.scores()
        # Which units can be judged never changes, so it may lie elsewhere than what changes with the network.
        return (scores > threshold) | ~self.scored().to(scores.device)

    def regularized(self) -> set[str]:
        """Names of parameters to keep out of weight decay, since the strategy regularizes them itself."""
        return set()

    def penalty(self, prices: Tensor, strength: float) -> Tensor:
        """Scalar to add to the loss.

        Args:
            prices: `u`, the price of every unit (of a share of its group, or its marginal cost: the search's
                ``pricing``), normalised to mean 1 over the free units, times the share of the pressure that it takes:
                up to 1.5 for units that are to leave, 0 for those that will stay. A strength that the user fixed
                presses all alike.
            strength: lambda.
        """
        return torch.zeros((), device=prices.device)

    def after_step(self, prices: Tensor, strength: float, lr: float) -> None:  # noqa: B027
        """Act after the optimizer's step, without gradient (a proximal step).

        Called after every step, also while nothing is pressed yet (`strength` 0). `lr` is the current learning rate.
        Gradients may be gone by now; a strategy that needs them takes them by hooks of the parameters.
        """

    def revive(self, units: Tensor) -> None:  # noqa: B027
        """Units that died though the cost did not ask for it, best first: let them live, where dead units can.

        Called at a look that finds the cost well below its target. By default nothing happens: a scale at zero has
        nothing to come back with.

        Args:
            units: `k` int64, in the flat numbering of `u`.
        """

    def propose(self, graph: ConvGraph, fits: Fits, rng: np.random.Generator, *, round_to: int = 1) -> Widths | None:
        """Widths straight away, the largest of their kind that `fits` accepts; None where units are chosen by score.

        Args:
            graph: the network as it is now.
            fits: whether complete widths meet every budget.
            rng: the only source of randomness.
            round_to: widths are multiples of it, where a group's own rules allow.

        Raises:
            BudgetError: not even the smallest widths fit.
        """
        return None

    def run_phase(self, context: Phase) -> None:  # noqa: B027
        """A phase of the strategy's own, before units are chosen: judge by held-out loss, say."""

    def plain(self) -> AbstractContextManager[None]:
        """A context in which the network is without gates and hooks of the strategy, to be copied or rebuilt.

        Parameters are as they are: units whose gate is closed do speak in it.
        """
        return nullcontext()

    def detach(self) -> None:  # noqa: B027
        """Leave a plain network: fold away gates, take off hooks. Harmless where nothing is attached."""

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a resumed run needs beyond the model's own weights: tensors, and data that JSON can hold."""
        return {}, {}

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take back what :meth:`state_dict` gave; called after :meth:`attach`."""


class TrainingFree(Strategy):
    """Base of strategies that propose widths without looking at weights: every unit is as good as any other.

    Attributes:
        meant: the widths that the last :meth:`propose` meant, before they were rounded, where it knows them: what
            rounding leaves of a budget is filled in these proportions.
        most: how wide groups may become by a limit of the strategy's own, where it has one, once it was attached or has
            proposed.
    """

    needs_training = False
    presses = False
    meant: Mapping[str, float] | None = None
    most: Mapping[str, float] | None = None

    _num_units: int = 0

    def attach(self, model: nn.Module, graph: ConvGraph) -> None:
        """Any network will do."""
        self._num_units = int(graph.num_units)

    def scores(self) -> Tensor:
        """`u` ones."""
        return torch.ones(self._num_units)

    def scored(self) -> Tensor:
        """`u`: none is judged."""
        return torch.zeros(self._num_units, dtype=torch.bool)

    @abstractmethod
    def propose(self, graph: ConvGraph, fits: Fits, rng: np.random.Generator, *, round_to: int = 1) -> Widths:
        """Widths, see :meth:`Strategy.propose`."""
