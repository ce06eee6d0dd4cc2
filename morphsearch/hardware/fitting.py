"""The predictor of one operation: a roofline-like sum of non-negative terms, and a smooth correction of what it misses.

For each family, seconds are ``theta . phi(row)`` with ``theta >= 0``: a constant, arithmetic as it is and with channels
padded to vectors of 8 and 16, traffic of inputs, outputs and filters, and of filters once more as far as what passes
between two uses of them does not fit a cache. Where a runtime chooses between algorithms by a rule that is known
(:mod:`morphsearch.hardware.algorithms`), each of them has terms of its own. What remains, the logarithm of measured
over predicted, is smoothed by a Gaussian process (Rasmussen and Williams 2006, algorithm 2.1) over the logarithms of
the sizes, how full vectors are, and whether channels divide by 4, 8 and 16 or are fewer than a vector has, since
libraries choose their kernels and their layouts by that. Its length scale and noise are those with the smallest
leave-one-out error (section 5.4.2).
:mod:`morphsearch.hardware.bending` then tilts it a little, so that whole networks come out right.

Letters: `n` samples, `o` operations, `f` columns of a row, `p` terms, `d` coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import nnls

from morphsearch.hardware.algorithms import NO_RULE, ways
from morphsearch.hardware.kinds import WEIGHTED
from morphsearch.hardware.work import AGAIN, COLUMNS

MOST = 700  # samples a family: more make predictions slow
JUDGES = 250  # of them that the length scale and the noise are chosen by
LENGTHS = (0.7, 1.2, 2.0, 3.5, 6.0, 10.0)
NOISES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
TINY = 1e-7  # seconds
FARTHEST = 3.0  # that a correction goes, as a logarithm
STEEPEST = 0.5  # that a bend goes, as a logarithm
OUTERMOST = 2.5  # standard deviations that it is followed to
SIZES, RESIDENT = 6, 8  # where the columns of elements read and written begin, and where they end
ROUNDS = 4
TICK = 5e-7  # seconds, the resolution of clocks
DIVISORS = (4, 8, 16)
LONGEST = 1e3  # times the median that an operation may take and count the more
DOUBTFUL = 0.1  # logarithm that an observation is known to, at which it counts half
CACHES = (2.0**18, 2.0**20, 2.0**22)  # elements that may fit one
VECTOR = 16  # floats
SEEN = 0.1  # of the largest operation: up to there a surcharge must have been seen to count


def padded(size: np.ndarray, vector: int) -> np.ndarray:
    """`size` rounded up to a multiple of `vector`."""
    found: np.ndarray = np.ceil(size / vector - 1e-9) * vector
    return found


def _divides(size: np.ndarray, divisor: int) -> np.ndarray:
    found: np.ndarray = (np.rint(size) % divisor == 0).astype(np.float64)
    return found


def filtered(family: str) -> bool:
    """Whether operations of a family multiply with something: their rows then hold all columns."""
    return family in WEIGHTED or family == "matmul"


def terms(family: str, rows: np.ndarray, rule: str = NO_RULE, *, everywhere: bool = False) -> np.ndarray:
    """`n x p`: what the time of an operation is a non-negative combination of; `rows` is `n x f`.

    By a `rule`, each algorithm has the same terms, and those of the others are 0. With `everywhere`, terms that only
    some widths have (surcharges) or one algorithm are given as if all widths had them.
    """
    c, o, per_group, kernel, taken, made, read, written, resident, again = rows.T
    one = np.ones(len(rows))
    uneven = 1 - _divides(c, 4) * _divides(o, 4)
    even = 1 - uneven
    if everywhere:
        uneven = even = one
    if not filtered(family):
        # What stands between blocked convolutions may pay for a change of layout, or be spared one.
        return np.stack([one, read, written, uneven, read * uneven, read * even], axis=1)
    macs = made * o * per_group * kernel
    deep = family in ("conv_depthwise", "conv_grouped")
    columns = [one, macs, read, written, o * per_group * kernel, again]
    for vector in (VECTOR // 2, VECTOR):
        inner = per_group if deep else padded(per_group, vector)
        columns.append(made * padded(o, vector) * inner * kernel)
    columns += [taken * padded(c, VECTOR), made * padded(o, VECTOR), made * per_group * kernel]
    if not deep:
        columns.append(made * padded(o, VECTOR) * per_group * kernel)
    if family not in ("linear", "matmul"):  # which nobody keeps in blocks
        columns += [uneven, o * uneven, macs * uneven, read * uneven]
    columns += [o * per_group * kernel * resident**2 / (resident**2 + size**2 + 1) for size in CACHES]
    taken_by = ways(rule, family, rows)
    if taken_by is not None:
        taken_by = np.ones_like(taken_by) if everywhere else taken_by
        columns = [column * way for way in taken_by.T for column in columns]
    return np.stack(columns, axis=1)


def coordinates(family: str, rows: np.ndarray, rule: str = NO_RULE) -> np.ndarray:
    """`n x d`: where an operation lies for the correction."""
    c, o, per_group, kernel, taken, made, read, written, resident, _ = np.maximum(rows, 0.0).T
    if not filtered(family):
        own = [0.7 * _divides(o, divisor) for divisor in DIVISORS]
        # Elements of a channel: loops run over them, and what is at the edge of an image is done otherwise.
        own += [np.where(size > 0, np.log1p(all_ / np.maximum(size, 1)), 0) for size, all_ in ((o, written), (c, read))]
        return np.stack([np.log1p(read), np.log1p(written), *own], axis=1)
    sizes = [np.log1p(value) for value in (c, o, per_group, kernel, taken, made)]
    sizes += [np.log1p(read), np.log1p(written), np.log1p(resident)]
    full = [2 * np.log(padded(np.maximum(size, 1), VECTOR) / np.maximum(size, 1)) for size in (c, o)]
    told = (c, o, per_group) if family == "conv_grouped" else (c, o)
    even = [0.7 * _divides(size, divisor) for size in told for divisor in DIVISORS]
    if family in ("conv", "conv_1x1"):  # fewer channels than a vector cannot be read in blocks
        even.append((c < VECTOR).astype(np.float64))
    taken_by = ways(rule, family, rows)
    return np.stack([*sizes, *full, *even, *([] if taken_by is None else taken_by.T)], axis=1)


@dataclass
class FamilyFit:
    """What was learnt of one family.

    Attributes:
        theta: `p`, seconds a term. centre, scale: `d`, of the coordinates.
        places: `n x d`, standardised. weights: `n`, of the correction. length, noise: of the process.
        bend: `1 + d`, along :meth:`tilts`: by which logarithm each changes the time; empty where nothing is bent.
        low, high: `f`, the range of the rows that were seen.
        error: leave-one-out, mean absolute relative, weighted by time. rule: of :data:`~.algorithms.RULES`.
    """

    theta: np.ndarray
    centre: np.ndarray = field(default_factory=lambda: np.zeros(0))
    scale: np.ndarray = field(default_factory=lambda: np.ones(0))
    places: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    length: float = 1.0
    noise: float = 1.0
    bend: np.ndarray = field(default_factory=lambda: np.zeros(0))
    low: np.ndarray = field(default_factory=lambda: np.zeros(0))
    high: np.ndarray = field(default_factory=lambda: np.zeros(0))
    samples: int = 0
    error: float = 0.0
    rule: str = NO_RULE

    def seconds(self, family: str, rows: np.ndarray) -> np.ndarray:
        """`o` seconds; `rows` is `o x f`."""
        plain: np.ndarray = np.maximum(terms(family, rows, self.rule) @ self.theta, TINY)
        if not self.weights.size:
            return plain
        at = (coordinates(family, rows, self.rule) - self.centre) / self.scale
        correction = _kernel(at, self.places, self.length) @ self.weights
        found: np.ndarray = plain * np.exp(np.clip(correction, -FARTHEST, FARTHEST))
        if self.bend.size:
            found = found * np.exp(np.clip(self.tilts(family, rows) @ self.bend, -STEEPEST, STEEPEST))
        return found

    def tilts(self, family: str, rows: np.ndarray) -> np.ndarray:
        """`o x (1 + d)`: a one, and the standardised coordinates within what was seen: what :attr:`bend` is along."""
        at = np.clip((coordinates(family, rows, self.rule) - self.centre) / self.scale, -OUTERMOST, OUTERMOST)
        return np.concatenate([np.ones((len(rows), 1)), at], axis=1)

    def strange(self, family: str, rows: np.ndarray, room: float = 1.5) -> np.ndarray:
        """`o` bool: operations that lie outside of what was seen, by more than a factor of `room`."""
        if not self.low.size:
            return np.zeros(len(rows), bool)
        outside = (rows > self.high * room + 1) | (rows < self.low / room - 1)
        # Channels alone make nothing strange that has no filters; what passes in the whole network makes nothing so.
        judged = [*range(0 if filtered(family) else SIZES, RESIDENT), AGAIN]
        return np.asarray(outside[:, judged].any(axis=1))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        arrays = ("theta", "centre", "scale", "weights", "bend", "low", "high")
        data: dict[str, Any] = {name: _short(getattr(self, name)) for name in arrays}
        data["places"] = [_short(row) for row in self.places]
        if self.rule:
            data["rule"] = self.rule
        return {**data, "length": self.length, "noise": self.noise, "samples": self.samples, "error": self.error}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FamilyFit:
        """The inverse of :meth:`to_dict`."""
        arrays: dict[str, Any] = {
            name: np.asarray(data[name], np.float64)
            for name in ("theta", "centre", "scale", "weights", "bend", "low", "high")
        }
        count = len(data["weights"])
        places = np.asarray(data["places"], np.float64).reshape(count, -1) if count else np.zeros((0, 0))
        rest = {name: data[name] for name in ("length", "noise", "samples", "error")}
        return cls(places=places, **arrays, **rest, rule=str(data.get("rule", NO_RULE)))


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.9g}") for value in values]


def _kernel(left: np.ndarray, right: np.ndarray, length: float) -> np.ndarray:
    """Matern 3/2."""
    square = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * left @ right.T
    distance = np.sqrt(3 * np.maximum(square, 0.0)) / length
    found: np.ndarray = (1 + distance) * np.exp(-distance)
    return found


def fit_family(
    family: str,
    rows: np.ndarray,
    seconds: np.ndarray,
    seed: int = 0,
    doubts: np.ndarray | None = None,
    rule: str = NO_RULE,
) -> FamilyFit:
    """Fit one family to `n x f` rows and `n` seconds, which are known to `n` doubts, as logarithms."""
    seconds, doubts = np.maximum(seconds, TINY), np.zeros(len(rows)) if doubts is None else doubts
    if len(rows) > MOST:
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), MOST, replace=False))
        rows, seconds, doubts = rows[chosen], seconds[chosen], doubts[chosen]
    trust = 1 / (1 + (doubts / DOUBTFUL) ** 2)
    # Errors add up in milliseconds: what takes long counts the more.
    long = np.clip(seconds / np.median(seconds), 1 / LONGEST, LONGEST) ** 0.5
    theta = _theta(known(family, rows, rule), seconds, trust * long)
    fit = FamilyFit(theta, low=rows.min(0), high=rows.max(0), samples=len(rows), rule=rule)
    plain = np.maximum(terms(family, rows, rule) @ theta, TINY)
    rest = np.log(seconds / plain)
    fit.error = float(np.abs(np.expm1(-rest)).mean())
    if len(rows) < 8:
        return fit
    where = coordinates(family, rows, rule)
    fit.centre, fit.scale = where.mean(0), np.where(where.std(0) > 1e-6, np.maximum(where.std(0), 0.3), 1e9)
    fit.places = (where - fit.centre) / fit.scale
    rest = np.clip(rest, -FARTHEST, FARTHEST)
    spread = max(float(np.sqrt(np.average((rest - rest.mean()) ** 2, weights=trust))), 1e-3)
    # Clocks tick in microseconds: what is short is known the less.
    tick = ((TICK / seconds) ** 2 + doubts**2) / spread**2
    importance = seconds * trust / (seconds * trust).sum()
    few = np.arange(len(rows))
    if len(rows) > JUDGES:
        few = np.sort(np.random.default_rng(seed).choice(len(rows), JUDGES, replace=False))
    best, judged = np.inf, np.sqrt(importance[few])
    for length in LENGTHS:
        gram = _kernel(fit.places[few], fit.places[few], length)
        for noise in NOISES:
            _, left_out = _solved(gram, noise + tick[few], rest[few])
            error = float((left_out * judged).sum() / judged.sum())
            if error < best:
                best, fit.length, fit.noise = error, length, noise
    fit.weights, left_out = _solved(_kernel(fit.places, fit.places, fit.length), fit.noise + tick, rest)
    fit.error = float((left_out * importance).sum())
    return fit


def _solved(gram: np.ndarray, noise: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`n` weights of a process, and `n` errors of each sample when it is left out."""
    inverse = cho_solve(cho_factor(gram + np.diag(noise), lower=True), np.eye(len(gram)))
    weights = inverse @ rest
    return weights, np.abs(weights / np.diagonal(inverse))


def known(family: str, rows: np.ndarray, rule: str = NO_RULE) -> np.ndarray:
    """:func:`terms`, without surcharges that were seen on small operations alone, or on all large ones, and without
    what was the same in all of them, which cannot be told from the constant.

    A surcharge that the clock's own error puts on operations of ten elements is not one to put on a million. And one
    that all pay cannot be told from what they pay anyway: whoever does not pay it would come out as free.
    """
    found, whole = terms(family, rows, rule), terms(family, rows, rule, everywhere=True)
    large = np.abs(whole) >= SEEN * np.abs(whole).max(0)
    seen = (large & (found != 0)).any(0)
    told = (large & (found == 0)).any(0)
    some = _for_some(family)
    varied = found.max(0) > found.min(0) * (1 + 1e-9)
    varied[:: len(some)] = True  # the constant itself, of each algorithm
    result: np.ndarray = found * (seen & varied & (told | ~np.tile(some, found.shape[1] // len(some))))
    return result


def _for_some(family: str) -> np.ndarray:
    """`p` bool: terms that only some widths have."""
    even_and_uneven = np.ones((2, len(COLUMNS)))
    even_and_uneven[:, :2] = [[4], [5]]
    found: np.ndarray = (terms(family, even_and_uneven) == 0).any(0)
    return found


def _theta(phi: np.ndarray, seconds: np.ndarray, trust: np.ndarray) -> np.ndarray:
    """Non-negative least squares of relative errors; terms are scaled, so that tiny coefficients come out right."""
    weight, less = seconds, 1 / np.sqrt(trust)
    result: np.ndarray = np.zeros(phi.shape[1])
    for _ in range(ROUNDS):
        scaled = phi / (weight * less)[:, None]
        size = np.maximum(np.abs(scaled).max(0), 1e-30)
        found, _ = nnls(scaled / size, seconds / (weight * less))
        result = found / size
        # Errors relative to the measured alone would favour predictions that are too small.
        weight = np.sqrt(seconds * np.maximum(phi @ result, 0.05 * seconds))
    return result
