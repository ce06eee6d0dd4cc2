"""From the lines of ``metrics.jsonl`` to curves. Files may hold anything: what is no number is passed over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from morphsearch.report.numbers import percent, short
from morphsearch.report.records import Curve, Mark, Note, Panel, Trajectory, Trial

MOST_POINTS = 2000
"""Of a curve: more than a screen can show."""

DECADES = 100
"""A strength that varies by more is shown by its logarithm."""


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def numbers(value: Any) -> dict[str, float]:
    """The finite numbers of a table."""
    if not isinstance(value, Mapping):
        return {}
    found = {str(name): number(item) for name, item in value.items()}
    return {name: item for name, item in found.items() if item is not None}


class _Curves:
    """Curves that grow line by line."""

    def __init__(self) -> None:
        self.curves: dict[str, Curve] = {}

    def add(self, name: str, step: float | None, value: Any) -> None:
        held = number(value)
        if step is None or held is None:
            return
        curve = self.curves.setdefault(name, Curve(name))
        curve.steps.append(step)
        curve.values.append(held)

    def thinned(self) -> list[Curve]:
        return [
            Curve(curve.name, thin(curve.steps, MOST_POINTS), thin(curve.values, MOST_POINTS))
            for curve in self.curves.values()
        ]


def thin(values: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of them, evenly taken, the last included."""
    if len(values) <= most:
        return list(values)
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]


def trajectory(
    events: Iterable[Mapping[str, Any]],
    seed_costs: Mapping[str, float],
    budgets: Sequence[Mapping[str, Any]],
) -> Trajectory:
    """Loss, accuracy, costs (as shares of the seed's) and strength over steps; of a sparsification the sparsity.

    Args:
        seed_costs: by metric; a cost of which the seed's is not known is left out.
        budgets: as ``run.json`` holds them.
    """
    loss, accuracy, cost, strength, sparsity = (_Curves() for _ in range(5))
    found = Trajectory()
    first = str(budgets[0].get("metric")) if budgets else ""
    step: float | None = None
    for event in events:
        kind = str(event.get("event"))
        here = number(event.get("step"))
        step = here if here is not None else step
        if kind == "epoch":
            loss.add("training", step, event.get("loss"))
            loss.add("validation", step, event.get("val_loss"))
            accuracy.add("training", step, event.get("accuracy"))
            accuracy.add("validation", step, event.get("val_accuracy"))
            sparsity.add("asked", step, event.get("sparsity_asked"))
            sparsity.add("reached", step, event.get("sparsity"))
        if kind in ("epoch", "step"):
            strength.add("strength", step, event.get("strength"))
        shares = {
            name: total / seed_costs[name]
            for name, total in numbers(event.get("costs")).items()
            if seed_costs.get(name)
        }
        if kind in ("epoch", "step", "iteration"):
            for metric, share in shares.items():
                cost.add(metric, step, share)
        if kind == "trial":
            found.trials.append(_trial(event, len(found.trials) + 1))
        elif (text := _text(kind, event)) and step is not None:
            found.marks.append(Mark(step, _MARKS[kind], text, shares.get(first) if kind == "shrunk" else None))
    limits = {}
    for budget in budgets:
        limit, metric = number(budget.get("limit")), str(budget.get("metric"))
        if limit is not None and seed_costs.get(metric):
            limits[str(budget.get("text"))] = limit / seed_costs[metric]
    pressed = [value for curve in strength.curves.values() for value in curve.values if value > 0]
    wide = bool(pressed) and max(pressed) > DECADES * min(pressed)
    panels = [
        Panel("Loss", loss.thinned()),
        Panel("Accuracy", accuracy.thinned(), "percent"),
        Panel("Cost of living units, of the seed's", cost.thinned(), "percent", limits),
        Panel("Strength", strength.thinned() if pressed else [], "log" if wide else "linear"),
        Panel("Sparsity", sparsity.thinned(), "percent"),
    ]
    found.panels = [panel for panel in panels if any(len(curve.steps) > 1 for curve in panel.curves)]
    return found


_MARKS = {
    "iteration": "morph",
    "shrunk": "cut",
    "recovered": "recovered",
    "warning": "warning",
    "interrupted": "interrupted",
    "resumed": "resumed",
}


def _text(kind: str, event: Mapping[str, Any]) -> str:
    """What an event says, for those that are marked."""
    if kind == "iteration":
        reached = number(event.get("val_accuracy"))
        return f"morph {event.get('iteration')}" + ("" if reached is None else f": {percent(reached)} on validation")
    if kind == "shrunk":
        costs = ", ".join(f"{name} {short(total)}" for name, total in numbers(event.get("costs")).items())
        return f"cut: {event.get('left')} units have left; {costs}"
    if kind == "recovered":
        rate = number(event.get("lr"))
        return f"recovered: {event.get('reason')}" + ("" if rate is None else f"; went on at lr={rate:.2g}")
    if kind == "warning":
        return str(event.get("text"))
    return {"interrupted": "interrupted here, after saving", "resumed": "resumed here"}.get(kind, "")


def _trial(event: Mapping[str, Any], place: int) -> Trial:
    iteration = number(event.get("iteration"))
    return Trial(
        place,
        None if iteration is None else int(iteration),
        *(number(event.get(name)) for name in ("epochs", "loss", "accuracy")),
    )


def notes_of(marks: Iterable[Mark]) -> list[Note]:
    """What of it belongs among the notes, with the step."""
    kept = ("recovered", "warning", "interrupted", "resumed")
    return [Note(mark.kind, f"At step {mark.step:,.0f}: {mark.text}") for mark in marks if mark.kind in kept]
