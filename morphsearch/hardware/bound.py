"""Latency as a cost: milliseconds as a function of the widths.

Measured latency moves in steps, since hardware works on vectors of channels. Totals and the price of one unit are what
the predictor says, steps and all; gradients and :meth:`BoundLatency.prices`, which steer a search, are slopes over a
vector's worth of units, so that a group does not look free within a step and dear at its edge.

Letters: `g` groups, `o` operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphsearch.hardware import queue as queueing
from morphsearch.hardware.predictor import Predictor, rungs, size_at
from morphsearch.hardware.work import RESIDENT, Works, passing

SPAN = 8.0  # units on either side of a slope
MOST_CACHED = 200_000


class BoundLatency:
    """A :class:`~morphsearch.types.BoundCost` made of a predictor and the operations of one graph.

    Attributes:
        steps: widths that are multiples of these may be faster than others beside them.
    """

    unit = "ms"
    whole = False
    steps = (4, 8, 16)
    monotone = False

    def __init__(self, works: Works, predictor: Predictor, groups: int) -> None:
        self.works, self.predictor, self.groups = works, predictor, groups
        self.uncounted: tuple[str, ...] = ()
        self._readers = [np.nonzero(row)[0] for row in works.readers()]
        self._reads = works.readers()
        self._cache: list[dict[tuple[int, bytes], float]] = [{} for _ in works.families]
        self._cached = 0
        self._issued = predictor.issued(works.families, works.steps) if works.families else None
        between = predictor.per_step * works.steps if self._issued is None else 0.0
        self._share = between / len(works.families) if works.families else 0.0
        self._constant = predictor.constant + (between if not works.families else 0.0)

    def total(self, widths: Tensor) -> Tensor:
        """Scalar float64; `widths` is `g`, float64. The gradient is :meth:`prices`."""
        found: Tensor = _Total.apply(widths, self)
        return found

    def milliseconds(self, widths: np.ndarray) -> float:
        """:meth:`total` of plain numbers."""
        return self._sum(self._all(widths)) + self._constant

    def per_layer(self, widths: Tensor) -> dict[str, Tensor]:
        """Scalar per module; the values add up to :meth:`total`. What belongs to no layer stands under ``""``."""
        layers: dict[str, float] = {}
        for module, value in zip(self.works.modules, self._charged(self._all(_plain(widths))), strict=True):
            layers[module] = layers.get(module, 0.0) + float(value)
        if self._constant:
            layers[""] = layers.get("", 0.0) + self._constant
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in layers.items()}

    def marginal(self, widths: Tensor) -> Tensor:
        """`g`: what one more unit of each group costs at `widths`: a difference, steps and all."""
        return torch.from_numpy(self._differences(_plain(widths), 1.0, 0.0))

    def prices(self, widths: Tensor) -> Tensor:
        """`g`: milliseconds a unit, as the slope over some units on either side; never negative."""
        return torch.from_numpy(self.slopes(_plain(widths)))

    def slopes(self, widths: np.ndarray) -> np.ndarray:
        """:meth:`prices` of plain numbers."""
        found: np.ndarray = np.maximum(self._differences(widths, SPAN, SPAN), 0.0)
        return found

    def unseen(self, widths: Tensor) -> dict[str, float]:
        """Share of the total by kind of operation that the profile has not seen, or not at such sizes."""
        at = _plain(widths)
        strange = self.predictor.unseen(self.works.families, self.works.rows(at))
        times, total = self._charged(self._all(at)) - self._share, self.milliseconds(at)
        shares: dict[str, float] = {}
        for place in np.nonzero(strange)[0]:
            name = self.works.families[place]
            shares[name] = shares.get(name, 0.0) + float(times[place]) / total
        return shares

    # -- evaluation --------------------------------------------------------------------------------------------------

    def _sum(self, times: np.ndarray) -> float:
        """What operations that take `times` (`o`) take together."""
        if self._issued is not None:
            return queueing.together(self._issued, times)
        return float(times.sum()) + self._share * len(times)

    def _charged(self, times: np.ndarray) -> np.ndarray:
        """`o`: what each adds to that."""
        found = times + self._share if self._issued is None else queueing.charged(self._issued, times)
        return np.asarray(found)

    def _differences(self, widths: np.ndarray, up: float, down: float) -> np.ndarray:
        """`g`: rise of the total from `down` units less to `up` more, a unit; groups keep one unit."""
        filled = passing(self.works.families, self.works.rows(widths))
        asked: list[tuple[int, np.ndarray, int]] = []
        moves: list[tuple[np.ndarray, int, int, float]] = []
        spans = []
        for group in range(self.groups):
            above, below = widths.copy(), widths.copy()
            above[group] += up
            below[group] = min(widths[group], max(1.0, widths[group] - down))
            spans.append(above[group] - below[group])
            own = np.nonzero(self._reads[:, group])[0] if self._reads.size else np.zeros(0, np.int64)
            for moved in (above, below):
                low, high, share = rungs(float(filled.sum() + (self._filled(own, moved) - filled[own]).sum()))
                asked += [(int(place), moved, rung) for rung in (low, high) for place in own]
                moves.append((own, low, high, share))
        times, now = iter(self._times(asked)), self._ladder(widths)
        totals = []
        for own, low, high, share in moves:
            found = (1 - share) * now(low) + share * now(high)
            lower, upper = (np.array([next(times) for _ in own]) for _ in range(2))
            found[own] = (1 - share) * lower + share * upper
            totals.append(self._sum(found))
        rises: np.ndarray = (np.array(totals[::2]) - np.array(totals[1::2])) / np.array(spans)
        return rises

    def _filled(self, places: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """Elements that the operations at `places` bring into the caches."""
        rows = self.works.constant[places] + self.works.linear[places] @ widths
        return passing([self.works.families[place] for place in places], rows)

    def _ladder(self, widths: np.ndarray) -> Callable[[int], np.ndarray]:
        """`o` milliseconds at `widths` as a function of the rung that all that passes in the network lies at."""

        @cache
        def at(rung: int) -> np.ndarray:
            return np.array(self._times([(place, widths, rung) for place in range(len(self.works.families))]))

        return at

    def _all(self, widths: np.ndarray) -> np.ndarray:
        """`o` milliseconds."""
        low, high, share = rungs(float(passing(self.works.families, self.works.rows(widths)).sum()))
        at = self._ladder(widths)
        found: np.ndarray = (1 - share) * at(low) + share * at(high)
        return found

    def _times(self, asked: Iterable[tuple[int, np.ndarray, int]]) -> list[float]:
        """Milliseconds of operations at widths, where all that passes lies at a rung; equal questions are answered from
        memory."""
        if self._cached > MOST_CACHED:
            self._cache, self._cached = [{} for _ in self.works.families], 0
        keys = [(place, (rung, widths[self._readers[place]].tobytes()), widths) for place, widths, rung in asked]
        missing: dict[tuple[int, tuple[int, bytes]], np.ndarray] = {
            (place, key): widths for place, key, widths in keys if key not in self._cache[place]
        }
        by_family: dict[str, list[tuple[int, tuple[int, bytes]]]] = {}
        for place, key in missing:
            by_family.setdefault(self.works.families[place], []).append((place, key))
        for name, items in by_family.items():
            rows = np.stack(
                [
                    self.works.constant[place]
                    + self.works.linear[place][:, self._readers[place]] @ missing[place, key][self._readers[place]]
                    for place, key in items
                ]
            )
            rows[:, RESIDENT] = [size_at(rung) for _, (rung, _) in items]
            for start in range(0, len(items), 4096):
                part = rows[start : start + 4096]
                found = self.predictor.operations([name] * len(part), part)
                for (place, key), value in zip(items[start : start + 4096], found, strict=True):
                    self._cache[place][key] = float(value)
            self._cached += len(items)
        return [self._cache[place][key] for place, key, _ in keys]


class _Total(torch.autograd.Function):
    """The total, with slopes for a gradient."""

    @staticmethod
    def forward(ctx: Any, widths: Tensor, bound: BoundLatency) -> Tensor:
        ctx.bound, ctx.at = bound, _plain(widths)
        return torch.tensor(bound.milliseconds(ctx.at), dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * torch.from_numpy(ctx.bound.slopes(ctx.at)), None


def _plain(widths: Tensor) -> np.ndarray:
    found: np.ndarray = widths.detach().cpu().double().numpy().copy()
    return found
