"""Strength is found, not guessed.

Under the strategies' proximal step a unit's score falls by ``lr * strength * price`` a step, except for what the loss
gives back. So at any moment one can say which strength, kept up to the end of the schedule, would kill just the units
that must go for the cost to reach its target: that of the last unit in the order of ``(score - threshold) / price``.
The controller asks this again every few steps, with scores and prices as they are by then. It also learns its
*efficiency*, how much of the pressure that it applied really brought that answer down: the rest the loss gave back, and
the strength is divided by it. What is still missing at the end, the morph removes by rank.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


LEAST_EFFICIENCY = 0.1  # at most ten times the strength that an unresisting network would need
RELEASE = 0.97  # how much of the strength is left at least from one look to the next


@dataclass
class Controller:
    """Paces the strength.

    Args:
        steps: length of the schedule; None paces itself over the next `horizon` steps, for ever.
        warmup: share of the schedule in which nothing is pressed, so that the scores come to mean something.
        settle: share at the end in which the target should have been reached.
        fixed: a strength that the user set; then nothing is steered.
    """

    steps: int | None
    warmup: float = 0.25
    settle: float = 0.1
    fixed: float | None = None
    horizon: int = 1000
    strength: float = 0.0
    efficiency: float = 1.0
    last_need: float | None = None

    def pressing(self, step: int) -> bool:
        """Whether units are pressed at `step` (steps done so far in this morph)."""
        return self.fixed is not None or step >= self.begin

    @property
    def begin(self) -> int:
        """The first step that presses."""
        return round(self.warmup * (self.steps if self.steps is not None else self.horizon))

    def remaining(self, step: int) -> int:
        """Steps left to reach the target; never so few that the answer explodes."""
        if self.steps is None:
            return self.horizon
        end = round(self.steps * (1 - self.settle))
        return max(end - step, max(1, round(0.05 * self.steps)))

    def update(self, step: int, pressure: float, lr: float, applied_steps: int = 0) -> float:
        """Set and return the strength that applies `pressure` (score units per price) over the remaining steps.

        Args:
            step: steps done in this morph.
            pressure: what the last unit that must go still needs.
            lr: learning rate.
            applied_steps: steps since the last update, under the strength that it returned.
        """
        if self.fixed is not None:
            self.strength = self.fixed
        elif not self.pressing(step):
            self.strength = 0.0
        else:
            applied = self.strength * lr * applied_steps
            if self.last_need is not None and applied > 0:
                share = min(1.0, max(0.0, (self.last_need - pressure) / applied))
                self.efficiency = max(LEAST_EFFICIENCY, 0.8 * self.efficiency + 0.2 * share)
            self.last_need = pressure
            wanted = max(0.0, pressure) / (max(lr, 1e-12) * self.remaining(step) * self.efficiency)
            # Pressure is let off slowly: units that just died would come back to life, and with them the cost.
            self.strength = max(wanted, RELEASE * self.strength)
        return self.strength

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)
