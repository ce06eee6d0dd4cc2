"""When masks are updated, and how sparse they are then.

Time is counted in optimizer steps that are done: an update at step 0 comes before training, one at step `t` right after
the `t`-th step. (Keras counts its first batch as step 1, so that ``begin=0, frequency=100`` first prunes at step 100,
and shorter runs never.) Updates come at ``begin``, every ``frequency`` steps from there on, and always at ``end``: the
last one lands on the final sparsity, whether or not ``end - begin`` is a multiple of the frequency.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from morphsearch.arguments import named_arguments, named_fields
from morphsearch.errors import UnknownName, UsageError
from morphsearch.sparsity.values import Moment, count, moment, percent, share

KINDS = ("polynomial", "constant")
UPDATES = 100
"""The most updates of a schedule, unless its frequency says otherwise."""


@named_fields
@dataclass(frozen=True)
class Schedule:
    """Sparsity over time, see :meth:`polynomial` and :meth:`constant`.

    Attributes:
        final: sparsity at the end, in [0, 1). initial: at the beginning.
        begin, end: steps (whole numbers) or shares of the training (floats in [0, 1]).
        frequency: steps between updates; None: at most a hundred updates, one a step in short runs.
        power: of the polynomial.
        kind: ``"polynomial"`` or ``"constant"``.

    Raises:
        UsageError: a value out of range, or an end before the beginning.
    """

    final: float
    initial: float = 0.0
    begin: Moment = 0.1
    end: Moment | None = 0.7
    frequency: int | None = None
    power: float = 3.0
    kind: str = "polynomial"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownName.of("schedule", str(self.kind), KINDS)
        put = object.__setattr__
        put(self, "final", share(self.final, "target"))
        put(self, "initial", share(self.initial, "initial"))
        put(self, "begin", moment(self.begin, "begin"))
        put(self, "end", self.begin if self.end is None else moment(self.end, "end"))
        if self.frequency is not None:
            put(self, "frequency", count(self.frequency, "frequency"))
        power: Any = self.power
        if not isinstance(power, int | float) or isinstance(power, bool) or not 0 < power <= 100:
            raise UsageError(f"power={power!r}", "power is a number above 0, at most 100", "3 is usual")
        if self.initial > self.final:
            raise UsageError(
                f"initial sparsity {percent(self.initial)}, final {percent(self.final)}",
                "sparsity grows: weights that became zero stay so",
                f"start at {percent(self.final)} or below",
            )
        if isinstance(self.begin, int) == isinstance(self.end, int) and self.end < self.begin:  # type: ignore[operator]
            raise _ends_early(self.begin, self.end)

    @classmethod
    @named_arguments
    def polynomial(
        cls,
        final: Any,
        *,
        initial: Any = 0.0,
        begin: Moment | str = 0.1,
        end: Moment | str = 0.7,
        frequency: int | None = None,
        power: float = 3.0,
    ) -> Schedule:
        """``s = final + (initial - final) * (1 - p) ** power``, with p from 0 at `begin` to 1 at `end`.

        Source: Zhu & Gupta, "To prune, or not to prune", 2017, arXiv 1710.01878, equation 1.
        """
        return cls(final, initial, begin, end, frequency, power)  # type: ignore[arg-type]

    @classmethod
    @named_arguments
    def constant(
        cls, final: Any, *, begin: Moment | str = 0, end: Moment | str | None = None, frequency: int | None = None
    ) -> Schedule:
        """`final` at once at `begin`. Updates until `end` matter only to criteria under which zeros can come back."""
        return cls(final, final, begin, end, frequency, kind="constant")  # type: ignore[arg-type]

    def timetable(self, steps: int | None = None) -> Timetable:
        """The same in steps, for a training of so many `steps` (None: not known).

        Raises:
            UsageError: shares of an unknown number of steps; a schedule that would not come to its end, or never begin.
        """
        begin, end = _in_steps(self.begin, steps, "begin"), _in_steps(self.end, steps, "end")
        if steps is not None and begin > steps:
            raise UsageError(
                f"the schedule begins at step {begin}, and training has {steps}",
                "a schedule that begins after the training never fires",
                f"begin earlier (such as {self._example(0.1, steps)}), or train for longer",
            )
        if end < begin:
            raise _ends_early(f"step {begin}", f"step {end}")
        if steps is not None and end > steps:
            raise UsageError(
                f"the schedule ends at step {end}, and training has {steps}",
                "the last update, which reaches the final sparsity, comes within the training",
                f"end earlier (such as {self._example(0.7, steps)}), or train for longer",
            )
        frequency = self.frequency or max(1, math.ceil((end - begin) / UPDATES))
        return Timetable(begin, end, frequency, self.initial, self.final, float(self.power))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @staticmethod
    def _example(part: float, steps: int) -> str:
        return f"{percent(part)}, step {round(part * steps)}"


@dataclass(frozen=True)
class Timetable:
    """A schedule in optimizer steps."""

    begin: int
    end: int
    frequency: int
    initial: float
    final: float
    power: float

    def fires(self, step: int) -> bool:
        """Whether masks are updated when `step` optimizer steps are done."""
        return self.begin <= step <= self.end and ((step - self.begin) % self.frequency == 0 or step == self.end)

    def sparsity(self, step: int) -> float:
        """The sparsity asked for when `step` optimizer steps are done; 0 before the beginning."""
        if step < self.begin:
            return 0.0
        if step >= self.end:
            return self.final  # exactly, whatever rounding would make of it
        progress = (step - self.begin) / (self.end - self.begin)
        return self.final + (self.initial - self.final) * float((1.0 - progress) ** self.power)

    @property
    def updates(self) -> int:
        """How many there are."""
        regular, rest = divmod(self.end - self.begin, self.frequency)
        return 1 + regular + (rest > 0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def _in_steps(value: Moment | None, steps: int | None, name: str) -> int:
    assert value is not None
    if isinstance(value, int):
        return value
    if steps is None:
        raise UsageError(
            f"{name}={value!r} is a share of the training, whose length is not known",
            "shares of the training need its number of optimizer steps",
            f"pass steps=..., or {name} as a whole number of steps",
        )
    return round(value * steps)


def _ends_early(begin: object, end: object) -> UsageError:
    return UsageError(
        f"the schedule begins at {begin} and ends at {end}",
        "a schedule ends after it begins",
        "exchange begin and end, or leave both out for 10% and 70% of the training",
    )
