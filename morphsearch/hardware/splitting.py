"""Families are split where a library changes its way.

PyTorch leaves a convolution of one image to a matrix product as long as it reads no more than 20480 elements, and gives
larger ones to oneDNN, which takes half as long a multiply-add: 3x3 from 32 to 32 channels at 24 x 24 positions takes
as long as from 48 to 48. ONNX Runtime keeps channels in blocks only where they divide by 4. No smooth fit follows such
steps. So a family is split in two at a value of one feature where the fits of both sides, each judged by operations
that are left out, are much better than one fit to all; and each side again (treed Gaussian processes, Gramacy and Lee,
JASA 103, 2008). Nothing here knows the rules of any library.

Where to split is first looked for with straight lines through what the terms of the whole family miss, and then, for
the best few, judged with fits.

Letters: `n` samples, `f` columns of a row, `d` coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from morphsearch.hardware.fitting import DOUBTFUL, TINY, FamilyFit, coordinates, fit_family, standardised
from morphsearch.hardware.switching import Switch, features

LEAST = 24  # operations on either side
DEPTH = 2  # switches one behind another
CANDIDATES = 4  # that are judged by fits
GAIN = 0.88  # of the error of one fit, that two must not exceed
FINE = 0.02  # error of a fit that is good as it is
HELD = 0.3  # ridge of the straight lines, in samples
CUTS, NEAR = 20, 24  # values of a feature that are tried, and around the best of them
REACH, TRIES = 0.4, 8  # logarithm that the value of a switch is sought within, and values that are judged by fits
QUICK = ((1.2, 3.5), (0.003, 0.03, 0.3))  # length scales and noises that sides are judged with


@dataclass(frozen=True)
class _Seen:
    """Operations of one family: `n x f` rows, `n` seconds and doubts."""

    family: str
    rows: np.ndarray
    seconds: np.ndarray
    doubts: np.ndarray

    def where(self, chosen: np.ndarray) -> _Seen:
        return replace(self, rows=self.rows[chosen], seconds=self.seconds[chosen], doubts=self.doubts[chosen])

    def fit(self, seed: int, quick: bool = False) -> FamilyFit:
        grid = QUICK if quick else ()
        return fit_family(self.family, self.rows, self.seconds, seed, self.doubts, *grid)


def fit_split(
    family: str, rows: np.ndarray, seconds: np.ndarray, seed: int = 0, doubts: np.ndarray | None = None
) -> FamilyFit:
    """:func:`~morphsearch.hardware.fitting.fit_family`, split where that helps."""
    seen = _Seen(family, rows, seconds, np.zeros(len(rows)) if doubts is None else doubts)
    return _grown(seen, seen.fit(seed), seed, DEPTH)


def _grown(seen: _Seen, whole: FamilyFit, seed: int, depth: int) -> FamilyFit:
    if depth == 0 or len(seen.rows) < 2 * LEAST or whole.error < FINE:
        return whole
    least, found = GAIN * seen.fit(seed, quick=True).error, None
    for switch in candidates(seen):
        error = _error(seen, switch, seed)
        if error < least:
            least, found = error, switch
    if found is None:
        return whole
    found = _refined(seen, found, least, seed)
    above = found.above(seen.family, seen.rows)
    sides = [seen.where(chosen) for chosen in (~above, above)]
    fits = tuple(_grown(side, side.fit(seed), seed, depth - 1) for side in sides)
    error = float(np.average([fit.error for fit in fits], weights=[side.seconds.sum() for side in sides]))
    return FamilyFit(
        whole.theta, low=whole.low, high=whole.high, samples=whole.samples, error=error, switch=found, sides=fits
    )


def _refined(seen: _Seen, switch: Switch, least: float, seed: int) -> Switch:
    """The value nearby whose sides have the least error."""
    values = np.unique(features(seen.family, seen.rows)[switch.feature])
    for reach in (REACH, REACH / 4):
        near = values[(values > switch.at * np.exp(-reach)) & (values < switch.at * np.exp(reach))]
        for step in sorted(set(np.linspace(0, len(near) - 2, TRIES).round().astype(int).tolist())):
            if not 0 <= step < len(near) - 1:
                continue
            other = Switch(switch.feature, float((near[step] + near[step + 1]) / 2))
            sides = other.above(seen.family, seen.rows)
            if min(sides.sum(), (~sides).sum()) < LEAST:
                continue
            error = _error(seen, other, seed)
            if error < least:
                least, switch = error, other
    return switch


def _error(seen: _Seen, switch: Switch, seed: int) -> float:
    """Of the fits of both sides, by the time that their operations take."""
    above = switch.above(seen.family, seen.rows)
    sides = [seen.where(chosen) for chosen in (~above, above)]
    errors = [side.fit(seed, quick=True).error for side in sides]
    return float(np.average(errors, weights=[side.seconds.sum() for side in sides]))


def candidates(seen: _Seen) -> list[Switch]:
    """The switches, of one feature each, whose two sides miss the least of what straight lines can say."""
    plain = fit_family(seen.family, seen.rows, seen.seconds, 0, seen.doubts, (), ())
    rest = np.log(np.maximum(seen.seconds, TINY) / plain.seconds(seen.family, seen.rows))
    weight = np.sqrt(seen.seconds / seen.seconds.mean()) / (1 + seen.doubts / DOUBTFUL)
    lines = np.concatenate([np.ones((len(rest), 1)), standardised(coordinates(seen.family, seen.rows))[0]], axis=1)
    left, right = lines * weight[:, None], np.clip(rest, -3, 3) * weight
    hold = HELD * np.eye(lines.shape[1])
    hold[0, 0] = 1e-6

    def missed(chosen: np.ndarray) -> float:
        a, b = left[chosen], right[chosen]
        return float((np.abs(b - a @ np.linalg.solve(a.T @ a + hold, a.T @ b)) * weight[chosen]).sum())

    def best(values: np.ndarray, cuts: np.ndarray) -> tuple[float, float]:
        scores = [(np.inf, 0.0)]
        for cut in cuts:
            above = values > cut
            if min(above.sum(), len(above) - above.sum()) >= LEAST:
                scores.append((missed(above) + missed(~above), float(cut)))
        return min(scores)

    found: list[tuple[float, Switch]] = []
    for feature, values in features(seen.family, seen.rows).items():
        known = np.unique(values)
        coarse = known[:-1] if len(known) <= CUTS else np.unique(np.quantile(known, np.linspace(0, 1, CUTS + 1)[:-1]))
        score, cut = best(values, coarse)
        if not np.isfinite(score):
            continue
        if len(known) > CUTS:
            place = int(np.searchsorted(coarse, cut))
            low, high = coarse[max(place - 1, 0)], coarse[min(place + 1, len(coarse) - 1)]
            near = known[(known >= low) & (known <= high)]
            score, cut = min((score, cut), best(values, near[:: max(1, len(near) // NEAR)]))
        found.append((score, Switch(feature, float((known[known <= cut].max() + known[known > cut].min()) / 2))))
    return [switch for _, switch in sorted(found, key=lambda item: item[0])[:CANDIDATES]]
