"""Whom a search takes along: optimizers that are followed, and what becomes of parameters that none of them holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from morphsearch.arguments import named_arguments
from morphsearch.errors import UsageError
from morphsearch.loop.follow import Followers
from morphsearch.strategies.ranks import ranks

if TYPE_CHECKING:
    from morphsearch.strategies.base import Strategy

CERTAIN = 2  # steps in a row at which a parameter has been changed from outside: somebody trains it


class Following:
    """The part of :class:`~morphsearch.loop.session.Search` that knows whose parameters are whose.

    Attributes:
        followers: what goes on with a smaller network; None before :meth:`follow`.
    """

    model: nn.Module
    strategy: Strategy
    live: bool
    followers: Followers | None
    notes: list[str]
    _own: dict[str, nn.Parameter]  # the network's, as the strategy knows them
    _others: dict[str, tuple[nn.Parameter, int, int]]  # in no optimizer: the version last seen, changes in a row

    @named_arguments(title="Search.follow")
    def follow(self, optimizer: Any, *, scheduler: Any = None, ema: Any = None) -> None:
        """Let units leave while training goes on: what trains the network goes with it.

        From now on :meth:`step` may take dead units out of :attr:`model` in place, and :meth:`morph` exchanges the
        optimizers' parameters; their state loses the same slices. The learning rate is read from the first. Further
        calls add to what is followed; an optimizer of which the new ones hold all parameters is left behind.

        Units stay, masked, while a parameter that may be trained is in no optimizer that is followed; and once it is
        seen to be trained, :meth:`step` says so, before its optimizer is left with what the network no longer holds.

        Args:
            optimizer: SGD, Adam, AdamW or any other whose state is, for every parameter, tensors of its shape or single
                numbers; or a list of such, where several train the network.
            scheduler: one or several learning-rate schedulers; checked to hold one of the optimizers, which stay the
                same objects.
            ema: one or several moving averages: ``torch.optim.swa_utils.AveragedModel``, a copy of the network, or a
                dict of tensors by the network's names.

        Raises:
            UsageError: an optimizer of another network or one whose state cannot be cut, a scheduler of another
                optimizer, an average of another network; parameters of the network were exchanged; several
                processes train together and units would leave (``live``).
        """
        self._require_own()
        if self.live and self.strategy.together and ranks() > 1:
            raise UsageError(
                f"follow() in one of {ranks()} processes that train together, with live=True",
                "DistributedDataParallel keeps the network's parameters, which are exchanged when units leave",
                "make the Search with live=False, and wrap search.model again after every morph()",
            )
        self.followers = Followers.of(self.model, optimizer, scheduler, ema, self.followers)
        self._count_others()

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The first that is followed."""
        return self.followers.optimizers[0] if self.followers is not None else None

    @property
    def lr(self) -> float:
        """The learning rate that the strength refers to: the first followed optimizer's, else 1."""
        return float(self.optimizer.param_groups[0]["lr"]) if self.optimizer is not None else 1.0

    # -- the network's own parameters ----------------------------------------------------------------------------------

    def _hold_own(self) -> None:
        """Remember the parameters that the strategy works on from here on."""
        self._own = dict(self.model.named_parameters())
        self._count_others()

    def _require_own(self) -> None:
        """Refuse a network whose parameters are no longer those that the strategy reads, and silently goes on to.

        Raises:
            UsageError: as said.
        """
        now = dict(self.model.named_parameters())
        if len(now) == len(self._own) and all(now.get(name) is own for name, own in self._own.items()):
            return
        name = next(n for n in {**self._own, **now} if now.get(n) is not self._own.get(n))
        what = "another object than when the search began" if name in now and name in self._own else "new or gone"
        raise UsageError(
            f"the parameter {name!r} of search.model is {what}",
            "strategies and optimizers hold the network's parameters, which keep their places while it is searched",
            "load weights without assign=True, or before Search and the optimizer are made; and rewrite no parameters "
            "(parametrizations, pruning) while a search goes on",
        )

    # -- parameters of nobody ------------------------------------------------------------------------------------------

    def _count_others(self) -> None:
        """Find the parameters that may be trained and that no followed optimizer holds."""
        known = getattr(self, "_others", {})
        others = self.followers.others(self.model) if self.followers is not None else []
        self._others = {
            name: known[name] if name in known and known[name][0] is parameter else (parameter, parameter._version, 0)
            for name, parameter in others
        }

    def _require_followed(self) -> None:
        """Refuse to go on where somebody else trains a parameter, and would go on with the former one after a rewrite.

        Raises:
            UsageError: as said.
        """
        for name, (parameter, version, changes) in self._others.items():
            self._others[name] = (parameter, version, changes + 1 if parameter._version != version else 0)
        trained = [name for name, (_, _, changes) in self._others.items() if changes >= CERTAIN]
        if trained:
            raise UsageError(
                f"{few(trained)} of search.model: trained by an optimizer that is not followed",
                "units that leave exchange the network's parameters, in the optimizers that are followed",
                "follow all: search.follow([optimizer, other]), or search.follow(other) too",
            )

    def _see_others(self) -> None:
        """What changes from here on to the next step is not the search's doing."""
        for name, (parameter, _, changes) in self._others.items():
            self._others[name] = (parameter, parameter._version, changes)

    def _stays_for(self, until: str) -> str:
        """A note on the parameters that keep units in the network, or must be seen to."""
        return f"{few(list(self._others))} may be trained, and no optimizer that is followed holds it: {until}."


def few(names: list[str]) -> str:
    """The first of some names, and how many more."""
    rest = len(names) - 1
    return names[0] + (f" and {rest} other parameter{'s' * (rest > 1)}" if rest else "")
