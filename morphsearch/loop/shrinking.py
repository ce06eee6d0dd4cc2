"""What a search does about units that leave amid a morph: see :mod:`morphsearch.loop.live` for the rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from morphsearch.arguments import named_arguments
from morphsearch.errors import GraphError, InputError, UsageError
from morphsearch.loop import live, morphing
from morphsearch.loop.controller import Controller
from morphsearch.loop.following import Following
from morphsearch.loop.inplace import exchange
from morphsearch.loop.live import Leaving
from morphsearch.loop.selection import Facts, from_positions, widths_of

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph
    from morphsearch.loop.architecture import Architecture
    from morphsearch.loop.budget import Budgets
    from morphsearch.loop.rundir import RunDirectory


class Shrinking(Following):
    """The part of :class:`~morphsearch.loop.session.Search` that lets units leave, and saves and restores amid a morph.

    Attributes:
        leaving: who is dying, silent or gone.
        before_cut, after_cut: called around every rebuild; `before_cut` may raise.
    """

    graph: ConvGraph
    example_inputs: Any
    budgets: Budgets
    rules: morphing.Rules
    controller: Controller
    run: RunDirectory | None
    architectures: list[Architecture]
    morph_step: int
    total_steps: int
    leaving: Leaving
    before_cut: Callable[[], None] | None
    after_cut: Callable[[], None] | None
    _prices: Tensor
    _start: tuple[nn.Module, ConvGraph] | None  # the network and its graph as they were before anyone left
    _start_load: float | None
    _followed: bool  # the network could follow every rebuild so far

    def _silence(self, facts: Facts) -> None:
        """Fade the units that are dead and silence those that have been for long enough."""
        target, before = self.rules.shrink_to, self.leaving.silent.sum()
        if self.strategy.presses:
            dying = self.leaving.dying(facts, lambda w: self.budgets.fits(w, target), self.rules.round_to)
            self.leaving.look(self.model, dying, live.PATIENCE)
        elif self.controller.pressing(self.morph_step):
            allowed = self._allowed(target)
            ranked = self.leaving.ranked(
                facts, lambda w: self.budgets.fits(w, allowed), self.rules.threshold, self.rules.round_to
            )
            self.leaving.look(self.model, ranked, 1)
        if self.leaving.silent.sum() > before:
            self._count_again()
            if self.followers is not None:
                self.leaving.hush(self.followers.optimizers)

    def _count_again(self) -> None:
        """Layers that are silent with their branch cost nothing any more: prices are those that a cut would give."""
        widths = widths_of(self.graph, self.leaving.present)
        if any(not widths[name] for name in self.graph.free):
            self.budgets = self.budgets.rebound(self.graph.left_at(widths))

    def _allowed(self, target: float) -> float:
        """The load that a strategy without pressure of its own may have by now."""
        if self._start_load is None:
            self._start_load = max(target, self.budgets.load(self.graph.widths))
        controller = self.controller
        steps = controller.steps
        end = live.RANKED_BY * steps + controller.delay if steps is not None else controller.begin + controller.horizon
        return live.cubic(self.morph_step, controller.begin, end, self._start_load, target)

    def _cut_due(self) -> bool:
        if not (self.live and self._followed and self.leaving.silent.any()) or self.followers is None:
            return False
        if self._others:
            note = self._stays_for("units that left stay in the network, masked, until the morph")
            self.notes += [note] if note not in self.notes else []
            return False
        steps = self.controller.steps
        left = None if steps is None else max(0, steps - self.morph_step)
        return self.leaving.worth(self.leaving.cut(), self.budgets.costs, left)

    def _cut(self) -> None:
        """Rebuild without silent units, in place. Where the network cannot follow, they stay masked; a note says so."""
        assert self.followers is not None
        self.followers.check(self.model)
        if self.before_cut is not None:
            self.before_cut()
        positions = self.leaving.positions(self.leaving.cut())
        flops = self.budgets.costs(self.graph.widths)["flops"]
        try:
            with self.strategy.plain():
                rebuilt = morphing.without(self.graph, positions, self.budgets, self.example_inputs)
        except GraphError as error:
            self._followed = False
            self.notes.append(f"Units that left stay in the network, masked, until the morph: {error.arrived}.")
            return
        self._go_on_with(rebuilt, positions)
        if self.run is not None:
            costs = self.budgets.costs(self.graph.widths)
            self.run.log(
                "shrunk",
                iteration=len(self.architectures) + 1,
                step=self.total_steps,
                left=self.leaving.gone,
                flops_saved=1 - costs["flops"] / flops,
                costs=costs,
            )
        if self.after_cut is not None:
            self.after_cut()

    def _go_on_with(self, rebuilt: morphing.Rebuilt, positions: Mapping[str, list[int]]) -> None:
        """Put a network without some units in the place of :attr:`model`."""
        kept = np.nonzero(from_positions(self.graph, dict(positions)))[0]
        if self.followers is not None:
            self.followers.rewritten(self.model, rebuilt.network, rebuilt.plan)
        former = self.graph
        exchange(former, rebuilt.graph)  # from here on rebuilt.network is what the model was
        if self._start is None:
            self._start = rebuilt.network, former
        self.leaving = self.leaving.after(rebuilt.graph, positions)
        self.graph, self.budgets = rebuilt.graph, rebuilt.budgets
        self.strategy.leave(self.model, self.graph, torch.from_numpy(kept))
        self._prices = self._prices[torch.from_numpy(kept)]
        self.leaving.hold_these(self.model)
        self._hold_own()

    def _go_back(self) -> None:
        """Undo every cut of this morph; weights and states are those of then or none, and loaded next."""
        if self._start is None:
            return
        network, graph = self._start
        if self.followers is not None:
            self.followers.restarted(self.model, network)
        exchange(self.graph, graph)
        self._start = None
        self.graph, self.budgets = graph, self.budgets.rebound(graph)
        self.leaving = Leaving.none(graph)
        self._prices = torch.ones(graph.num_units, dtype=torch.float64)
        self.strategy.attach(self.model, graph)
        self._hold_own()

    # -- files -------------------------------------------------------------------------------------------------------

    @named_arguments(title="Search.state")
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a search that is resumed amid a morph needs beside the model's weights and the saved architectures."""
        tensors, state = self.strategy.state_dict()
        held = {f"strategy.{name}": tensor.clone() for name, tensor in tensors.items()}
        held["prices"] = self._prices.clone()
        held |= {f"leaving.{name}": tensor for name, tensor in self.leaving.tensors().items()}
        return held, {
            "strategy": state,
            "morph_step": self.morph_step,
            "total_steps": self.total_steps,
            "controller": self.controller.state(),
            "architectures": len(self.architectures),
            "cuts": self.leaving.cuts,
            "start_load": self._start_load,
            "followed": self._followed,
            "notes": self.notes,
        }

    @named_arguments(title="Search.load_state")
    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`, within the same morph: units that had left by then leave again.

        Load the weights and the optimizer's state afterwards; they are of the widths of then.

        Raises:
            InputError: the state is of another network or another morph, or is damaged. UsageError: it is not one.
        """
        if not (isinstance(tensors, Mapping) and isinstance(state, Mapping)):
            raise UsageError(
                f"load_state() got a {type(tensors).__name__} and a {type(state).__name__}",
                "it takes the two dicts that Search.state() gave, tensors and then data",
                "call search.load_state(*state), where state is what search.state() returned",
            )
        if isinstance(state.get("architectures"), int) and state["architectures"] != len(self.architectures):
            raise another_morph(state["architectures"], len(self.architectures), self.run is not None)
        own = {k.removeprefix("strategy."): v for k, v in tensors.items() if k.startswith("strategy.")}
        try:
            state["architectures"]
            self._go_back()
            for positions in state["cuts"]:
                with self.strategy.plain():
                    rebuilt = morphing.without(self.graph, positions, self.budgets, self.example_inputs)
                self._go_on_with(rebuilt, positions)
            if len(tensors["prices"]) != self.graph.num_units:
                raise ValueError("it belongs to another network")
            self.leaving.looks = tensors["leaving.looks"].numpy().copy()
            self.leaving.silent = tensors["leaving.silent"].numpy().copy()
            self.leaving.hold_these(self.model)
            self._count_again()
            self._start_load, self.notes = state["start_load"], list(state["notes"])
            self._followed = bool(state["followed"])
            self.strategy.load_state_dict(own, state["strategy"])
            self._prices = tensors["prices"].clone()
            self.morph_step, self.total_steps = int(state["morph_step"]), int(state["total_steps"])
            self.controller = Controller(**state["controller"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the saved state of the search cannot be used: {error}",
                "a state holds all that Search.state() gave, unchanged",
                "take a copy that is whole, or delete the checkpoint to repeat this morph",
            ) from error


def another_morph(then: int, now: int, has_run: bool) -> InputError:
    """The error for a state of another morph: `then` and `now` count the architectures found before."""
    if then < now:
        rule = "a state is gone on with in its own morph, which is over here"
        repair = "take the state of this morph, or search anew, with resume=False and another run_dir"
    else:
        rule = "a state holds its own morph; the networks of those before are in the run directory"
        repair = (
            "take the run_dir that the state was taken in"
            if has_run
            else "make the Search with the run_dir that the former one had, and resume=True, and load the state then "
            "(without a run_dir, a state can be gone on with in the first morph only)"
        )
    return InputError(
        f"the saved state of the search cannot be used: it belongs to morph {then + 1}, and this is morph {now + 1}",
        rule,
        repair,
    )
