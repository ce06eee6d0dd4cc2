"""``ms.Search``: a search inside the user's own training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from morphsearch import plugins
from morphsearch.errors import DivergedError, InputError, UnknownName, UsageError
from morphsearch.graph import record
from morphsearch.loop import morphing
from morphsearch.loop.architecture import Architecture, describe_inputs
from morphsearch.loop.budget import Budgets
from morphsearch.loop.checks import check_arguments, require_convolutions, versions
from morphsearch.loop.controller import Controller
from morphsearch.loop.follow import rebind
from morphsearch.loop.rundir import RunDirectory, iteration_line
from morphsearch.loop.schema import finite
from morphsearch.loop.selection import Facts, death_order, fewest_deaths, free_units, kept_positions, protect, widths_of
from morphsearch.strategies.registry import get as get_strategy

LOG_EVERY = 50  # steps between two lines of metrics.jsonl
WARMUP, LATER_WARMUP = 0.25, 0.1  # share of the schedule without pressure, in the first morph and in later ones

PRICINGS = ("share", "unit")


class Search:
    """Learns which units matter while the user trains :attr:`model`, then shrinks and expands it.

    Args:
        model: the seed.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments that the seed runs on.
        budget: one budget or several, such as ``"flops=50%"`` or ``"params<=1.2M"``.
        strategy: name of a strategy, see ``morphsearch plugins``.
        run_dir: where architectures and metrics are saved; None saves nothing.
        steps: length of the shrinking schedule of a morph, in optimizer steps; without it the controller paces itself.
        strength: a fixed lambda instead of the controller's (per unit of learning rate: see :meth:`follow`).
        threshold: scores up to it are dead; default: the strategy's own.
        shrink_to: the share of the budget that a morph shrinks to before it expands; default 0.75, or 1 without
            expansion.
        expand: fill the budget by widening what is left.
        limit: no group becomes wider than this many times what was kept of it.
        round_to: widths are multiples of it.
        warmup: share of `steps` in which nothing is pressed; default 0.25 in the first morph and 0.1 in later ones.
        pricing: "share" (what one per cent of a group costs) or "unit" (what one unit costs, as in MorphNet).
        seed: of whatever is drawn at random.
        seed_spec: how the seed is built (``"resnet20"``), for files; None for networks that only the caller can build.
        strategy_options: keyword arguments of the strategy.
        record_extra: what else ``run.json`` and the architectures should say (data, recipe).
        resume: go on with the run in `run_dir`, if there is one, from its last architecture and that one's weights.

    Attributes:
        run: the run directory, or None. model: the network to train; after :meth:`morph` the new one.
        graph: its graph. strategy: the strategy. strength: lambda as it is now.
        architectures: those found so far.
        notes: what the user should know, a sentence each.

    Raises:
        GraphError: the network cannot be recorded, or has no convolution.
        BudgetError: the budget is below the lowest possible cost.
        UsageError: a budget that does not parse, a strategy that does not fit the network; a run in `run_dir` that is
            not to be resumed, or that was started with other arguments.
        InputError: with `resume`, a damaged run.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        budget: str | Sequence[str],
        *,
        strategy: str = "gamma-l1",
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
        seed: int = 0,
        seed_spec: str | None = None,
        strategy_options: Mapping[str, Any] | None = None,
        record_extra: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
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
        self.pricing = pricing
        self.model, self.example_inputs = model, example_inputs
        self.inputs = describe_inputs(example_inputs)
        self.steps, self.fixed, self.warmup, self.seed = steps, strength, warmup, seed
        self.seed_spec, self.extra = seed_spec, dict(record_extra or {})
        self.strategy_name, self.strategy_options = strategy, dict(strategy_options or {})
        self.strategy = get_strategy(strategy, **self.strategy_options)
        self.rules = morphing.Rules(
            threshold=float(self.strategy.default_threshold if threshold is None else threshold),
            shrink_to=shrink_to if shrink_to is not None else (0.75 if expand else 1.0),
            expand=expand,
            limit=limit,
            round_to=round_to,
        )
        self.graph = record(model, example_inputs)
        require_convolutions(self.graph)
        self.seed_widths, self.decisions = dict(self.graph.widths), self.graph.decisions
        self.budgets = Budgets(self.graph, budget, round_to=round_to)
        self.budgets.check(expand=expand)
        self.architectures: list[Architecture] = []
        self.notes: list[str] = []
        self.optimizer: torch.optim.Optimizer | None = None
        self.run: RunDirectory | None = None
        self.total_steps = 0
        self._begin_morph()
        if run_dir is not None:
            self._open(RunDirectory(run_dir), resume)

    # -- while training --------------------------------------------------------------------------------------------

    @property
    def strength(self) -> float:
        """Lambda as it is now."""
        return self.controller.strength

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Let :meth:`morph` exchange this optimizer's parameters and state, and read the learning rate from it."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not held & {id(p) for p in self.model.parameters()}:
            raise UsageError(
                "the optimizer holds no parameter of search.model",
                "follow() takes the optimizer that trains search.model",
                "build it from search.model.parameters(), after Search was made",
            )
        self.optimizer = optimizer

    @property
    def lr(self) -> float:
        """The learning rate that the strength refers to: the followed optimizer's, else 1."""
        return float(self.optimizer.param_groups[0]["lr"]) if self.optimizer is not None else 1.0

    def regularized(self) -> set[str]:
        """Names of parameters that must stay out of weight decay, since the strategy regularizes them itself."""
        return self.strategy.regularized()

    def penalty(self) -> Tensor:
        """The strategy's penalty at this moment, a scalar to add to the loss.

        For strategies that act by a proximal step in :meth:`step` it carries no gradient; adding it shows the
        objective.
        """
        return self.strategy.penalty(self._prices, self.controller.strength)

    def step(self, lr: float | None = None) -> None:
        """To be called after every ``optimizer.step()``.

        Args:
            lr: the learning rate of that step; default: of the followed optimizer, else 1.

        Raises:
            DivergedError: scores are no longer finite.
        """
        rate = self.lr if lr is None else lr
        if self.morph_step == 0:
            self._look(rate)
        if self.controller.strength:
            self.strategy.after_step(self._prices, self.controller.strength, rate)
        self.morph_step += 1
        self.total_steps += 1
        # After the strategy's step, which puts back to zero what the optimizer's has just brought to life.
        if self.morph_step % self.controller.every == 0:
            self._look(rate)
        if self.run is not None and self.morph_step % LOG_EVERY == 0:
            self.run.log("step", iteration=len(self.architectures) + 1, step=self.total_steps, **self.status())

    def status(self) -> dict[str, Any]:
        """Costs and number of the units that are alive, how full they make the budget, and the strength."""
        widths = self._alive_widths(self._facts())
        return {
            "costs": self.budgets.costs(widths),
            "load": self.budgets.load(widths),
            "alive": int(sum(widths[name] for name in self.graph.free)),
            "strength": self.controller.strength,
        }

    def _look(self, lr: float) -> None:
        """Read scores, price units at the widths that are alive, and set the strength."""
        facts = self._facts()
        widths = self._alive_widths(facts)
        facts.price = self._reprice(widths)
        need, fullness, target = 0.0, 1.0, self.rules.shrink_to
        if self.controller.fixed is None and self.controller.pressing(self.morph_step):
            order, needs = death_order(self.graph, facts, self.rules.threshold, self.rules.round_to)
            count, _ = fewest_deaths(self.graph, order, lambda widths: self.budgets.fits(widths, target))
            need = float(needs[count - 1]) if count else 0.0
            fullness = self.budgets.load(widths) / target
        self.controller.update(self.morph_step, need, lr, fullness)

    def _reprice(self, widths: Mapping[str, int]) -> np.ndarray:
        """Set and return the `u` prices at these widths, with mean 1 over the units that may leave.

        With ``pricing="share"`` the price of a unit is multiplied by the number of alive units of its group: it is then
        the price of a given *share* of the group. Pressure by the unit's own price alone strips the early layers, whose
        few channels are dear, and nothing resists: a norm that follows takes out whatever scales a whole layer down.
        """
        price: np.ndarray = self.budgets.prices(widths).numpy().clip(min=0.0)
        if self.pricing == "share":
            price = price * np.array([widths[name] for name in self.graph.groups], np.float64)
        price = price[self.graph.unit_group]
        mean = price[free_units(self.graph)].mean()
        price = price / (mean if mean > 0 else 1.0)
        self._prices = torch.from_numpy(price)
        return price

    def _facts(self) -> Facts:
        score = self.strategy.scores().detach().double().cpu().numpy()
        if not np.isfinite(score).all():
            raise DivergedError(
                "the scores of some units are not finite",
                "a network whose weights are not finite has nothing to tell",
                "lower the learning rate, clip gradients, or train in float32; the last saved state is kept",
            )
        judged = self.strategy.scored().cpu().numpy()
        alive = self.strategy.alive(self.rules.threshold).cpu().numpy()
        return Facts(score, self._prices.numpy(), judged, alive)

    def _alive_widths(self, facts: Facts) -> dict[str, int]:
        return widths_of(self.graph, protect(self.graph, facts.alive, facts.score, self.rules.round_to)[0])

    def _begin_morph(self) -> None:
        """Attach the strategy to the network as it is now, and pace anew."""
        self.strategy.attach(self.model, self.graph)
        self.notes += [note for note in self.strategy.notes if note not in self.notes]
        self._prices = torch.ones(self.graph.num_units, dtype=torch.float64)
        self.morph_step = 0
        warmup = self.warmup if self.warmup is not None else (LATER_WARMUP if self.architectures else WARMUP)
        self.controller = Controller(self.steps, warmup=warmup, fixed=self.fixed)

    # -- morphing --------------------------------------------------------------------------------------------------

    def morph(self, judge: Callable[[nn.Module], Mapping[str, float | None]] | None = None) -> Architecture:
        """Shrink to the units that matter, expand to the budget, save; :attr:`model` becomes the new network.

        Args:
            judge: called with the new network before it is saved; the numbers that it returns (validation accuracy and
                loss, say) go into the file. It may re-estimate batch-norm statistics.

        Returns:
            An architecture that meets every budget, as counted again on the rebuilt network.

        Raises:
            GraphError: the network cannot follow. DivergedError: scores are not finite. InputError: it cannot be saved;
                then :attr:`model` is the former network still, and the morph can be repeated.
        """
        choice = self._choice()
        number = len(self.architectures)
        rebuilt = morphing.rebuild(self.graph, choice, self.budgets, self.example_inputs, self.seed + number)
        metrics = dict(finite(dict(judge(rebuilt.network)))) if judge is not None else {}
        architecture = self._architecture(choice, rebuilt, metrics)
        if self.run is not None:
            self.run.save(architecture, rebuilt.network.state_dict())
            self.run.log(**iteration_line(architecture))
        if self.optimizer is not None:
            rebind(self.optimizer, self.model, rebuilt.network, rebuilt.plan)
        self._adopt(rebuilt, architecture)
        plugins.fire("morphsearch_iteration_end", search=self, architecture=architecture)
        return architecture

    def _choice(self) -> morphing.Choice:
        if not self.strategy.needs_training:
            rng = np.random.default_rng([self.seed, len(self.architectures)])
            return morphing.propose(self.graph, self.strategy, self.budgets, self.rules, rng)
        facts = self._facts()
        facts.price = self._reprice(self._alive_widths(facts))
        return morphing.choose(self.graph, facts, self.budgets, self.rules)

    def _architecture(
        self, choice: morphing.Choice, rebuilt: morphing.Rebuilt, metrics: dict[str, float | None]
    ) -> Architecture:
        trained = self.strategy.needs_training
        return Architecture(
            name=f"{len(self.architectures) + 1:03d}",
            seed_spec=self.seed_spec,
            inputs=self.inputs,
            widths=dict(rebuilt.graph.widths),
            seed_widths=self.seed_widths,
            floors={name: group.floor for name, group in rebuilt.graph.groups.items()},
            kept=kept_positions(self.graph, choice.multiplicity),
            costs=rebuilt.budgets.described(rebuilt.graph.widths),
            budgets=self.budgets.record(),
            strategy=self.strategy_name,
            strength=finite(self.controller.strength) if trained else None,
            threshold=finite(self.rules.threshold) if trained else None,
            multiplier=choice.multiplier,
            parent=self.architectures[-1].name if self.architectures else None,
            metrics=metrics,
            decisions=self.decisions,
            notes=[*self.notes, *choice.notes],
            record={**versions(), "steps": self.total_steps, **self._settings(), **self.extra},
        )

    def _adopt(self, rebuilt: morphing.Rebuilt, architecture: Architecture) -> None:
        self.model, self.graph, self.budgets = rebuilt.network, rebuilt.graph, rebuilt.budgets
        self.architectures.append(architecture)
        self._begin_morph()

    # -- records -----------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        """The arguments that a search is repeated with, beside network, budget and strategy."""
        return {
            "seed": self.seed,
            "schedule": self.steps,
            "warmup": self.warmup,
            "pricing": self.pricing,
            "strength": self.fixed,
            "threshold": self.rules.threshold,
            "expand": self.rules.expand,
            "shrink_to": self.rules.shrink_to,
            "limit": self.rules.limit,
            "round_to": self.rules.round_to,
            "strategy_options": self.strategy_options,
        }

    def asked(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        asked = {
            "seed_spec": self.seed_spec,
            "inputs": self.inputs,
            "seed_widths": self.seed_widths,
            "seed_costs": self.budgets.seed_costs,
            "budgets": self.budgets.record(),
            "strategy": self.strategy_name,
            **self._settings(),
            "decisions": self.decisions,
            "versions": versions(),
            **self.extra,
        }
        return {key: finite(value) for key, value in asked.items()}

    def _open(self, run: RunDirectory, resume: bool) -> None:
        if not (resume and run.exists()):
            self.run = RunDirectory.create(run.path, self.asked())
            return
        run.require_same(self.asked())
        for architecture in run.architectures():
            rebuilt = morphing.replay(self.graph, architecture, self.budgets, self.example_inputs)
            self._adopt(rebuilt, architecture)
            self.total_steps = int(architecture.record.get("steps", 0))
        if self.architectures:
            try:
                self.model.load_state_dict(self.architectures[-1].weights())
            except RuntimeError as error:
                raise InputError(
                    f"the weights of {run.iteration(self.architectures[-1].name)} do not fit: {error}",
                    "they are those of the architecture beside them",
                    "restore the file from a copy, or search again",
                ) from error
        self.run = run

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a search that is resumed amid a morph needs beside the model's weights and the saved architectures."""
        tensors, state = self.strategy.state_dict()
        held = {f"strategy.{name}": tensor for name, tensor in tensors.items()}
        held["prices"] = self._prices.clone()
        return held, {
            "strategy": state,
            "morph_step": self.morph_step,
            "total_steps": self.total_steps,
            "controller": self.controller.state(),
            "architectures": len(self.architectures),
        }

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`, within the same morph.

        Raises:
            InputError: the state is of another network or another morph, or is not one.
        """
        own = {k.removeprefix("strategy."): v for k, v in tensors.items() if k.startswith("strategy.")}
        try:
            if state["architectures"] != len(self.architectures) or len(tensors["prices"]) != self.graph.num_units:
                raise ValueError(f"it belongs to morph {state['architectures'] + 1}")
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
