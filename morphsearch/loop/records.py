"""What a search writes down: its arguments, and every architecture with where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from morphsearch.loop import morphing
from morphsearch.loop.architecture import Architecture
from morphsearch.loop.changed import OPERATIONS, digest
from morphsearch.loop.checks import versions
from morphsearch.loop.schema import finite
from morphsearch.loop.selection import kept_positions

if TYPE_CHECKING:
    from morphsearch.loop.session import Search


def settings(search: Search) -> dict[str, Any]:
    """The arguments that a search is repeated with, beside network, budget and strategy."""
    return {
        "seed": search.seed,
        "schedule": search.steps,
        "warmup": search.warmup,
        "pricing": search.pricing,
        "live": search.live,
        "strength": search.fixed,
        "threshold": search.rules.threshold,
        "expand": search.rules.expand,
        "shrink_to": search.rules.shrink_to,
        "limit": search.rules.limit,
        "round_to": search.rules.round_to,
        "strategy_options": search.strategy_options,
    }


def asked(search: Search) -> dict[str, Any]:
    """What ``run.json`` says."""
    said = {
        "seed_spec": search.seed_spec,
        "inputs": search.inputs,
        "seed_widths": search.seed_widths,
        "seed_costs": search.budgets.seed_costs,
        "budgets": search.budgets.record_all(),
        "strategy": search.strategy_name,
        **settings(search),
        **({"hardware": search.hardware.name} if search.hardware is not None else {}),
        "decisions": search.decisions,
        OPERATIONS: digest(search.graph),
        "versions": versions(),
        **search.extra,
    }
    return {key: finite(value) for key, value in said.items()}


def architecture_of(
    search: Search, choice: morphing.Choice, rebuilt: morphing.Rebuilt, metrics: dict[str, float | None]
) -> Architecture:
    trained = search.strategy.needs_training
    return Architecture(
        name=f"{len(search.architectures) + 1:03d}",
        seed_spec=search.seed_spec,
        inputs=search.inputs,
        widths=dict(rebuilt.graph.widths),
        seed_widths=search.seed_widths,
        floors={name: group.floor for name, group in rebuilt.graph.groups.items()},
        kept=_kept(search, choice),
        costs=rebuilt.budgets.described(rebuilt.graph.widths),
        budgets=search.budgets.record(),
        strategy=search.strategy_name,
        strength=finite(search.controller.strength) if trained and search.strategy.presses else None,
        threshold=finite(search._threshold) if trained else None,
        multiplier=choice.multiplier,
        parent=search.architectures[-1].name if search.architectures else None,
        metrics=metrics,
        decisions=search.decisions,
        notes=[*search.notes, *choice.notes],
        record={**versions(), "steps": search.total_steps, **settings(search), **search.extra},
    )


def _kept(search: Search, choice: morphing.Choice) -> dict[str, list[int]]:
    """Positions of the kept units in the parent, as it was before any left."""
    return {
        name: search.leaving.origin[search.graph.units_of(name)][kept].tolist()
        for name, kept in kept_positions(search.graph, choice.multiplicity).items()
    }
