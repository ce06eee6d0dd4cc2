"""Whether a profile is right: networks that it has not seen, predicted and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from morphsearch.hardware.measure import CHUNK, Session
from morphsearch.hardware.predictor import errors
from morphsearch.hardware.profiles import MeasuredProfile
from morphsearch.hardware.sampling import Target, build, draw_widths

APACE = 0.05  # share that the pace may differ by before it is told
APART = 1_000_003  # added to the random seed, so that no widths are those of the fit


@dataclass
class Row:
    """One network: its milliseconds as predicted and as measured, with the interval and how far repetitions differ."""

    network: str
    widths: dict[str, int]
    predicted: float
    measured: float
    low: float
    high: float
    repeated: float


@dataclass
class ProfileVerification:
    """Predicted against measured.

    Attributes:
        error: see :func:`morphsearch.hardware.predictor.errors`; with `rank`, Spearman's rank correlation.
        noise: mean difference of the same network measured twice, as a share.
    """

    profile: str
    rows: list[Row]
    error: dict[str, float]
    noise: float
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def verify(
    profile: MeasuredProfile, targets: Sequence[Target], *, networks: int = 10, seed: int = 0
) -> ProfileVerification:
    """Measure random variants of `targets` under the profile's settings and compare.

    Raises:
        InputError: the device or the backend of the profile is not here.
    """
    session = Session(profile.settings)
    rng = np.random.default_rng(APART + seed)
    rows: list[Row] = []
    paces: list[float] = []
    bound = {target.name: profile.bind(target.graph) for target in targets}
    pending = [targets[number % len(targets)] for number in range(networks)]
    for start in range(0, len(pending), CHUNK):
        chosen = [(target, draw_widths(target.graph, rng)) for target in pending[start : start + CHUNK]]
        built = [(build(target, widths), target.graph.example_inputs) for target, widths in chosen]
        timings, pace = session.paced(built)
        paces.append(pace / profile.pace if profile.pace else 1.0)
        for (target, widths), timing in zip(chosen, timings, strict=True):
            complete = {**target.graph.widths, **widths}
            predicted = predict(bound[target.name], target, complete) * paces[-1] ** profile.pace_power
            rows.append(Row(target.name, complete, predicted, timing.ms, timing.low, timing.high, timing.repeated))
    ratios = np.array([row.predicted / row.measured for row in rows])
    noise = float(np.mean([row.repeated for row in rows]))
    notes = profile.strangeness()
    if noise > 0.05:
        notes.append(f"the machine was busy: the same network measured twice differs by {100 * noise:.0f}% on average")
    slower = float(np.median(paces))
    if abs(slower - 1) > APACE:
        notes.append(
            f"a reference network takes {slower:.2f} times what it took when the profile was made; predictions are "
            f"scaled to the pace of now, by a factor of {slower**profile.pace_power:.2f}"
        )
    return ProfileVerification(profile.name, rows, {**errors(ratios), "rank": rank(rows)}, noise, notes)


def predict(bound: Any, target: Target, widths: dict[str, int]) -> float:
    """Milliseconds by a bound latency."""
    from morphsearch.costs import vector

    return float(bound.total(vector(target.graph, widths)))


def rank(rows: Sequence[Row]) -> float:
    """Spearman's rank correlation of predicted and measured; 1 for fewer than three."""
    from scipy.stats import spearmanr

    if len(rows) < 3:
        return 1.0
    return float(spearmanr([row.predicted for row in rows], [row.measured for row in rows]).statistic)
