"""``ms.Search``: a search inside the user's own training loop."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from morphsearch import plugins
from morphsearch.errors import DivergedError, GraphError, UsageError
from morphsearch.graph import record
from morphsearch.graph.fresh import break_symmetry, share_columns
from morphsearch.loop.architecture import Architecture, describe_inputs
from morphsearch.loop.budget import Budgets
from morphsearch.loop.controller import Controller
from morphsearch.loop.follow import rebind
from morphsearch.loop.rundir import RunDirectory, finite
from morphsearch.loop.selection import (
    Facts,
    death_order,
    expansion,
    fewest_deaths,
    fill_up,
    free_units,
    from_positions,
    kept_positions,
    occurrences,
    protect,
    widths_of,
)
from morphsearch.strategies.registry import get as get_strategy

LOG_EVERY = 50  # steps between two lines of metrics.jsonl


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
        shrink_to: the share of the budget that a morph shrinks to before it expands; default 0.75, or 1 without expansion.
        expand: fill the budget by widening what is left.
        limit: no group becomes wider than this many times what was kept of it.
        round_to: widths are multiples of it.
        warmup: share of `steps` in which nothing is pressed; default 0.25 in the first morph and 0.1 in later ones.
        seed: of whatever is drawn at random.
        seed_spec: how the seed is built (``"resnet20"``), for files; None for networks that only the caller can build.
        strategy_options: keyword arguments of the strategy.
        record_extra: what else ``run.json`` and the architectures should say (data, recipe).

    Attributes:
        model: the network to train; after :meth:`morph` the new one.
        graph: its graph. strategy: the strategy. strength: lambda as it is now.
        architectures: those found so far.
        notes: what the user should know, a sentence each.

    Raises:
        GraphError: the network cannot be recorded, or has no convolution.
        BudgetError: the budget is below the lowest possible cost.
        UsageError: a budget that does not parse, a strategy that does not fit the network, an existing run.
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
        seed: int = 0,
        seed_spec: str | None = None,
        strategy_options: Mapping[str, Any] | None = None,
        record_extra: Mapping[str, Any] | None = None,
        _create: bool = True,
    ) -> None:
        _check_arguments(steps, strength, threshold, shrink_to, limit, round_to, warmup)
        self.model, self.example_inputs = model, example_inputs
        self.inputs = describe_inputs(example_inputs)
        self.steps, self.fixed, self.expand = steps, strength, expand
        self.limit, self.round_to, self.warmup, self.seed = limit, round_to, warmup, seed
        self.shrink_to = shrink_to if shrink_to is not None else (0.75 if expand else 1.0)
        self.seed_spec, self.extra = seed_spec, dict(record_extra or {})
        self.strategy = get_strategy(strategy, **dict(strategy_options or {}))
        self.strategy_name, self.strategy_options = strategy, dict(strategy_options or {})
        self.threshold = threshold if threshold is not None else self.strategy.default_threshold
        self.graph = record(model, example_inputs)
        require_convolutions(self.graph)
        self.seed_widths, self.decisions = dict(self.graph.widths), self.graph.decisions
        self.budgets = Budgets(self.graph, budget, round_to=round_to)
        self.budgets.check(expand=expand)
        self.architectures: list[Architecture] = []
        self.notes: list[str] = []
        self.optimizer: torch.optim.Optimizer | None = None
        self.run: RunDirectory | None = None
        self.strategy.attach(self.model, self.graph)
        self._begin_morph()
        if run_dir is not None:
            self.run = RunDirectory.create(run_dir, self.asked()) if _create else RunDirectory.open(run_dir)

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

        For strategies that act by a proximal step in :meth:`step` it carries no gradient: adding it shows the objective.
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
        if self.morph_step % self.controller.every == 0:
            self._look(rate)
        if self.controller.strength:
            self.strategy.after_step(self._prices, self.controller.strength, rate)
        self.morph_step += 1
        self.total_steps += 1
        if self.run is not None and self.morph_step % LOG_EVERY == 0:
            self.run.log("step", iteration=len(self.architectures) + 1, step=self.total_steps, **self.status())

    def status(self) -> dict[str, Any]:
        """Costs of what is alive, alive units, strength and how full the budget is."""
        widths = widths_of(self.graph, self._alive())
        return {
            "costs": self.budgets.costs(widths),
            "load": self.budgets.load(widths),
            "alive": int(sum(widths[name] for name in self.graph.free)),
            "strength": self.controller.strength,
        }

    def _look(self, lr: float) -> None:
        """Read scores, price units at the widths that are alive, and set the strength."""
        alive = self._alive()
        group_prices = self.budgets.prices(widths_of(self.graph, alive)).numpy()
        price = np.maximum(group_prices, 0.0)[self.graph.unit_group]
        mean = price[self._free].mean() if self._free.any() else 1.0
        price = price / (mean if mean > 0 else 1.0)
        self._price = price
        self._prices = torch.from_numpy(price)
        if self.controller.fixed is not None or not self.controller.pressing(self.morph_step):
            self.controller.update(self.morph_step, 0.0, lr)
            return
        facts = self._facts()
        order, need = death_order(self.graph, facts, self.threshold, self.round_to)
        count, _ = fewest_deaths(self.graph, order, lambda w: self.budgets.fits(w, self.shrink_to))
        pressure = float(need[count - 1]) if count else 0.0
        self.controller.update(self.morph_step, pressure, lr)

    def _facts(self) -> Facts:
        score = self.strategy.scores().detach().double().cpu().numpy()
        if not np.isfinite(score).all():
            raise DivergedError(
                "the scores of some units are not finite",
                "a network whose weights are not finite has nothing to tell",
                "lower the learning rate, clip gradients, or train in float32; the last saved state is kept",
            )
        judged = self.strategy.scored().cpu().numpy()
        alive = self.strategy.alive(self.threshold).cpu().numpy()
        return Facts(score, self._price, judged, alive)

    def _alive(self) -> np.ndarray:
        facts = self._facts()
        return protect(self.graph, facts.alive, facts.score, self.round_to)[0]

    def _begin_morph(self) -> None:
        self._free = free_units(self.graph)
        self._price = np.ones(self.graph.num_units)
        self._prices = torch.ones(self.graph.num_units, dtype=torch.float64)
        self.morph_step = 0
        self.total_steps = getattr(self, "total_steps", 0)
        warmup = self.warmup if self.warmup is not None else (0.1 if self.architectures else 0.25)
        self.controller = Controller(self.steps, warmup=warmup, fixed=self.fixed)
        self.notes += [note for note in self.strategy.notes if note not in self.notes]

    # -- morphing --------------------------------------------------------------------------------------------------

    def morph(self, judge: Callable[[nn.Module], Mapping[str, float | None]] | None = None) -> Architecture:
        """Shrink to the units that matter, expand to the budget, save; :attr:`model` becomes the new network.

        Args:
            judge: called with the new network before it is saved; the numbers that it returns (validation accuracy and
                loss, say) go into the file. It may re-estimate batch-norm statistics.

        Returns:
            An architecture that meets every budget, as counted again on the rebuilt network.
        """
        notes: list[str] = []
        if not self.strategy.needs_training:
            multiplier, widths, multiplicity = self._proposed()
        else:
            multiplier, widths, multiplicity = self._chosen(notes)
        network, plan = self.graph.planned(multiplicity)
        share_columns(network, plan)
        break_symmetry(network, plan, 0.1, torch.Generator().manual_seed(self.seed + len(self.architectures)))
        network.train(self.model.training)
        graph = record(network, self.example_inputs, decisions=self.decisions)
        self._require_same(graph, widths)
        if self.optimizer is not None:
            rebind(self.optimizer, self.model, network, plan)
        parent = self.architectures[-1].name if self.architectures else None
        kept = kept_positions(self.graph, multiplicity)
        self.model, self.graph = network, graph
        self.budgets.rebind(graph)
        costs = self.budgets.costs(graph.widths)
        architecture = Architecture(
            name=f"{len(self.architectures) + 1:03d}",
            seed_spec=self.seed_spec,
            inputs=self.inputs,
            widths=dict(graph.widths),
            seed_widths=self.seed_widths,
            floors={name: group.floor for name, group in graph.groups.items()},
            kept=kept,
            costs={name: {"total": total, "unit": self.budgets.unit(name)} for name, total in costs.items()},
            budgets=self.budgets_record(),
            strategy=self.strategy_name,
            strength=finite(self.controller.strength),
            threshold=finite(float(self.threshold)),
            multiplier=multiplier,
            parent=parent,
            metrics=dict(finite(dict(judge(network)))) if judge is not None else {},
            decisions=self.decisions,
            notes=[*self.notes, *notes],
            record={**versions(), "seed": self.seed, "steps": self.total_steps, **self.extra},
        )
        self.architectures.append(architecture)
        self.strategy.attach(self.model, self.graph)
        self._begin_morph()
        self._save(architecture)
        return architecture

    def _save(self, architecture: Architecture) -> None:
        """Save an architecture with the weights of :attr:`model`, log it, and tell the plugins."""
        if self.run is not None:
            self.run.save(architecture, self.model.state_dict())
            costs = {name: entry["total"] for name, entry in architecture.costs.items()}
            self.run.log("iteration", iteration=architecture.name, costs=costs, **architecture.metrics)
        plugins.fire("morphsearch_iteration_end", search=self, architecture=architecture)

    def _proposed(self) -> tuple[float, dict[str, int], np.ndarray]:
        rng = np.random.default_rng([self.seed, len(self.architectures)])
        widths = self.strategy.propose(self.graph, self.budgets.fits, rng, round_to=self.round_to)
        if widths is None:
            raise GraphError(
                f"strategy {self.strategy_name!r} proposes no widths", "a strategy that needs no training proposes widths", "report it"
            )
        widths = self.graph.check_widths(widths)
        everyone = np.ones(self.graph.num_units, bool)
        widths = fill_up(self.graph, widths, self.budgets.fits, limit=self.limit, round_to=self.round_to)
        return 1.0, widths, occurrences(self.graph, everyone, np.zeros(self.graph.num_units), widths)

    def _chosen(self, notes: list[str]) -> tuple[float, dict[str, int], np.ndarray]:
        self._look(self.lr)
        facts = self._facts()
        alive, rescued = protect(self.graph, facts.alive, facts.score, self.round_to)
        if rescued:
            notes.append(f"Every unit of {_few(rescued)} was dead; the best were kept, as the floor demands.")
        if alive[self._free].all():
            notes.append(
                "No unit died in training. The strength was too small for these steps, or the learning rate too low; "
                "units were removed by rank."
            )
        share = self.shrink_to
        if not self.budgets.fits(widths_of(self.graph, alive), share):
            order, _ = death_order(self.graph, facts, self.threshold, self.round_to)
            order = order[alive[order]]
            before = int(alive.sum())
            _, alive = fewest_deaths(self.graph, order, lambda w: self.budgets.fits(w, share), alive)
            notes.append(
                f"{before - int(alive.sum())} units above the threshold were removed too, lowest score per price first, "
                "since what was alive did not meet the budget."
            )
        kept = widths_of(self.graph, alive)
        multiplier, widths = expansion(
            self.graph, kept, self.budgets.fits, limit=self.limit if self.expand else 1.0, round_to=self.round_to
        )
        if self.expand and multiplier >= self.limit * (1 - 1e-6):
            notes.append(f"Expansion stopped at {self.limit:g} times what was kept; the budget is not full.")
        return multiplier, widths, occurrences(self.graph, alive, facts.score, widths)

    def _require_same(self, graph: Any, widths: Mapping[str, int]) -> None:
        """The promise: the rebuilt network has these groups and widths, and meets every budget as counted on itself."""
        if dict(graph.widths) != dict(widths):
            name = next(n for n in {**graph.widths, **widths} if graph.widths.get(n) != widths.get(n))
            raise GraphError(
                f"group {name!r} has width {graph.widths.get(name)} in the rebuilt network, and {widths.get(name)} was asked for",
                "a rebuilt network is recorded and counted again",
                "report this network: its graph changes with its widths",
            )
        counted = Budgets.__new__(Budgets)
        counted.__dict__.update(self.budgets.__dict__)
        counted.rebind(graph)
        if not counted.fits(graph.widths):
            raise GraphError(
                "the rebuilt network is over the budget", "costs are counted again on the rebuilt network", "report this network"
            )

    # -- records -----------------------------------------------------------------------------------------------------

    def budgets_record(self) -> list[dict[str, Any]]:
        """What was asked, in absolute numbers."""
        return [
            {"text": b.text, "metric": b.metric, "limit": limit, "unit": self.budgets.unit(b.metric)}
            for b, limit in zip(self.budgets.budgets, self.budgets.limits, strict=True)
        ]

    def asked(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        return finite(
            {
                "seed_spec": self.seed_spec,
                "inputs": self.inputs,
                "seed_widths": self.seed_widths,
                "seed_costs": self.budgets.seed_costs,
                "budgets": self.budgets_record(),
                "strategy": self.strategy_name,
                "strategy_options": self.strategy_options,
                "steps": self.steps,
                "seed": self.seed,
                "expand": self.expand,
                "shrink_to": self.shrink_to,
                "limit": self.limit,
                "round_to": self.round_to,
                "strength": self.fixed,
                "threshold": float(self.threshold),
                "decisions": self.decisions,
                "versions": versions(),
                **self.extra,
            }
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a resumed search needs beside the model's weights and the saved architectures."""
        tensors, state = self.strategy.state_dict()
        held = {f"strategy.{name}": tensor for name, tensor in tensors.items()}
        held["prices"] = self._prices
        return held, {
            "strategy": state,
            "morph_step": self.morph_step,
            "total_steps": self.total_steps,
            "controller": self.controller.state(),
            "architectures": [architecture.name for architecture in self.architectures],
        }

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`; :attr:`model` must already have the structure of the last architecture."""
        own = {k.removeprefix("strategy."): v for k, v in tensors.items() if k.startswith("strategy.")}
        self.strategy.load_state_dict(own, state["strategy"])
        self._prices = tensors["prices"].clone()
        self._price = self._prices.numpy().copy()
        self.morph_step, self.total_steps = int(state["morph_step"]), int(state["total_steps"])
        self.controller = Controller(**state["controller"])

    def advance(self, architecture: Architecture) -> None:
        """Bring :attr:`model` to a saved architecture of this search, whose parent it is at now (weights as they fall)."""
        multiplicity = from_positions(self.graph, architecture.kept)
        network, _ = self.graph.planned(multiplicity)
        network.train(self.model.training)
        self.model = network
        self.graph = record(network, self.example_inputs, decisions=self.decisions)
        self.budgets.rebind(self.graph)
        self.architectures.append(architecture)
        self.strategy.attach(self.model, self.graph)
        self._begin_morph()


def require_convolutions(graph: Any) -> None:
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


def versions() -> dict[str, Any]:
    """Versions that results depend on."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("morphsearch")
    except PackageNotFoundError:
        own = "unknown"
    return {"morphsearch": own, "torch": torch.__version__, "python": platform.python_version()}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} other groups" if len(names) > 3 else "")


def _check_arguments(
    steps: int | None,
    strength: float | None,
    threshold: float | None,
    shrink_to: float | None,
    limit: float,
    round_to: int,
    warmup: float | None,
) -> None:
    checks = [
        ("steps", steps, steps is None or steps >= 1, "a whole number of optimizer steps, 1 or more", "leave it out to self-pace"),
        ("strength", strength, strength is None or 0 <= strength < float("inf"), "zero or more", "leave it out to have it found"),
        ("threshold", threshold, threshold is None or 0 <= threshold < float("inf"), "zero or more", "leave it out"),
        ("shrink_to", shrink_to, shrink_to is None or 0 < shrink_to <= 1, "a share of the budget in (0, 1]", "use 0.75"),
        ("limit", limit, 1 <= limit < float("inf"), "at least 1", "use 4"),
        ("round_to", round_to, round_to >= 1, "a whole number, 1 or more", "use 1, 8 or 16"),
        ("warmup", warmup, warmup is None or 0 <= warmup < 1, "a share of the steps in [0, 1)", "use 0.25"),
    ]
    for name, value, good, rule, repair in checks:
        if not good:
            raise UsageError(f"{name}={value!r}", f"{name} is {rule}", repair)
