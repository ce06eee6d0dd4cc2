"""``ms.Search``: a search inside the user's own training loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch import plugins
from morphsearch.arguments import named_arguments
from morphsearch.errors import BudgetError, InputError, UnknownName, UsageError
from morphsearch.files import load_into
from morphsearch.graph import record
from morphsearch.loop import live, morphing
from morphsearch.loop.architecture import Architecture, describe_inputs
from morphsearch.loop.budget import Budgets
from morphsearch.loop.changed import changes
from morphsearch.loop.checks import (
    check_arguments,
    check_examples,
    check_extra,
    check_kinds,
    check_rate,
    check_resume,
    check_useful,
    require_convolutions,
    require_ungated,
)
from morphsearch.loop.controller import HOLD, LET_GO, Controller
from morphsearch.loop.deciding import AUTO, by_network, check_named
from morphsearch.loop.hardware import hardware_for, keep_hardware
from morphsearch.loop.judging import measured
from morphsearch.loop.phasing import Phasing
from morphsearch.loop.pressing import spared_of
from morphsearch.loop.records import architecture_of, asked
from morphsearch.loop.rundir import RunDirectory, iteration_line
from morphsearch.strategies.registry import get as get_strategy
from morphsearch.strategies.widths import largest_multiplier, lowest

LOG_EVERY = 50  # steps between two lines of metrics.jsonl
MOST_PENALTIES = 1000  # without a step; more micro-batches than anybody accumulates
WARMUP, LATER_WARMUP = 0.2, 0.1  # share of the schedule without pressure, in the first morph and in later ones
MUCH = 0.1  # of a budget that is spent at the lowest possible widths already
PRICINGS = ("share", "unit")


class Search(Phasing):
    """Learns which units matter while the user trains :attr:`model`, then shrinks and expands it.

    Args:
        model: the seed.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments that the seed runs on.
        budget: one budget or several, such as ``"flops=50%"`` or ``"params<=1.2M"``; or a falling schedule of them,
            ``"flops=80%,65%,50%"``, one for each morph.
        strategy: name of a strategy, see ``morphsearch plugins``; ``"auto"``: `gamma-l1` where norms scale most units,
            else `taylor`, or `group-lasso` where a strength is given (of frozen networks `magnitude`, or
            `logistic-sigmoid`).
        run_dir: where architectures and metrics are saved; None saves nothing.
        steps: length of the shrinking schedule of a morph, in optimizer steps; without it the controller paces itself.
        strength: a fixed lambda instead of the controller's (per unit of learning rate: see :meth:`follow`).
        threshold: scores up to it are dead; default: the strategy's own, and at a morph the middle of the gap between
            the scores of the dead and the living, where there is one nearby.
        shrink_to: the share of the budget that a morph shrinks to before it expands; default 0.75 (of the room
            above the lowest possible cost, where that is much of the budget), or 1 without expansion and in a schedule
            of budgets.
        expand: fill the budget by widening what is left.
        limit: no group becomes wider than this many times what was kept of it.
        round_to: widths are multiples of it.
        warmup: share of `steps` in which nothing is pressed; default 0.2 in the first morph and 0.1 in later ones. A
            fixed `strength` presses from the first step.
        pricing: "share" (what one per cent of a group costs) or "unit" (what one unit costs, as in MorphNet).
        live: let dead units leave while training goes on, see :mod:`morphsearch.loop.live`; it takes :meth:`follow`.
        seed: of whatever is drawn at random.
        seed_spec: how the seed is built (``"resnet20"``), for files; None for networks that only the caller can build.
        strategy_options: keyword arguments of the strategy.
        hardware: for the cost latency: a hardware profile, its file or its name; default: the newest of this device. A
            run keeps a copy, and goes on with that.
        record_extra: what else ``run.json`` and the architectures should say (data, recipe).
        resume: go on with the run in `run_dir`, if there is one, from its last architecture and that one's weights.

    Attributes:
        run: the run directory, or None. model: the network to train: the same object, with smaller and smaller
            parameters, until :meth:`morph` makes a new one.
        graph: its graph. strategy: the strategy. strength: lambda as it is now.
        architectures: those found so far. over: whether a schedule of budgets is at its end.
        leaving: units that are dying, silent or gone in this morph, see :class:`morphsearch.loop.live.Leaving`.
        notes: what the user should know, a sentence each.

    Raises:
        GraphError: the network cannot be recorded, or has no convolution.
        BudgetError: the budget is below the lowest possible cost.
        UsageError: a budget that does not parse, a strategy that does not fit the network; a run in `run_dir` that is
            not to be resumed, or that was started with other arguments.
        InputError: with `resume`, a damaged run.
    """

    @named_arguments
    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        budget: str | Sequence[str],
        *,
        strategy: str = AUTO,
        run_dir: str | Path | None = None,
        steps: int | None = None,
        strength: float | None = None,
        threshold: float | None = None,
        shrink_to: float | None = None,
        expand: bool = True,
        limit: float = 4.0,
        round_to: int = 1,
        warmup: float | None = None,
        pricing: str = "share",
        live: bool = True,
        seed: int = 0,
        seed_spec: str | None = None,
        strategy_options: Mapping[str, Any] | None = None,
        hardware: Any = None,
        record_extra: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        check_kinds(
            budget=budget,
            strategy=strategy,
            strategy_options=strategy_options,
            pricing=pricing,
            record_extra=record_extra,
            run_dir=run_dir,
            hardware=hardware,
            seed_spec=seed_spec,
            expand=expand,
            live=live,
            resume=resume,
        )
        check_resume(resume, run_dir)
        check_extra(record_extra or {})
        check_examples(example_inputs)
        check_arguments(
            steps=steps,
            strength=strength,
            threshold=threshold,
            shrink_to=shrink_to,
            limit=limit,
            round_to=round_to,
            warmup=warmup,
            seed=seed,
        )
        if pricing not in PRICINGS:
            raise UnknownName.of("pricing", pricing, PRICINGS)
        self.pricing, self.live = pricing, live
        self.model, self.example_inputs = model, example_inputs
        self.inputs = describe_inputs(example_inputs)
        self.steps, self.fixed, self.warmup, self.seed = steps, strength, warmup, seed
        self.seed_spec, self.extra = seed_spec, dict(record_extra or {})
        self.strategy_options = dict(strategy_options or {})
        check_named(strategy, self.strategy_options)
        self.strategy_name = strategy
        if strategy != AUTO:  # before the network is recorded, which takes a while
            plugins.record("strategies", strategy, (AUTO,))
            self.strategy = get_strategy(strategy, **self.strategy_options)
            self._check_useful(expand, threshold, shrink_to)
        require_ungated(model)
        self.graph = record(model, example_inputs)
        require_convolutions(self.graph)
        if strategy == AUTO:
            self.strategy_name = by_network(strategy, self.graph, strength)
            self.strategy = get_strategy(self.strategy_name)
            self._check_useful(expand, threshold, shrink_to)
        self.seed_widths, self.decisions = dict(self.graph.widths), self.graph.decisions
        self.hardware = hardware_for(budget, hardware, run_dir if resume else None)
        self.budgets = Budgets(self.graph, budget, round_to=round_to, hardware=self.hardware)
        self.budgets.check(expand=expand)
        self.rules = morphing.Rules(
            threshold=float(self.strategy.default_threshold if threshold is None else threshold),
            shrink_to=self._room(expand) if shrink_to is None else shrink_to,
            expand=expand,
            limit=limit,
            round_to=round_to,
        )
        self.own_threshold = threshold is None
        self.architectures = []
        self.notes = []
        self.followers = None
        self.before_cut = self.after_cut = None
        self.run = None
        self.total_steps = 0
        self.over = self.detached = False
        self._begin_morph()
        if run_dir is not None:
            self._open(RunDirectory(run_dir), resume)

    def _check_useful(self, expand: bool, threshold: float | None, shrink_to: float | None) -> None:
        self._unused = check_useful(
            self.strategy,
            self.strategy_options,
            pricing=self.pricing,
            strength=self.fixed,
            threshold=threshold,
            shrink_to=shrink_to,
            steps=self.steps,
            warmup=self.warmup,
            expand=expand,
        )

    def _room(self, expand: bool) -> float:
        """The default of `shrink_to`: three quarters of the budget, or of its room above the lowest possible cost where
        that is much of it (latency, of which launches take their part at any widths)."""
        if not expand or self.budgets.stages > 1:
            return 1.0
        least = self.budgets.load(lowest(self.graph, round_to=self.budgets.round_to))
        return 0.75 if least <= MUCH else min(1.0, least + 0.75 * (1 - least))

    # -- while training --------------------------------------------------------------------------------------------

    @property
    def strength(self) -> float:
        """Lambda as it is now."""
        return self.controller.strength

    @named_arguments
    def regularized(self) -> set[str]:
        """Names of parameters that must stay out of weight decay, since the strategy regularizes them itself."""
        return self.strategy.regularized()

    @named_arguments
    def penalty(self) -> Tensor:
        """The strategy's penalty at this moment, a scalar to add to the loss.

        For strategies that act by a proximal step in :meth:`step` it carries no gradient; adding it shows the
        objective.

        Raises:
            UsageError: :meth:`step` was forgotten; or the schedule of budgets is at its end.
        """
        self._require_going_on("penalty()")
        self._penalties += 1
        if self._penalties > MOST_PENALTIES:
            raise UsageError(
                f"penalty() was called {MOST_PENALTIES} times without a step()",
                "step() does the pruning, once after every optimizer.step()",
                "call search.step() after optimizer.step()",
            )
        return self.strategy.penalty(self._prices, self.controller.strength)

    @named_arguments
    def step(self, lr: float | None = None) -> None:
        """To be called after every ``optimizer.step()``.

        Args:
            lr: the learning rate of that step; default: of the followed optimizer, else 1.

        Raises:
            DivergedError: scores are no longer finite.
            UsageError: the schedule of budgets is at its end; a followed optimizer has state that cannot be cut, or one
                that is not followed trains parameters of the network; or these were exchanged.
        """
        self._require_going_on("step()")
        self._penalties = 0
        rate = self.lr if lr is None else check_rate(lr)
        self._require_followed()
        if self.morph_step % self.controller.every == 0:
            self._require_own()
            self._count_others()
        if self.morph_step == 0:
            self._look(rate)
            if self.followers is not None:
                self.followers.check(self.model)
        self.strategy.progress = self.controller.progress(self.morph_step)
        self.strategy.after_step(self._prices, self.controller.strength, rate)
        self.leaving.hold()
        self.morph_step += 1
        self.total_steps += 1
        # After the strategy's step, which puts back to zero what the optimizer's has just brought to life.
        if self.morph_step % self.controller.every == 0:
            self._look(rate)
            if self._cut_due():
                self._cut()
        self._see_others()
        if self.run is not None and self.morph_step % LOG_EVERY == 0:
            self.run.log("step", iteration=len(self.architectures) + 1, step=self.total_steps, **self.status())

    @named_arguments
    def status(self) -> dict[str, Any]:
        """Costs and number of the units that are alive, how full they make the budget that binds, and the strength."""
        widths = self._alive_widths(self._facts())
        return {
            "costs": self.budgets.costs(widths),
            "load": self.budgets.load(widths),
            "binding": self.budgets.binding(widths),
            "alive": int(sum(widths[name] for name in self.graph.free)),
            "strength": self.controller.strength,
        }

    def _begin_morph(self) -> None:
        """Attach the strategy to the network as it is now, and pace anew."""
        self.strategy.detach()
        fits: Callable[[dict[str, int]], bool] = lambda widths: self.budgets.fits(widths, self.rules.shrink_to)  # noqa: E731
        try:
            self.strategy.uniform_share = largest_multiplier(self.graph, None, fits, limit=1.0)[0]
        except BudgetError:
            self.strategy.uniform_share = 0.0
        self._spared = spared_of(self.graph, self.strategy.uniform_share)
        self.strategy.attach(self.model, self.graph)
        self._hold_own()
        # Those of a former morph are in its architecture, and a run that is resumed here knows no others.
        self.notes = [*self.strategy.notes, *self._unused]
        self._prices = torch.ones(self.graph.num_units, dtype=torch.float64)
        self.leaving = live.Leaving.none(self.graph)
        self._start = self._start_load = None
        self._followed, self._phased = True, False
        self._threshold = self.rules.threshold
        self.morph_step = self._penalties = 0
        warmup = self.warmup if self.warmup is not None else (LATER_WARMUP if self.architectures else WARMUP)
        self.controller = Controller(
            self.steps, warmup=warmup, fixed=self.fixed, hold=LET_GO if self.strategy.rests else HOLD
        )

    # -- morphing --------------------------------------------------------------------------------------------------

    @named_arguments
    def morph(self, judge: Callable[[nn.Module], Mapping[str, float | None]] | None = None) -> Architecture:
        """Shrink to the units that matter, expand to the budget, save; :attr:`model` becomes the new network.

        Args:
            judge: called with the new network before it is saved; the numbers that it returns by name (validation
                accuracy and loss, say; tensors of one number will do) go into the file. It may re-estimate batch-norm
                statistics.

        Returns:
            An architecture that meets every budget, as counted again on the rebuilt network.

        Raises:
            GraphError: the network cannot follow. DivergedError: scores are not finite. InputError: it cannot be saved;
                then :attr:`model` is the former network still, and the morph can be repeated.
        """
        check_kinds(judge=judge)
        self._require_going_on("morph()")
        self._require_own()
        if self.followers is not None:
            self.followers.check(self.model)
            self._count_others()
        choice, rebuilt = self._rebuilt()
        choice.notes += self._unjudged()
        if self.followers is not None and self._others:
            choice.notes.append(self._stays_for("what trains it must be built anew, from search.model, as it is now"))
        metrics = measured(judge(rebuilt.network)) if judge is not None else {}
        architecture = architecture_of(self, choice, rebuilt, metrics)
        if self.run is not None:
            self.run.save(architecture, rebuilt.network.state_dict())
            self.run.log(**iteration_line(architecture))
        if self.followers is not None:
            self.followers.rewritten(self.model, rebuilt.network, rebuilt.plan)
        self._adopt(rebuilt, architecture)
        plugins.fire("morphsearch_iteration_end", search=self, architecture=architecture)
        return architecture

    def _adopt(self, rebuilt: morphing.Rebuilt, architecture: Architecture) -> None:
        self.model, self.graph = rebuilt.network, rebuilt.graph
        self.over = self.budgets.stages > 1 and self.budgets.last
        self.budgets = rebuilt.budgets.following()
        self.architectures.append(architecture)
        self._begin_morph()

    @named_arguments
    def detach(self) -> nn.Module:
        """End the search: :attr:`model`, which is returned, is a plain network from here on.

        Gates of the strategy are folded into the parameters: the network computes what it did in evaluation.
        """
        self.strategy.detach()
        self.detached = True
        return self.model

    # -- files -------------------------------------------------------------------------------------------------------

    def _open(self, run: RunDirectory, resume: bool) -> None:
        if not (resume and run.exists()):
            self.run = RunDirectory.create(run.path, asked(self), python="config" not in self.extra)
            keep_hardware(self.hardware, run.path)
            return
        now = asked(self)
        run.require_same(now)
        found = run.architectures()
        for text in changes(run.asked(), now, found):
            warnings.warn(text, stacklevel=4)
        for architecture in found:
            rebuilt = morphing.replay(self.graph, architecture, self.budgets, self.example_inputs)
            self._adopt(rebuilt, architecture)
            self.total_steps = int(architecture.record.get("steps", 0))
        if self.architectures:
            try:
                load_into(self.model, self.architectures[-1].weights())
            except RuntimeError as error:
                raise InputError(
                    f"the weights of {run.iteration(self.architectures[-1].name)} do not fit: {error}",
                    "they are those of the architecture beside them",
                    "restore the file from a copy, or search again",
                ) from error
        self.run = run
