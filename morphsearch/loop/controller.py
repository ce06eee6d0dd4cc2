"""Strength is found, not guessed.

Under the strategies' proximal step a unit's score falls by ``lr * strength * price`` a step, less what the loss gives
back. So at any moment one can say how far steady pressure is from killing just the units that must go for the cost to
reach its target: the *need* is that of the last of them in the order of ``(score - threshold) / price``. What the loss
gives back acts like a strength of the opposite sign, the *resistance* `r`. With `d` the fall of the need over the
last `n` steps under a strength `s`, and `t` steps left,

    r = s - d / (lr n)   (averaged over looks)        s' = r + need / (lr t).

So the strength rises where units resist. It is let off slowly, since units that just died would come back to life, and
quickly once the cost is below its target, so that some may. While the cost falls fast enough to be at its target within
a few looks the strength does not grow; past the time at which it should be there it grows steadily. What is still
missing at the end, the morph removes by rank.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MEMORY = 0.7  # share of the former estimate of the resistance that stays at every look
RELEASE = 0.95  # the strength falls at most to this share from one look to the next while the cost is above its target
HOLD = 0.98  # and to this share once it is at its target, or quickly to nothing where it is below
LET_GO = 0.5  # the same, of strategies whose scores stand still without strength
LONGEST_WAIT = 0.25  # share of the schedule by which pressure may begin late
ENOUGH = 0.9  # this share of it
GROWTH = 1.25  # the strength grows at most so many times from one look to the next
OVERDUE = 1.07  # and at least so many times once the target should have been reached
AHEAD = 3  # looks within which a cost that falls fast enough to reach its target is not pressed harder
LEAST_LR = 0.02  # learning rates below this share of the largest one so far count as this share


@dataclass
class Controller:
    """Paces the strength.

    Args:
        steps: length of the schedule; None paces itself over the next `horizon` steps, for ever.
        warmup: share of the schedule in which nothing is pressed, so that the scores come to mean something.
        settle: share at the end in which the target should have been reached.
        fixed: a strength that the user set; then nothing is steered.
        ceiling: the strength never exceeds it; None: it may. Set where more has wrecked the network.
        hold: the strength falls to this share from one look to the next once the cost is at its target.
        delay: steps by which all is later than planned, since the network had not learnt enough to be pressed.
        waited: whether that is settled, see :meth:`wait`.
    """

    steps: int | None
    warmup: float = 0.2
    settle: float = 0.55
    fixed: float | None = None
    horizon: int = 1000
    strength: float = 0.0
    resistance: float = 0.0
    last_need: float | None = None
    last_step: int = 0
    last_fullness: float = 0.0
    peak_lr: float = 0.0
    peak: float = 0.0
    ceiling: float | None = None
    hold: float = HOLD
    delay: int = 0
    waited: bool = False

    @property
    def begin(self) -> int:
        """The first step that presses."""
        return round(self.warmup * (self.steps if self.steps is not None else self.horizon)) + self.delay

    @property
    def end(self) -> float:
        """The step at which the target should be reached; never, without a schedule."""
        return float("inf") if self.steps is None else round(self.steps * (1 - self.settle)) + self.delay

    @property
    def every(self) -> int:
        """Steps between two looks: 10, fewer in short schedules."""
        return 10 if self.steps is None else max(1, min(10, self.steps // 50))

    def pressing(self, step: int) -> bool:
        """Whether units are pressed at `step` (steps done so far in this morph)."""
        return self.fixed is not None or step >= self.begin

    def due(self, step: int) -> bool:
        """Whether pressure would begin at `step`, and nobody has said yet whether the network is ready for it."""
        return self.steps is not None and self.fixed is None and not self.waited and step >= self.begin

    def wait(self, ready: bool) -> None:
        """Begin now if the network is `ready`, else a look later, as long as there is time for that."""
        assert self.steps is not None
        self.waited = ready or self.delay >= LONGEST_WAIT * self.steps
        self.delay += 0 if self.waited else self.every

    def progress(self, step: int) -> float:
        """The share of the schedule that is done: 0 while nothing is pressed, 1 when the target should be reached."""
        end = self.end if self.steps is not None else self.begin + self.horizon
        return min(1.0, max(0, step - self.begin) / max(1.0, end - self.begin))

    def remaining(self, step: int) -> int:
        """Steps left to reach the target; never so few that the answer explodes."""
        if self.steps is None:
            return self.horizon
        return int(max(self.end - step, max(1, round(0.05 * self.steps))))

    def update(self, step: int, need: float, lr: float, fullness: float = 1.0) -> float:
        """Set and return the strength until the next look.

        Args:
            step: steps done in this morph.
            need: what the last unit that must go still needs, in score units per price; 0 where the cost is at or below
                its target.
            lr: learning rate.
            fullness: cost over target; the further below, the quicker the strength goes.
        """
        self.peak_lr = max(self.peak_lr, lr)
        rate = max(lr, LEAST_LR * self.peak_lr) or 1.0
        if self.fixed is not None:
            self.strength = self.fixed
        elif not self.pressing(step):
            self.strength = 0.0
        elif need <= 0:
            self.strength *= min(self.hold, (fullness / ENOUGH) ** 2)
            self.resistance = min(self.resistance, self.strength)
            self.last_need = None
        else:
            if self.last_need is not None and step > self.last_step:
                resisted = self.strength - (self.last_need - need) / (rate * (step - self.last_step))
                self.resistance = max(0.0, MEMORY * self.resistance + (1 - MEMORY) * resisted)
            wanted = self.resistance + need / (rate * self.remaining(step))
            if self.strength > 0:
                least = OVERDUE if step >= self.end else RELEASE
                most = RELEASE if self._falling(fullness) else GROWTH
                wanted = min(max(wanted, least * self.strength), most * self.strength)
            self.strength = wanted
            self.last_need = need
        if self.ceiling is not None:
            self.strength = min(self.strength, self.ceiling)
        self.peak = max(self.peak, self.strength)
        self.last_step, self.last_fullness = step, fullness
        return self.strength

    def _falling(self, fullness: float) -> bool:
        """Whether the cost, falling as it did since the last look, will be at its target within a few looks."""
        return 0 < fullness < self.last_fullness and fullness * (fullness / self.last_fullness) ** AHEAD < 1

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)
