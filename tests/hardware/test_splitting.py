"""A library that does small operations in another way: where its switch is found, what is predicted on either side."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from morphsearch.hardware.bending import bend
from morphsearch.hardware.fitting import FamilyFit, fit_family
from morphsearch.hardware.predictor import NetworkSample, Predictor
from morphsearch.hardware.splitting import fit_split
from morphsearch.hardware.switching import Switch

SWITCH = 20480.0  # elements read, as PyTorch has it


def convolutions(count: int, seed: int = 0, widest: int = 100) -> np.ndarray:
    """`count` rows of 3x3 convolutions of one image, at one of three resolutions."""
    rng = np.random.default_rng(seed)
    c, o = rng.integers(3, widest, (2, count)).astype(float)
    made = rng.choice([144.0, 576.0, 2304.0], count)
    nine, none = np.full(count, 9.0), np.zeros(count)
    return np.stack([c, o, c, nine, made, made, c * made, o * made, none], axis=1)


def seconds(rows: np.ndarray) -> np.ndarray:
    """Half as long a multiply-add from the switch on."""
    macs = rows[:, 1] * rows[:, 2] * rows[:, 3] * rows[:, 5]
    return 5e-6 + macs / np.where(rows[:, 6] > SWITCH, 1e11, 5e10)


def off(fit: FamilyFit, rows: np.ndarray) -> float:
    return float(np.abs(fit.seconds("conv", rows) / seconds(rows) - 1).mean())


def test_operations_on_either_side_of_a_switch_are_predicted() -> None:
    rows = convolutions(400)
    fit = fit_split("conv", rows, seconds(rows))
    near = convolutions(3000, seed=1)
    near = near[np.abs(np.log(near[:, 6] / SWITCH)) < 0.4]
    assert fit.switch is not None
    assert off(fit, near) < 0.05
    assert off(fit, near) < off(fit_family("conv", rows, seconds(rows)), near) / 2


def test_what_has_no_switch_is_fitted_as_one() -> None:
    rows = convolutions(300)
    smooth = 5e-6 + rows[:, 1] * rows[:, 2] * rows[:, 3] * rows[:, 5] / 1e11
    rng = np.random.default_rng(0)
    assert fit_split("conv", rows, smooth).switch is None
    assert fit_split("conv", rows, smooth * np.exp(rng.normal(0, 0.1, len(rows)))).switch is None


def test_a_few_operations_are_no_reason_for_a_switch() -> None:
    rows = convolutions(40)
    assert fit_split("conv", rows, seconds(rows)).switch is None


def test_a_split_fit_is_written_and_read_without_change() -> None:
    rows = convolutions(200)
    fit = fit_split("conv", rows, seconds(rows))
    again = FamilyFit.from_dict(json.loads(json.dumps(fit.to_dict())))
    assert again.switch == fit.switch is not None
    assert again.seconds("conv", rows) == pytest.approx(fit.seconds("conv", rows), rel=1e-5)


def test_a_switch_on_something_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        Switch("colour", 1.0).above("conv", convolutions(3))
    with pytest.raises(ValueError, match="channels_in"):
        Switch("channels_in", 1.0).above("relu", convolutions(3))


def test_whole_networks_bend_both_sides_of_a_split_family() -> None:
    """They take a tenth more on one side of the switch: the fit of that side makes up for it."""
    rows = convolutions(400)
    predictor = Predictor({"conv": fit_split("conv", rows, seconds(rows))})
    samples = []
    for number in range(40):
        own = convolutions(12, seed=number + 2, widest=30)
        above = own[:, 6] > SWITCH
        ms = 1e3 * float((seconds(own) * np.where(above, 1.1, 1.0)).sum())
        names = ["conv"] * len(own)
        samples.append(NetworkSample("made", [], names, own, len(own), (names, own, seconds(own)), ms, ms, ms))

    def worst(of: Predictor) -> float:
        return max(abs(of.network(s.families, s.rows, s.steps) / s.ms - 1) for s in samples)

    before = worst(predictor)
    assert worst(bend(replace(predictor), samples)) < before / 2
