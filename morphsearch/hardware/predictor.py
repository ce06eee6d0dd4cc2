"""The predictor of a network: every operation by the fit of its family, and what lies between operations.

``milliseconds = sum over parts of scale[part] * sum of its operations + per_step * operations + constant``. Operations
are timed one by one within running networks; the scales, near 1, and the rest make up for what that leaves out (calls
of modules, layout changes, the runtime itself), and are fitted to whole networks. Last, the fits of the families are
bent a little towards whole networks (:mod:`morphsearch.hardware.bending`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from morphsearch.hardware import queue as queueing
from morphsearch.hardware.algorithms import NO_RULE
from morphsearch.hardware.bending import bend
from morphsearch.hardware.fitting import FamilyFit, fit_family, terms
from morphsearch.hardware.kinds import POINTWISE, VIEW, WEIGHTED
from morphsearch.hardware.work import COLUMNS, RESIDENT, passing, placed

PARTS = ("conv", "conv_1x1", "conv_depthwise", "conv_grouped", "linear", "pointwise", "rest")
GROUPED = ("conv_depthwise", "conv_grouped")
CHANNELS, PER_GROUP, KERNEL, WRITTEN = map(COLUMNS.index, ("channels_in", "per_group", "kernel", "written"))
DRIFT = 2.0  # times that a machine may be slower when a network is watched than when it is timed
SHORTEST = 0.2  # of an observed time that is left at least once the cost of watching is taken off
STEEP, SMALLEST = 2, 1024.0  # rungs to a doubling of all that passes, and elements at the lowest
FEWEST = 4  # networks that tell what watching adds
LOOSE, ROUGH = 0.1, 0.05  # how far a scale may well be from 1, and a network's time from what its operations take


def actual(family: str, row: np.ndarray) -> str:
    """The family at these widths: a grouped convolution that has lost all groups but one is a plain one."""
    if family not in GROUPED:
        return family
    channels, per_group, kernel = row[CHANNELS], row[PER_GROUP], row[KERNEL]
    if channels <= per_group * (1 + 1e-9):
        return "conv" if kernel > 1 else "conv_1x1"
    return "conv_depthwise" if per_group <= 1 + 1e-9 else "conv_grouped"


def part_of(family: str) -> int:
    """Position in :data:`PARTS`."""
    if family in PARTS:
        return PARTS.index(family)
    if family in POINTWISE:
        return PARTS.index("pointwise")
    return PARTS.index("conv" if family in WEIGHTED else "rest")


@dataclass
class NetworkSample:
    """One measured network.

    Attributes:
        name: of the network it is a variant of. widths: in the order of its groups.
        families, rows: its operations as the graph foresees them, `o` and `o x f`. steps: their number before fusion.
        seen: families, rows (`n x f`) and seconds (`n`) of the operations as they were observed; may be empty.
        ms, low, high: of the whole network. repeated: how far two measurements lie apart, as a share.
        pace: milliseconds of a network that never changes, measured in turns with this one; 0 where nobody did.
        issued: `n` seconds that it took to queue what was observed; empty where operations run at once.
        rule: by which its runtime chooses algorithms, see :func:`morphsearch.hardware.algorithms.rule_of`.
    """

    name: str
    widths: list[int]
    families: list[str]
    rows: np.ndarray
    steps: int
    seen: tuple[list[str], np.ndarray, np.ndarray]
    ms: float
    low: float
    high: float
    repeated: float = 0.0
    pace: float = 0.0
    issued: np.ndarray = field(default_factory=lambda: np.zeros(0))
    rule: str = NO_RULE


def rungs(resident: float) -> tuple[int, int, float]:
    """The rungs below and above a size of all that passes, and how far it lies between them.

    Operations are predicted for the sizes of rungs, so that what was predicted of one operation holds when the widths
    of others change.
    """
    at = STEEP * np.log2(max(resident, SMALLEST))
    low = int(np.floor(at))
    return low, low + 1, float((2 ** (at / STEEP) - size_at(low)) / (size_at(low + 1) - size_at(low)))


def size_at(rung: int) -> float:
    """Elements that pass at a rung."""
    return float(2 ** (rung / STEEP))


@dataclass
class Predictor:
    """Predicts milliseconds of operations and networks.

    Attributes:
        families: fits by family. scales: one a part, see :data:`PARTS`. per_step, constant: milliseconds.
        whole: fitted to whole networks alone, since the backend does not tell operations apart.
        queue: where operations are queued for another device, what that takes.
    """

    families: dict[str, FamilyFit]
    scales: np.ndarray = field(default_factory=lambda: np.ones(len(PARTS)))
    per_step: float = 0.0
    constant: float = 0.0
    whole: bool = False
    queue: queueing.Queue | None = None

    def operations(self, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """`o` milliseconds of operations; `rows` is `o x f`. Scaled, without what lies between them."""
        result = np.zeros(len(rows))
        own = np.array(self.actual_families(names, rows), object)
        for name in dict.fromkeys(own.tolist()):
            known = name if name in self.families else self.stand_in(name)
            fit = self.families.get(known)
            if fit is None:
                continue
            places = np.nonzero(own == name)[0]
            found = fit.seconds(known, rows[places])
            # What writes nothing does not run: a branch that is left out.
            result[places] = 1e3 * found * self.scales[part_of(name)] * (rows[places, WRITTEN] > 0)
        return result

    def running(self, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """`o` milliseconds of the operations of a network: :meth:`operations`, between two of :func:`rungs`."""
        low, high, share = rungs(float(passing(names, rows).sum()))
        rows, found = rows.copy(), []
        for rung in (low, high):
            rows[:, RESIDENT] = size_at(rung)
            found.append(self.operations(names, rows))
        return (1 - share) * found[0] + share * found[1]

    @staticmethod
    def actual_families(names: Sequence[str], rows: np.ndarray) -> list[str]:
        """`o` families at these widths, see :func:`actual`."""
        return [actual(name, row) for name, row in zip(names, rows, strict=True)]

    def stand_in(self, name: str) -> str:
        """The family that a family without a fit is predicted by: the most alike that has one."""
        if name in WEIGHTED:
            order = ["conv", "conv_1x1", "conv_grouped", "conv_depthwise", "linear"]
            if name == "conv_depthwise":
                order = ["conv_grouped", "conv", "conv_1x1"]
        elif name == "matmul":
            order = ["linear", "conv_1x1"]
        elif name == "view":
            return ""
        else:
            order = ["add", "relu", "mul", "copy", "cat", "batch_norm", "max_pool", "mean"]
        return next((other for other in order if other in self.families), "")

    def unseen(self, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """`o` bool: operations that are extrapolated, for their kind or their size; `rows` is `o x f`."""
        result = np.zeros(len(names), bool)
        for name in dict.fromkeys(names):
            places = np.array([place for place, other in enumerate(names) if other == name])
            fit = self.families.get(name)
            result[places] = name != "view" if fit is None else fit.strange(name, rows[places])
        return result

    def network(self, sample_families: Sequence[str], rows: np.ndarray, steps: int) -> float:
        """Milliseconds of a whole network."""
        running = self.running(sample_families, rows)
        issued = self.issued(sample_families, steps)
        if issued is not None:
            return queueing.together(issued, running) + self.constant
        return float(running.sum()) + self.per_step * steps + self.constant

    def issued(self, names: Sequence[str], steps: int) -> np.ndarray | None:
        """`o` milliseconds to queue operations, with what lies between; None where they run at once."""
        if self.queue is None:
            return None
        return self.queue.times(names) + self.per_step * steps / max(1, len(names))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "families": {name: fit.to_dict() for name, fit in self.families.items()},
            "scales": dict(zip(PARTS, map(float, self.scales), strict=True)),
            "per_step": self.per_step,
            "constant": self.constant,
            "whole": self.whole,
            **({} if self.queue is None else {"queue": self.queue.to_dict()}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Predictor:
        """The inverse of :meth:`to_dict`."""
        return cls(
            {name: FamilyFit.from_dict(entry) for name, entry in data["families"].items()},
            np.array([float(data["scales"][part]) for part in PARTS]),
            float(data["per_step"]),
            float(data["constant"]),
            bool(data["whole"]),
            queueing.Queue.from_dict(data["queue"]) if "queue" in data else None,
        )


def fit(samples: Sequence[NetworkSample], seed: int = 0, *, bent: bool = True) -> Predictor:
    """Fit a predictor to measured networks; last, unless `bent` is False, bend it towards them."""
    names = sorted({name for sample in samples for name in sample.seen[0]} - {VIEW})
    if not names:
        return _fit_whole(samples)
    queued = any(sample.issued.size for sample in samples)
    families: dict[str, FamilyFit] = {}
    steady, doubts = (list(samples), np.zeros(len(samples))) if queued else steadied(samples, *watching(samples))
    for name in names:
        rows, seconds, doubt = _of_family(steady, doubts, name)
        families[name] = fit_family(name, rows, seconds, seed, doubt, samples[0].rule)
    if queued:
        return queueing.calibrate(Predictor(families, queue=queueing.Queue.of(samples)), samples)
    predictor = calibrate(Predictor(families), samples)
    return bend(predictor, samples) if bent else predictor


def watching(samples: Sequence[NetworkSample]) -> tuple[float, float]:
    """What the observed times of a network add up to: ``share * milliseconds + added * operations``.

    The least absolute errors, relative to the whole network, over all samples. `added` (milliseconds) is what a clock
    adds to an operation where it is above 0, and what the runtime does between operations where it is below.
    """
    watched = [sample for sample in samples if len(sample.seen[2])]
    if len(watched) < FEWEST:
        return 1.0, 0.0
    per_ms = np.array([len(sample.seen[2]) / sample.ms for sample in watched])
    sums = np.array([1e3 * float(sample.seen[2].sum()) / sample.ms for sample in watched])
    basis, weight = np.stack([np.ones_like(per_ms), per_ms], axis=1), np.ones(len(watched))
    share, added = float(np.median(sums)), 0.0
    for _ in range(30):
        share, added = map(float, np.linalg.lstsq(basis * weight[:, None], sums * weight, rcond=None)[0])
        weight = 1 / np.sqrt(np.maximum(np.abs(sums - share - added * per_ms), 1e-3))
    if not 1 / DRIFT < share < DRIFT:
        return float(np.median(sums)), 0.0
    return share, added


def steadied(samples: Sequence[NetworkSample], share: float, added: float) -> tuple[list[NetworkSample], np.ndarray]:
    """The samples with their observed times free of what watching adds, and of what the machine did in between.

    A network is watched at one moment and timed at another, when the machine may run faster or slower. The observed
    times of each are scaled so that they add up to what :func:`watching` says of a network that takes so long.

    Returns:
        The samples; and for each, how far its times had to be scaled, as a logarithm. What slows a network by so much
        falls on some operations more than on others, so that each of them is known no better than that.
    """
    found, doubts = [], np.zeros(len(samples))
    for number, sample in enumerate(samples):
        count, over = len(sample.seen[2]), 1e-3 * max(added, 0.0)
        times = np.maximum(sample.seen[2] - over, SHORTEST * sample.seen[2])
        due, total = 1e-3 * (share * sample.ms + min(added, 0.0) * count), float(times.sum())
        factor = due / total if total > 0 and due > 0 else 1.0
        doubts[number] = abs(np.log(factor))
        found.append(replace(sample, seen=(*sample.seen[:2], times * np.clip(factor, 1 / DRIFT, DRIFT))))
    return found, doubts


def _of_family(
    samples: Sequence[NetworkSample], doubts: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, seconds and doubts of one family; equal rows of one network count once, at their median."""
    rows, seconds, doubt = [], [], []
    for number, sample in enumerate(samples):
        families, seen, times = sample.seen
        places = [place for place, other in enumerate(families) if other == name]
        if not places:
            continue
        unique, which = np.unique(placed(families, seen)[places], axis=0, return_inverse=True)
        which = np.asarray(which).reshape(-1)
        rows.append(unique)
        seconds += [float(np.median(times[places][which == number])) for number in range(len(unique))]
        doubt += [float(doubts[number])] * len(unique)
    return np.concatenate(rows), np.array(seconds), np.array(doubt)


def calibrate(predictor: Predictor, samples: Sequence[NetworkSample]) -> Predictor:
    """Set scales, cost of a step and constant, to whole networks."""
    parts, steps, totals = _parts(predictor, samples)
    columns = np.concatenate([parts, steps[:, None], np.ones((len(samples), 1))], axis=1)
    size = np.array([*np.ones(len(PARTS)), 1.0 / max(1.0, steps.mean()), 1.0])
    # Relative errors, in units of what a network's time is off by; each scale is held near 1 in units of LOOSE, however
    # small its part: what few networks have much of would otherwise be bent to mend the errors of others.
    hold = np.eye(len(PARTS), columns.shape[1]) / LOOSE
    left = np.concatenate([columns / totals[:, None] / ROUGH, hold])
    right = np.concatenate([np.full(len(samples), 1 / ROUGH), np.full(len(PARTS), 1 / LOOSE)])
    found, _ = nnls(left / size, right)
    found = found / size
    predictor.scales, predictor.per_step, predictor.constant = found[:-2], float(found[-2]), float(found[-1])
    return predictor


def _parts(predictor: Predictor, samples: Sequence[NetworkSample]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unscaled milliseconds by part (`s x parts`), steps and measured milliseconds (`s`)."""
    plain = Predictor(predictor.families)
    parts = np.zeros((len(samples), len(PARTS)))
    for number, sample in enumerate(samples):
        own = plain.running(sample.families, sample.rows)
        names = map(actual, sample.families, sample.rows)
        np.add.at(parts[number], [part_of(name) for name in names], own)
    return parts, np.array([float(s.steps) for s in samples]), np.array([s.ms for s in samples])


def _fit_whole(samples: Sequence[NetworkSample]) -> Predictor:
    """Where operations were not observed: all families' terms at once, against whole networks."""
    names = sorted({name for sample in samples for name in sample.families if name != "view"})
    totals = np.array([sample.ms for sample in samples]) / 1e3
    blocks = []
    for name in names:
        width = terms(name, samples[0].rows[:1]).shape[1]
        block = np.zeros((len(samples), width))
        for number, sample in enumerate(samples):
            places = [place for place, other in enumerate(sample.families) if other == name]
            if places:
                block[number] = terms(name, placed(sample.families, sample.rows)[places]).sum(0)
        blocks.append(block)
    phi = np.concatenate([*blocks, np.ones((len(samples), 1))], axis=1) / totals[:, None]
    size = np.maximum(np.abs(phi).max(0), 1e-30)
    # A little weight on small coefficients decides between terms that few networks cannot tell apart.
    held = np.concatenate([phi / size, 0.02 * np.eye(phi.shape[1])])
    found, _ = nnls(held, np.concatenate([np.ones(len(samples)), np.zeros(phi.shape[1])]))
    theta = found / size
    families, start = {}, 0
    for name, block in zip(names, blocks, strict=True):
        rows = np.concatenate([placed(s.families, s.rows)[[other == name for other in s.families]] for s in samples])
        own = theta[start : start + block.shape[1]]
        families[name] = FamilyFit(own, low=rows.min(0), high=rows.max(0), samples=len(rows))
        start += block.shape[1]
    return Predictor(families, constant=1e3 * float(theta[-1]), whole=True)


def cross_validate(samples: Sequence[NetworkSample], folds: int = 4, seed: int = 0) -> np.ndarray:
    """Predicted over measured for every network (`s`), each by a predictor that has not seen it."""
    order = np.random.default_rng(seed).permutation(len(samples))
    result = np.ones(len(samples))
    for fold in range(min(folds, len(samples))):
        out = set(order[fold::folds].tolist())
        kept = [sample for place, sample in enumerate(samples) if place not in out]
        if not kept:
            continue
        predictor = fit(kept, seed)
        for place in out:
            sample = samples[place]
            result[place] = predictor.network(sample.families, sample.rows, sample.steps) / sample.ms
    return result


def errors(ratios: np.ndarray) -> dict[str, float]:
    """Of predicted over measured: mean absolute error, share within 10 %, largest error."""
    off = np.abs(ratios - 1)
    return {
        "mape": float(off.mean()),
        "within_10": float((off <= 0.1).mean()),
        "largest": float(off.max()),
        "networks": len(ratios),
    }
