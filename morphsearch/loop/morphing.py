"""The morph itself: which widths, which units, and the rebuilt network with its proof that the budget holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from morphsearch.errors import GraphError, InputError
from morphsearch.graph import ConvGraph, record
from morphsearch.graph.fresh import break_symmetry, share_columns
from morphsearch.graph.recording import as_recorded
from morphsearch.loop.selection import (
    FULL,
    Facts,
    capped,
    closed,
    death_order,
    expansion,
    fewest_deaths,
    fill_up,
    free_units,
    from_positions,
    occurrences,
    protect,
    widths_of,
)
from morphsearch.loop.settling import settle
from morphsearch.strategies.widths import step_of

if TYPE_CHECKING:
    from morphsearch.graph.plan import Plan
    from morphsearch.loop.architecture import Architecture
    from morphsearch.loop.budget import Budgets
    from morphsearch.strategies.base import Strategy

NOISE = 0.1  # on copies of units, in standard deviations of their weight


@dataclass(frozen=True)
class Rules:
    """How a search morphs; see :class:`morphsearch.loop.session.Search`."""

    threshold: float
    shrink_to: float
    expand: bool
    limit: float
    round_to: int


@dataclass
class Choice:
    """What a morph makes of a network.

    Attributes:
        widths: of every group. multiplicity: `u` int64, how often each unit occurs.
        multiplier: of the expansion; None for strategies that propose widths.
        notes: what the user should know, a sentence each.
    """

    widths: dict[str, int]
    multiplicity: np.ndarray
    multiplier: float | None
    notes: list[str] = field(default_factory=list)


def choose(
    graph: ConvGraph, facts: Facts, budgets: Budgets, rules: Rules, *, left: int = 0, presses: bool = True
) -> Choice:
    """Keep the units that are alive, fewer where they do not meet the budget, and expand to it.

    Args:
        left: how many units left while training went on. presses: whether the strategy lets units die by itself.
    """
    notes: list[str] = []
    alive, rescued = protect(graph, facts.alive, facts.score, rules.round_to)
    if rescued:
        notes.append(
            f"Too few units of {_few(rescued)} were alive; the best of the dead were kept, as the floor demands."
        )
    if left:
        notes.append(f"{left} {'unit' if left == 1 else 'units'} left during training.")
    elif presses and alive[free_units(graph)].all():
        notes.append(
            "No unit died in training: the strength was too small for these steps, or the learning rate too low. "
            "Units were removed by rank."
        )
    if not budgets.fits(widths_of(graph, alive), rules.shrink_to):
        order, _ = death_order(graph, facts, rules.threshold, rules.round_to)
        order = order[alive[order]]
        before = int(alive.sum())
        _, alive = fewest_deaths(graph, order, lambda widths: budgets.fits(widths, rules.shrink_to), alive)
        count = before - int(alive.sum())
        notes.append(
            f"{count} units above the threshold were removed too, lowest score per price first, "
            "since what was alive did not meet the budget."
            if presses
            else f"{count} units were removed at the end, lowest score per price first: "
            "the schedule was not over, or they could not leave in training."
        )
    alive = closed(graph, alive)
    kept = widths_of(graph, alive)
    branches = sum(not width and graph.groups[name].width > 0 for name, width in kept.items())
    if branches:
        notes.append(f"{branches} groups lost all their units: their branches are left out, layers and all.")
        budgets = budgets.rebound(graph.left_at(kept))
    limit = rules.limit if rules.expand else 1.0
    multiplier, widths = expansion(graph, kept, budgets.fits, limit=limit, round_to=rules.round_to, load=budgets.load)
    widths = settle(graph, widths, budgets, round_to=rules.round_to, grow=rules.expand)
    if rules.expand and multiplier >= rules.limit * (1 - 1e-6):
        notes.append(f"Expansion stopped at {rules.limit:g} times what was kept; the budget is not full.")
    return Choice(widths, occurrences(graph, alive, facts.score, widths), multiplier, notes)


def propose(graph: ConvGraph, strategy: Strategy, budgets: Budgets, rules: Rules, rng: np.random.Generator) -> Choice:
    """The widths that a strategy without training proposes, filled up to the budget.

    Raises:
        GraphError: it proposes none, or widths that the network cannot have or that are over the budget.
    """
    now = graph.widths

    def fits(widths: Mapping[str, int]) -> bool:
        """Within the budgets, and no group wider than it is where nothing may grow."""
        return (rules.expand or all(widths[name] <= now[name] for name in now)) and budgets.fits(widths)

    widths = strategy.propose(graph, fits, rng, round_to=rules.round_to)
    name = getattr(strategy, "name", type(strategy).__name__)
    if widths is None:
        raise GraphError(
            f"strategy {name!r} proposes no widths",
            "a strategy with needs_training = False answers in propose()",
            "report it to the strategy's authors",
        )
    widths = graph.check_widths(widths)
    if not fits(widths):
        raise GraphError(
            f"strategy {name!r} proposes widths over the budget",
            "widths are proposed under the budget (the argument fits of propose())",
            "report it to the strategy's authors",
        )
    meant = getattr(strategy, "meant", None)
    most = getattr(strategy, "most", None)
    within = capped(fits, widths, most)
    widths = fill_up(graph, widths, within, base=meant, limit=rules.limit, round_to=rules.round_to, load=budgets.load)
    widths = settle(graph, widths, budgets, round_to=rules.round_to, fits=within)
    everyone = np.ones(graph.num_units, bool)
    notes = []
    if most is not None and budgets.load(widths) < FULL and fits(_a_step_wider(graph, widths, rules.round_to)):
        notes.append(f"{name} stopped at its limit; the budget is not full.")
    return Choice(widths, occurrences(graph, everyone, np.zeros(graph.num_units), widths), None, notes)


def _a_step_wider(graph: ConvGraph, widths: Mapping[str, int], round_to: int) -> dict[str, int]:
    groups = graph.groups
    return {name: width + step_of(groups[name], round_to) * (name in graph.free) for name, width in widths.items()}


@dataclass
class Rebuilt:
    """A morphed network, the plan it was built from, its graph, and the budgets counted on it."""

    network: nn.Module
    plan: Plan
    graph: ConvGraph
    budgets: Budgets


def rebuild(graph: ConvGraph, choice: Choice, budgets: Budgets, example_inputs: Any, seed: int) -> Rebuilt:
    """Build the network of a choice, record it, and count every budget again on it.

    Args:
        graph: the network as it is. seed: of the noise on copies of units.

    Raises:
        GraphError: an operation cannot follow, or the rebuilt network is not what was chosen.
    """
    network, plan = graph.planned(choice.multiplicity)
    share_columns(network, plan)
    break_symmetry(network, plan, NOISE, torch.Generator().manual_seed(seed))
    return _recorded(network, plan, graph, choice.widths, budgets, example_inputs)


def replay(graph: ConvGraph, architecture: Architecture, budgets: Budgets, example_inputs: Any) -> Rebuilt:
    """The network of a saved architecture, from that of its parent (weights as they fall).

    Raises:
        InputError: the architecture is not one of this network. GraphError: see :func:`rebuild`.
    """
    if architecture.kept.keys() != graph.groups.keys():
        raise InputError(
            f"architecture {architecture.name!r} does not say which units of its parent it kept",
            "an architecture of a run names the kept units of every group",
            "restore the file from a copy, or search again",
        )
    network, plan = graph.planned(from_positions(graph, architecture.kept))
    return _recorded(network, plan, graph, architecture.widths, budgets, example_inputs)


def without(graph: ConvGraph, positions: Mapping[str, list[int]], budgets: Budgets, example_inputs: Any) -> Rebuilt:
    """The network without units that are silent, amid a morph; no budget has to hold yet.

    Args:
        positions: of the units that stay, in the groups that lose some.

    Raises:
        GraphError: the network cannot follow.
    """
    with torch.random.fork_rng(devices=[]):
        network, plan = graph.planned(from_positions(graph, dict(positions)))
        with as_recorded(network, graph.tape):
            rebuilt = record(network, example_inputs, decisions=plan.decisions or graph.decisions)
    wanted = {name: len(positions.get(name, range(width))) for name, width in graph.widths.items()}
    if dict(rebuilt.widths) != wanted:
        raise GraphError(
            "the network has other groups without these units",
            "a rebuilt network is recorded and counted again",
            "report this network: its graph changes with its widths",
        )
    lost = [name for name in graph.free if rebuilt.groups[name].frozen is not None and wanted[name]]
    if lost:
        raise GraphError(
            f"group {lost[0]!r} could not change its width again: {rebuilt.groups[lost[0]].frozen}",
            "units leave amid a morph only where everything else stays as it was",
            "write sizes in terms of shapes",
        )
    return Rebuilt(network, plan, rebuilt, budgets.rebound(rebuilt))


def _recorded(
    network: nn.Module, plan: Plan, before: ConvGraph, widths: Mapping[str, int], budgets: Budgets, example_inputs: Any
) -> Rebuilt:
    """The promise: the rebuilt network has these groups and widths, and meets every budget as counted on itself."""
    with as_recorded(network, before.tape):
        graph = record(network, example_inputs, decisions=plan.decisions or before.decisions)
    if dict(graph.widths) != dict(widths):
        name = next(n for n in {**graph.widths, **widths} if graph.widths.get(n) != widths.get(n))
        found, asked = graph.widths.get(name), widths.get(name)
        raise GraphError(
            f"group {name!r} has width {found} in the rebuilt network, and {asked} was asked for",
            "a rebuilt network is recorded and counted again",
            "report this network: its graph changes with its widths",
        )
    counted = budgets.rebound(graph)
    if not counted.fits(graph.widths):
        raise GraphError(
            "the rebuilt network is over the budget",
            "costs are counted again on the rebuilt network",
            "report this network: its cost there is another than was foreseen",
        )
    return Rebuilt(network, plan, graph, counted)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} other groups" if len(names) > 3 else "")
