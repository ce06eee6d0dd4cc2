"""Profiles as files: they travel, they are found by name, and what is wrong with them is said."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import hardware_fakes as fakes
import pytest

import morphsearch as ms
from morphsearch.errors import InputError, MorphError, UnknownName, UsageError
from morphsearch.hardware import HardwareWarning, Latency, Settings, load
from morphsearch.hardware.profiles import MeasuredProfile


@pytest.fixture(scope="module")
def target() -> fakes.Target:
    return fakes.target()


@pytest.fixture(scope="module")
def made(target: fakes.Target) -> MeasuredProfile:
    return fakes.profile(target)


def test_a_saved_profile_is_found_by_name_and_by_file(
    made: MeasuredProfile, target: fakes.Target, tmp_path: Path
) -> None:
    by_name = made.save()
    elsewhere = made.save(tmp_path / "elsewhere.json")
    expected = ms.cost(target.graph, "latency", hardware=made).total
    for reference in ("simulated", str(by_name), elsewhere):
        found = ms.cost(target.graph, "latency", hardware=reference)
        assert found.unit == "ms"
        assert found.total == pytest.approx(expected, rel=1e-6)


def test_the_newest_profile_of_this_device_is_the_default(made: MeasuredProfile, target: fakes.Target) -> None:
    fakes.profile(target, name="old", created="2025-01-01T00:00:00+00:00").save()
    made.save()
    assert Latency().profile().name == "simulated"


def test_without_a_profile_it_says_how_to_make_one(target: fakes.Target) -> None:
    with pytest.raises(InputError) as caught:
        ms.cost(target.graph, "latency")
    assert "morphsearch profile" in caught.value.repair
    assert "--hardware v100" in caught.value.repair or "v100" in caught.value.repair


def test_a_profile_of_another_machine_is_no_default_and_warns_when_named(
    made: MeasuredProfile, target: fakes.Target, tmp_path: Path
) -> None:
    data = made.to_dict()
    data["device"] = {**data["device"], "name": "Other CPU"}
    data["versions"] = {**data["versions"], "torch": "1.0"}
    path = tmp_path / "profiles" / "other.json"
    path.parent.mkdir()
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="other"):
        Latency().profile()
    with pytest.warns(HardwareWarning) as caught:
        ms.cost(target.graph, "latency", hardware="other")
    told = " ".join(str(warning.message) for warning in caught)
    assert "Other CPU" in told
    assert made.device["name"] in told
    assert "torch 1.0" in told


def test_operations_that_the_profile_has_not_seen_warn_with_their_share(made: MeasuredProfile) -> None:
    import torch
    from torch import nn

    graph = ms.record(nn.Sequential(nn.Conv2d(3, 24, 3), nn.GELU(), nn.Conv2d(24, 8, 5)), torch.zeros(1, 3, 32, 32))
    with pytest.warns(HardwareWarning, match=r"gelu \d+%"):
        ms.cost(graph, "latency", hardware=made)


@pytest.mark.parametrize(("noise", "mape"), [(0.2, 0.01), (0.01, 0.3)])
def test_a_coarse_profile_says_how_coarse(
    made: MeasuredProfile, target: fakes.Target, noise: float, mape: float
) -> None:
    coarse = replace(made, noise={**made.noise, "repeated": noise}, error={**made.error, "mape": mape})
    with pytest.warns(HardwareWarning, match=f"true to about {100 * max(noise, mape):.0f}%"):
        ms.cost(target.graph, "latency", hardware=coarse)


def test_a_profile_made_here_for_this_network_does_not_warn(made: MeasuredProfile, target: fakes.Target) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ms.cost(target.graph, "latency", hardware=made)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": "something"}, "format"),
        ({"schema_version": 99}, "schema_version is 99"),
        ({"schema_version": 1}, "measured by an older morphsearch"),
        ({"kind": "guessed"}, "kind"),
        ({"fit": {}}, "fit"),
        ({"settings": []}, "settings"),
        ({"settings": {"backend": None}}, "settings.backend"),
        ({"settings": {"device": 3}}, "settings.device"),
        ({"error": {"mape": "small", "within_10": 1, "largest": 1, "networks": 1}}, "error.mape"),
        ({"noise": {"repeated": None, "worst": 0.0}}, "noise.repeated"),
        ({"noise": {}}, "'repeated' is a required property"),
        ({"error": {"mape": 0.1}}, "'within_10' is a required property"),
        ({"seconds": "long"}, "seconds"),
        ({"pace": -1}, "pace"),
        ({"notes": [None]}, "notes.0"),
    ],
)
def test_damaged_files_are_refused_with_the_field(
    made: MeasuredProfile, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps({**made.to_dict(), **change}))
    with pytest.raises(InputError) as caught:
        load(path)
    assert told in str(caught.value)


def test_arrays_of_other_sizes_never_predict(made: MeasuredProfile, tmp_path: Path) -> None:
    data = made.to_dict()
    data["fit"]["families"]["conv"]["theta"].pop()
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="conv"):
        load(path)


@pytest.mark.parametrize(("field", "value"), [("samples", 1.5), ("error", [None]), ("error", "small")])
def test_what_is_told_of_a_family_is_numbers(made: MeasuredProfile, tmp_path: Path, field: str, value: Any) -> None:
    data = made.to_dict()
    data["fit"]["families"]["conv"][field] = value
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=f"fit.families.conv.{field}"):
        load(path)


@pytest.mark.parametrize("value", [float("nan"), "one", None])
def test_numbers_that_are_none_never_predict(made: MeasuredProfile, tmp_path: Path, value: Any) -> None:
    data = made.to_dict()
    data["fit"]["families"]["conv"]["weights"][0] = value
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="fit"):
        load(path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("families.conv.length", 0),
        ("families.conv.length", {}),
        ("families.conv.low", [1.0]),
        ("scales.conv", float("nan")),
        ("per_step", float("nan")),
        ("constant", float("inf")),
    ],
)
def test_a_damaged_fit_is_refused_with_what_is_damaged(
    made: MeasuredProfile, tmp_path: Path, place: str, value: Any
) -> None:
    data = made.to_dict()
    *way, last = place.split(".")
    part = data["fit"]
    for key in way:
        part = part[key]
    part[last] = value
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError) as caught:
        load(path)
    assert "fit" in caught.value.arrived
    assert any(word in caught.value.arrived for word in place.split(".")[-2:])


@pytest.mark.parametrize(("place", "value"), [("per_step", -9.0), ("constant", -1e6), ("per_step", 1e308)])
def test_a_fit_whose_times_make_no_sense_is_refused(
    made: MeasuredProfile, target: fakes.Target, tmp_path: Path, place: str, value: float
) -> None:
    data = made.to_dict()
    data["fit"][place] = value
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="ms of this network"):
        ms.cost(target.graph, "latency", hardware=path)


def test_hardware_that_is_none_is_refused(target: fakes.Target) -> None:
    with pytest.raises(UsageError, match="hardware=5"):
        ms.cost(target.graph, "latency", hardware=5)


def test_a_misspelt_name_gets_the_nearest(made: MeasuredProfile) -> None:
    made.save()
    with pytest.raises(UnknownName, match="did you mean simulated"):
        load("simulatd")


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json"):
        load(tmp_path / "absent.json")


def test_known_hardware_is_found_by_its_figures(target: fakes.Target) -> None:
    assert ms.cost(target.graph, "latency", hardware="v100").total > 0


@pytest.mark.parametrize("wrong", [{"dtype": "float31"}, {"batch": 0}, {"threads": -1}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MorphError) as caught:
        Settings(**wrong)
    assert str(next(iter(wrong.values()))) in caught.value.arrived


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        Settings(device="cuda:9").require_device()
    assert "cuda:9" in caught.value.arrived


def test_more_threads_than_processors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    Settings(threads=2).require_device()
    with pytest.raises(InputError, match="threads=3 on a machine with 2 processors"):
        Settings(threads=3).require_device()
