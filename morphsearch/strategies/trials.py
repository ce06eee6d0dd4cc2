"""``trials``: train candidates from scratch for a short while, and keep the shape that learns best.

Which widths a network should have is decided by how well it trains with them, and a short training with a rate that
falls to zero tells most of that: Radosavovic et al. (arXiv 2003.13678, section 3.1) compare whole design spaces by
trainings of ten epochs, and EfficientNet (arXiv 1905.11946, section 3.3) finds its coefficients on a small grid. Free
widths are far too many to be tried one by one, so candidates are *shapes* (:mod:`~morphsearch.strategies.shapes`): two
to four numbers. Every candidate costs what the budget allows, the first is uniform scaling, and the answer is the
floor of a valley fitted to all of them (:mod:`~morphsearch.strategies.valley`), not the luckiest. Each candidate after
the first is the one whose loss is expected to lower that floor most: mostly one along an axis that nothing is known of
yet, then one where what is known leaves most to gain, as on the other side of a step that came out badly.

Short trainings favour shapes that learn fast, and are noisy. Both get better with the number of steps, not of images:
on the CPU, where small batches take hardly longer, :mod:`morphsearch.loop.trying` trains candidates in batches a
quarter as large. ResNet-20 at a quarter of its FLOPs, 4.5 epochs on CIFAR-10: the shape that is ahead by 1.2 points
after twelve epochs has 3% less loss in batches of 128, and 6% in batches of 32.

All candidates begin with the same seed and see the same images in the same order. No unit of the seed is judged: the
architecture begins with fresh weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from morphsearch.errors import UsageError
from morphsearch.strategies.base import Fits, Phase, TrainingFree, Widths
from morphsearch.strategies.judging import number_in
from morphsearch.strategies.shapes import Shapes
from morphsearch.strategies.valley import Valley

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph


STEP = 0.5
MOST_TRIALS = 5
FORMER_AXES = ("early", "middle", "streams")


class Trials(TrainingFree):
    """Short trainings of whole candidates.

    Args:
        trials: how many candidates are trained, uniform scaling among them; each for ``1 / trials`` of the epochs. By
            default two more than the network has axes, and 5 at most, since trials that are too short tell less than a
            further one.
        step: how far along an axis a candidate stands from the best shape known, in the logarithm of widths; default
            0.5. None stands farther than two steps from uniform scaling.
        limit: no group gets wider than so many times the seed's width.
        point: the shape itself, one number an axis (those left out are 0), also as text; nothing is trained then.

    Raises:
        UsageError: an argument out of range, or one about candidates beside a `point`.
    """

    name = "trials"

    def __init__(
        self,
        *,
        trials: int | None = None,
        step: float | None = None,
        limit: float = 4.0,
        point: Sequence[float] | None = None,
    ) -> None:
        if trials is not None and (not isinstance(trials, int) or isinstance(trials, bool) or trials < 2):
            raise UsageError(f"trials={trials!r}", "trials is a whole number, 2 or more", "leave it out for 4 or 5")
        for argument, value in (("trials", trials), ("step", step)):
            if value is not None and point is not None:
                raise UsageError(
                    f"{argument}={value!r} with point={point!r}",
                    "where the shape is given, no candidates are tried",
                    f"leave {argument} or point out",
                )
        self.trials = trials
        self.step = number_in("step", STEP if step is None else step, 0, 3, f"{STEP} is usual", open_ends=True)
        self.limit = number_in("limit", limit, 1, 64, "4 is usual")
        self.given = None if point is None else _numbers(point)
        self.point: tuple[float, ...] | None = None
        self._shapes: Shapes | None = None

    @property
    def decided(self) -> bool:  # type: ignore[override]
        """Whether a shape was chosen, or given."""
        return self.point is not None

    def attach(self, model: nn.Module, graph: ConvGraph) -> None:
        """Any network will do that has a free group.

        Raises:
            UsageError: every group is frozen, or the point has more numbers than the network has axes.
        """
        super().attach(model, graph)
        self._shapes, self.point, self.notes = Shapes(graph, self.limit), None, ()  # what was said of a former morph
        self.most = {name: self.limit * group.width for name, group in graph.groups.items()}
        if self.given is not None:
            axes = self._shapes.axes
            if len(self.given) > len(axes):
                raise UsageError(
                    f"point={list(self.given)}",
                    f"a shape of this network has {len(axes)} numbers: {', '.join(axes) or 'none'}",
                    f"give {len(axes)} or fewer",
                )
            self.point = (*self.given, *(0.0,) * (len(axes) - len(self.given)))

    def run_phase(self, context: Phase) -> None:
        """Train the candidates.

        Raises:
            UsageError: nobody can train one.
        """
        assert self._shapes is not None
        shapes, train = self._shapes, context.train
        if self.given is not None:
            self.notes = ("the shape was given; nothing was trained.",)
            return
        if train is None:
            raise UsageError(
                "run_phase() was given no way to train a candidate",
                "trials trains every candidate from scratch",
                "pass train=, a function of widths and a share of the training, or use ms.search",
            )
        trials = self.trials or min(2 + len(shapes.axes), MOST_TRIALS)
        valley = Valley(len(shapes.axes), self.step, shapes.slopes)
        known: dict[tuple[int, ...], float] = {}
        tried: list[tuple[float, ...]] = []

        def attempt(point: tuple[float, ...]) -> None:
            tried.append(point)
            widths = context.fill(shapes.widths(point, context.meets, round_to=context.round_to))
            key = tuple(widths.values())
            if key not in known:
                known[key] = train(widths, 1 / trials)
                context.evaluations += 1
                context.on_step(widths, known[key])
                valley.add(point, known[key])

        attempt((0.0,) * len(shapes.axes))
        for _ in range(trials - 1):
            around = shapes.around(shapes.within(valley.floor()), self.step)
            new = [point for point in around if point not in tried]
            if new:  # the first of those that tell as much, up to what a sum of floats leaves
                attempt(max(new, key=lambda point: round(valley.gain(point), 9)))
        self.point = shapes.within(valley.floor())
        self.notes = (
            f"{len(known)} shapes were trained for 1/{trials} of the epochs each; the best is expected at "
            f"{shapes.described(self.point)}.",
            "No weights of the trials are kept: the network found is trained from scratch.",
        )

    def propose(self, graph: ConvGraph, fits: Fits, rng: np.random.Generator, *, round_to: int = 1) -> Widths:
        """Widths of the best shape; without a phase before, those of a uniform scaling."""
        shapes = self._shapes if self._shapes is not None and self._shapes.graph is graph else Shapes(graph, self.limit)
        point = self.point if self.point is not None else (0.0,) * len(shapes.axes)
        return shapes.widths(point, fits, round_to=round_to)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """The point that was chosen."""
        axes = self._shapes.axes if self._shapes is not None else ()
        return {}, {} if self.point is None else {"point": dict(zip(axes, self.point, strict=True))}

    def load_state_dict(self, tensors: object, state: object) -> None:
        """Take back what :meth:`state_dict` gave."""
        point = state.get("point") if isinstance(state, dict) else None
        if isinstance(point, list):  # of a run that was begun before the axes had names
            point = dict(zip(FORMER_AXES, point, strict=False))
        if isinstance(point, dict):
            axes = self._shapes.axes if self._shapes is not None else tuple(point)
            self.point = tuple(float(point.get(axis, 0.0)) for axis in axes)

    def scores(self) -> Tensor:
        """`u` ones: no unit is judged."""
        return torch.ones(self._num_units)


def _numbers(point: Any) -> tuple[float, ...]:
    values = point if isinstance(point, (list, tuple)) else [point]
    if isinstance(point, str):  # as the command line gives it
        try:
            values = [float(part) for part in point.strip("[]() ").split(",")]
        except ValueError:
            values = [point]
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and -3 <= v <= 3 for v in values):
        raise UsageError(
            f"point={point!r}", "a shape is numbers from -3 to 3, one an axis", "give for example [0.5, 0]"
        )
    return tuple(float(v) for v in values)
