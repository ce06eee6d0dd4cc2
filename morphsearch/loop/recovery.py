"""What a run does about a training that goes wrong: go back, take less, and say so.

A loss that is not finite sends the run back to its last checkpoint with a third of the learning rate, then twice to
the start of the morph with a third of that. An accuracy that collapses is the pressure's fault and shows late: it
sends the run back to the start of the morph, once, with a third of the learning rate and a ceiling of the strength
that allows half of the pressure (rate times strength) that the controller had come to. What was tried is part of
every checkpoint, so that a run that is killed meanwhile goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from morphsearch.errors import DivergedError

TRIES = 3
LOWER = 1 / 3  # of the learning rate, at each try
EASED = 0.5  # of the strongest pressure, which is learning rate times strength, after a collapse
COLLAPSED = 0.25  # of the margin over chance that the best accuracy of the morph had
UNLEARNT = 0.05  # a margin over chance up to which a network can do nothing; where chance is less, twice chance
LEARNT = 0.25  # the share of the way from chance to perfection from which on it can do enough to be judged; or
TIMES_CHANCE = 5  # so many times chance beyond it, where classes are many
WORTH_LOSING = 0.2  # margins over chance below this cannot collapse
PRESSED = 0.1  # nor those below this once units are pressed


def ready(accuracy: float, chance: float) -> bool:
    """Whether a network has learnt enough for it to matter which units it loses."""
    return accuracy - chance >= min(LEARNT * (1 - chance), TIMES_CHANCE * chance)


class Collapsed(DivergedError):
    """The accuracy on the validation part fell to near chance."""


@dataclass
class Recovery:
    """What was tried in the present morph.

    Attributes:
        tries: how often it went back. lr_scale, ceiling: with what it goes on.
        best: the best accuracy so far. restarted: whether a collapse has sent it back.
        warned: whether it was said that nothing dies. collapsed: whether the last try was for a collapse.
    """

    tries: int = 0
    lr_scale: float = 1.0
    ceiling: float | None = None
    best: float = 0.0
    restarted: bool = False
    warned: bool = False
    collapsed: bool = False

    @classmethod
    def of(cls, state: Any) -> Recovery:
        """The inverse of :meth:`state`; a new one where there is none."""
        known = state if isinstance(state, Mapping) else {}
        return cls(**{key: value for key, value in known.items() if key in cls.__dataclass_fields__})

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def watch(
        self,
        accuracy: float,
        chance: float,
        *,
        standing: bool,
        over: bool = False,
        pressed: bool = False,
        late: bool = False,
    ) -> str:
        """What to warn of after an epoch, or an empty text.

        Args:
            accuracy: on the validation part. chance: that of guessing.
            standing: no unit has died though all should have by now. over: the morph's training is at its end.
            pressed: whether units are pressed by now.

        Raises:
            Collapsed: the accuracy fell to near chance, for the first time in this morph.
        """
        margin = self.best - chance
        if margin > (PRESSED if pressed else WORTH_LOSING) and accuracy - chance < COLLAPSED * margin:
            text = f"the validation accuracy fell from {100 * self.best:.1f}% to {100 * accuracy:.1f}%"
            if not self.restarted:
                raise Collapsed(
                    text,
                    "a search that wrecks its network learns nothing from it",
                    "give it more epochs, a lower learning rate or a larger budget",
                )
            self.best = accuracy  # said once
            return f"{text}, though the morph was begun anew: give it more epochs, a lower rate or a larger budget."
        self.best = max(self.best, accuracy)
        if over and accuracy - chance < min(UNLEARNT, chance):
            return (
                f"The validation accuracy ended at {100 * accuracy:.1f}%, near chance ({100 * chance:.1f}%; "
                f"the best was {100 * self.best:.1f}%): which units left says little. "
                "Give it more epochs, another rate or another strategy."
            )
        if standing and not self.warned:
            self.warned = True
            return (
                "No unit has died by the end of the schedule: the learning rate is too low for so few steps, or the "
                "strength too small. The morph will remove units by rank; more epochs or a higher rate let them die."
            )
        return ""

    def again(self, error: DivergedError, peak: float) -> Recovery:
        """The next try; `peak` is the strongest pressure so far.

        Raises:
            DivergedError: `error`, where there is none.
        """
        collapsed = isinstance(error, Collapsed)
        if self.tries >= TRIES:
            raise DivergedError(
                f"{error.arrived}; {self.tries} tries at lower learning rates ended like it",
                error.rule,
                error.repair,
            ) from error
        return replace(
            self,
            tries=self.tries + 1,
            lr_scale=self.lr_scale * LOWER,
            ceiling=EASED / LOWER * peak if collapsed and peak > 0 else self.ceiling,
            best=0.0,
            restarted=self.restarted or collapsed,
            collapsed=collapsed,
        )

    def sentence(self, error: DivergedError, step: int, lr: float) -> str:
        """What is done about `error`, for the user."""
        ceiling = (
            f" and a strength of at most {self.ceiling:.2g}" if self.collapsed and self.ceiling is not None else ""
        )
        return f"{error.arrived[:1].upper()}{error.arrived[1:]}. Going on from step {step} at lr={lr:.2g}{ceiling}."
