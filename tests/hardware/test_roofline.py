"""Rooflines: what each operation costs by hand, fusion, what binds, files, names, and every promise of a cost model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from morphsearch.costs import cost, vector
from morphsearch.errors import InputError, MorphError, UnknownName
from morphsearch.graph import record
from morphsearch.hardware import devices
from morphsearch.hardware.roofline import RooflineProfile
from morphsearch.testing import CostModelConformance

SLOW = RooflineProfile("slow", {"float32": 1e9}, 1e9)  # a multiply-add takes 2 ns, a number 4 ns


class Roofline:
    """A cost model of one profile."""

    name, unit = "latency", "ms"

    def __init__(self, profile: RooflineProfile) -> None:
        self.profile = profile

    def bind(self, graph: Any) -> Any:
        return self.profile.bind(graph)


class TestRoofline(CostModelConformance):
    def cost_model(self) -> Any:
        return Roofline(devices.named("v100"))


class TestWithoutFusion(CostModelConformance):
    def cost_model(self) -> Any:
        return Roofline(RooflineProfile("eager", {"float32": 3e9}, 1e9, 1e-7, fuses=False))


class Net(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def nanoseconds(profile: RooflineProfile, model: nn.Module, *shape: int) -> float:
    return 1e6 * cost(record(model.eval(), torch.randn(*shape)), Roofline(profile)).total


def test_a_convolution_takes_as_long_as_it_computes_or_moves_data() -> None:
    conv = Net(nn.Conv2d(16, 16, 3, padding=1, bias=False))
    macs, moved = 16 * 16 * 9 * 64, 16 * 64 + 16 * 64 + 16 * 16 * 9
    assert nanoseconds(SLOW, conv, 1, 16, 8, 8) == pytest.approx(max(2 * macs, 4 * moved))
    fast = RooflineProfile("fast", {"float32": 1e13}, 1e9)
    assert nanoseconds(fast, conv, 1, 16, 8, 8) == pytest.approx(4 * moved)
    half = RooflineProfile("half", {"float16": 1e13}, 1e9, dtype="float16")
    assert nanoseconds(half, conv, 1, 16, 8, 8) == pytest.approx(2 * moved)


def test_what_is_fused_costs_neither_data_nor_a_launch() -> None:
    profile = RooflineProfile("moves", {"float32": 1e13}, 1e9, 1e-6)
    conv = nn.Conv2d(8, 8, 1, bias=False)
    chain = Net(conv, nn.BatchNorm2d(8), nn.ReLU())
    scales = 2 * 8 * 4  # of the norm
    alone = nanoseconds(profile, Net(conv), 1, 8, 8, 8)
    assert nanoseconds(profile, chain, 1, 8, 8, 8) == pytest.approx(alone + scales)
    eager = RooflineProfile("eager", {"float32": 1e13}, 1e9, 1e-6, fuses=False)
    tensors = 4 * 4 * 8 * 64  # norm and relu read and write one each
    assert nanoseconds(eager, chain, 1, 8, 8, 8) == pytest.approx(alone + scales + tensors + 2000)


class Shared(nn.Module):
    """What lies between is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * torch.sigmoid(y)


def test_what_others_read_is_written() -> None:
    profile = RooflineProfile("moves", {"float32": 1e13}, 1e9)
    one = 8 * 64
    # The convolution writes y; the sigmoid and the product are one kernel, that reads it once and writes the result.
    expected = 4 * (3 * 64 + 3 * 8 + one + one + one)
    assert nanoseconds(profile, Shared(), 1, 3, 8, 8) == pytest.approx(expected)


def test_depthwise_weights_are_counted_as_they_are() -> None:
    profile = RooflineProfile("moves", {"float32": 1e15}, 1e9)
    depthwise = Net(nn.Conv2d(3, 32, 1, bias=False), nn.Conv2d(32, 32, 3, groups=32, padding=1, bias=False))
    first = 4 * (3 * 16 + 3 * 32 + 32 * 16)
    assert nanoseconds(profile, depthwise, 1, 3, 4, 4) == pytest.approx(first + 4 * (2 * 32 * 16 + 32 * 9))


@pytest.mark.parametrize(
    "layer", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Softmax(1), nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(1)]
)
def test_pools_softmax_and_resizing_are_not_free(layer: nn.Module) -> None:
    conv = nn.Conv2d(3, 8, 1)
    alone = nanoseconds(SLOW, Net(conv), 1, 3, 8, 8)
    assert nanoseconds(SLOW, Net(conv, layer), 1, 3, 8, 8) >= alone + 4 * 8 * 64


def test_details_say_what_binds_each_layer() -> None:
    profile = RooflineProfile("even", {"float32": 2e9}, 4e9, 2e-7)
    wide, pool, head = nn.Conv2d(3, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(64, 2, 1)
    graph = record(Net(wide, nn.ReLU(), pool, head).eval(), torch.randn(1, 3, 16, 16))
    found = cost(graph, Roofline(profile))
    assert {layer: detail["bound"] for layer, detail in found.details.items()} == {
        "layers.0": "compute",
        "layers.2": "memory",
        "layers.3": "launch",
    }
    for layer, detail in found.details.items():
        sides = max(float(detail["compute"]), float(detail["memory"]))
        assert found.per_layer[layer] == pytest.approx(sides + float(detail["launch"]))
    assert "even" in found.notes[0]


def test_known_hardware_has_a_source_for_every_figure() -> None:
    for name in devices.names():
        profile = devices.named(name)
        figures = {*profile.peak, "bandwidth", *([] if profile.launch is None else ["launch"])}
        assert set(profile.sources) == figures, name
        assert all(profile.sources.values()), name
    assert {"k80", "p4", "t4", "p100", "v100", "tpu-v2"} <= set(devices.names())


def test_another_type_of_number() -> None:
    assert devices.named("h100").dtype == "tf32"
    assert devices.named("H100:float16").dtype == "float16"
    with pytest.raises(UnknownName) as caught:
        devices.named("h100:floot16")
    assert "float16" in caught.value.repair
    with pytest.raises(UnknownName) as caught:
        devices.named("v10")
    assert "v100" in caught.value.repair


def test_a_profile_travels_as_json(tmp_path: Path) -> None:
    profile = devices.named("a100:float16")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(profile.to_dict()))
    assert RooflineProfile.from_dict(json.loads(path.read_text())) == profile


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bandwidth": 0}, "bandwidth"),
        ({"bandwidth": "fast"}, "bandwidth"),
        ({"bandwidth": True}, "bandwidth"),
        ({"bandwidth": float("nan")}, "bandwidth"),
        ({"peak_flops": {"float32": -1}}, "float32"),
        ({"peak_flops": {}}, "peak_flops"),
        ({"peak_flops": {"flaot32": 1e9}}, "flaot32"),
        ({"peak_flops": 3}, "peak_flops"),
        ({"dtype": "float16"}, "float16"),
        ({"launch_overhead": -1e-6}, "launch"),
        ({"bandwith": 1e9}, "bandwith"),
        ({"name": None}, "name"),
        ({"fuses": "yes"}, "fuses"),
    ],
)
def test_a_bad_profile_names_the_figure(change: dict[str, Any], named: str) -> None:
    data = {"name": "mine", "peak_flops": {"float32": 1e12}, "bandwidth": 1e10} | change
    with pytest.raises(MorphError) as caught:
        RooflineProfile.from_dict(data)
    assert named in caught.value.arrived


@pytest.mark.parametrize("missing", ["name", "peak_flops", "bandwidth"])
def test_a_missing_figure_is_named(missing: str) -> None:
    data = {"name": "mine", "peak_flops": {"float32": 1e12}, "bandwidth": 1e10}
    del data[missing]
    with pytest.raises(InputError, match=missing):
        RooflineProfile.from_dict(data)


def test_a_search_for_a_device_that_is_not_here_prices_its_units() -> None:
    graph = record(
        Net(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)), torch.randn(1, 3, 16, 16)
    )
    bound = SLOW.bind(graph)
    assert (bound.marginal(vector(graph, graph.widths))[: len(graph.free)] > 0).any()
