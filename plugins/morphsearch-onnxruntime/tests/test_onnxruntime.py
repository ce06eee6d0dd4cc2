"""The plugin as a user has it: found, measuring, checking."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from morphsearch_onnxruntime import checking, nodes, sessions
from morphsearch_onnxruntime.backend import AGAIN, OnnxRuntime
from torch import nn

from morphsearch import plugins
from morphsearch.cli import main
from morphsearch.errors import InputError
from morphsearch.hardware import Settings, profile
from morphsearch.hardware.kinds import WEIGHTED, Fusion
from morphsearch.hardware.sampling import Target, build, draw_widths
from morphsearch.hardware.work import COLUMNS, row_of, works_of
from morphsearch.models import build_seed
from morphsearch.testing import LatencyBackendConformance


class TestOnnxRuntime(LatencyBackendConformance):
    def backend(self):
        return OnnxRuntime()


@pytest.fixture(scope="module")
def target():
    torch.manual_seed(0)
    return Target.of("mobilenet_v1", build_seed("mobilenet_v1").model, torch.zeros(1, 3, 32, 32))


def test_it_is_found_through_its_entry_point():
    for kind, name in (("latency_backends", "onnxruntime"), ("commands", "onnx-check")):
        assert plugins.record(kind, name).origin == "morphsearch-onnxruntime 0.1.0"
    assert not plugins.problems()


@pytest.mark.parametrize("seed", [0, 1])
def test_convolutions_are_told_apart_at_their_true_sizes(target, seed):
    widths = draw_widths(target.graph, np.random.default_rng(seed))
    seen = OnnxRuntime().observe(build(target, widths), [torch.randn(2, 3, 32, 32)], Settings(batch=2), repeats=3)
    observed = sorted(tuple(row[:6]) for name, row in map(row_of, seen) if name in WEIGHTED - {"linear"})
    works = works_of(target.graph, Fusion.of(OnnxRuntime(), Settings("onnxruntime")), 2)
    rows = works.rows(np.array([{**target.graph.widths, **widths}[name] for name in target.graph.groups], float))
    expected = sorted(
        tuple(row[:6]) for name, row in zip(works.families, rows, strict=True) if name in WEIGHTED - {"linear"}
    )
    assert np.allclose(observed, expected)
    passes = {len(one.seconds) for one in seen}
    assert passes in ({2}, {3}), "a pass that had to wait for a core is left out, while half or more are left"
    assert all(min(one.seconds) >= 0 for one in seen)
    assert "batch_norm" not in works.families
    assert "relu" not in works.families


def test_a_sum_that_is_fused_in_is_read_at_its_true_size():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)

        def forward(self, x):
            x = self.one(x).relu()
            return (x + self.two(x)).relu()

    model = Residual().eval()
    seen = OnnxRuntime().observe(model, [torch.randn(1, 3, 8, 8)], Settings(), repeats=3)
    read = [row[COLUMNS.index("read")] for name, row in map(row_of, seen) if name == "conv"]
    graph = Target.of("net", model, torch.zeros(1, 3, 8, 8)).graph
    widths = np.array([float(width) for width in graph.widths.values()])
    works = works_of(graph, Fusion.of(OnnxRuntime(), Settings("onnxruntime")), 1)
    assert read == works.rows(widths)[:, COLUMNS.index("read")].tolist() == [3 * 64, 2 * 12 * 64]


@pytest.mark.parametrize("channels", [5, 32])
@pytest.mark.parametrize("kind", [nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.SiLU])
def test_activations_that_go_over_results_again_are_seen_and_foreseen(kind, channels):
    """In blocks of channels (32) and without (5), after dense filters and one a channel; relu and SiLU do not."""
    one = nn.Sequential(nn.Conv2d(channels, channels, 3), nn.BatchNorm2d(channels), kind())
    two = nn.Sequential(nn.Conv2d(channels, channels, 3, groups=channels), kind(), nn.Conv2d(channels, 8, 1))
    model, x = nn.Sequential(one, two).eval(), torch.randn(1, channels, 8, 8)
    seen = [row_of(one) for one in OnnxRuntime().observe(model, [x], Settings(), repeats=3)]
    graph = Target.of("net", model, x).graph
    works = works_of(graph, Fusion.of(OnnxRuntime(), Settings("onnxruntime")), 1)
    rows = works.rows(np.array([float(width) for width in graph.widths.values()]))
    again = COLUMNS.index("again")
    found = [row[again] for name, row in seen if name in WEIGHTED]
    foreseen = [row[again] for name, row in zip(works.families, rows, strict=True) if name in WEIGHTED]
    assert found == pytest.approx(foreseen)
    name = {nn.ReLU6: "hardtanh", nn.LeakyReLU: "leaky_relu"}.get(kind, kind.__name__.lower())
    price = AGAIN.get(name, 0)
    assert found == pytest.approx([price * channels * 36, price * channels * 16, 0])


def test_times_are_finer_than_the_whole_microseconds_of_a_profile():
    """Made-up events: nodes of several operators, told as ONNX Runtime tells them."""
    rng = np.random.default_rng(0)
    operators, kept = ["Conv", "Relu", "Conv", "Conv", "Relu"] * 4, {"Conv": 2.4, "Relu": 1.7}
    wanted = rng.uniform(2, 9, len(operators))
    rows = []
    for _ in range(60):
        now, row = rng.uniform(0, 1000), []
        for operator, lasts in zip(operators, wanted, strict=True):
            row.append({"ts": int(now), "dur": int(lasts), "args": {"op_name": operator}})
            now += lasts + kept[operator]
        rows.append(row)
    found = np.array(nodes._times(rows)).mean(axis=1)
    assert np.abs(found - wanted)[:-1].max() < 0.3
    assert np.abs(found - wanted).mean() < 0.5 * np.abs(np.floor(wanted) + 0.5 - wanted).mean()
    (alone,) = nodes._times([[{"ts": 5, "dur": 7, "args": {"op_name": "Conv"}}]])
    assert alone == [7.5]


def test_what_has_no_filters_is_told_at_its_true_channels_too():
    """ONNX Runtime pads the 10 channels of this network to whole blocks."""
    model = nn.Sequential(nn.Conv2d(3, 10, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(10, 4, 1)).eval()
    seen = OnnxRuntime().observe(model, [torch.randn(1, 3, 16, 16)], Settings(), repeats=3)
    shapes = {one.kind: one.outputs[0] for one in seen if one.kind in ("silu", "max_pool")}
    assert shapes == {"silu": (1, 10, 16, 16), "max_pool": (1, 10, 8, 8)}


def test_what_is_timed_and_watched_is_exported_once(monkeypatch):
    made = []
    plain = sessions.export
    monkeypatch.setattr(sessions, "export", lambda *given: made.append(given) or plain(*given))
    backend, model, x = OnnxRuntime(), nn.Conv2d(3, 4, 3).eval(), torch.randn(1, 3, 8, 8)
    backend.prepare(model, [x], Settings())
    backend.observe(model, [x], Settings(), repeats=2)
    assert len(made) == 1
    backend.prepare(model, [torch.randn(1, 3, 9, 9)], Settings())
    assert len(made) == 2


def test_a_prepared_network_computes_what_pytorch_does():
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval(), torch.randn(2, 3, 9, 9)
    (found,) = OnnxRuntime().prepare(model, [x], Settings(batch=2))()
    with torch.no_grad():
        assert np.allclose(found, model(x).numpy(), atol=1e-5)


def test_a_profile_is_measured_with_it(target):
    found = profile([target], Settings("onnxruntime"), limit=60, networks=6)
    assert found.versions["onnxruntime"]
    assert {"conv", "conv_1x1", "conv_depthwise"} <= set(found.predictor.families)
    assert found.fusion.into_weights >= {"batch_norm", "relu"}


def test_check_passes_a_faithful_export_and_refuses_another(monkeypatch):
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.randn(1, 3, 8, 8)
    assert checking.check(model, x).error <= checking.TOLERANCE
    other = sessions.export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), [x])
    monkeypatch.setattr(sessions, "export", lambda model, inputs: other)
    with pytest.raises(InputError, match="something else"):
        checking.check(model, x)


def test_the_command():
    done = CliRunner().invoke(main, ["onnx-check", "digits_net", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["error"] <= 1e-4


def test_what_cannot_be_exported_is_refused_by_name():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x)

    with pytest.raises(InputError, match="cannot be exported"):
        sessions.export(Odd().eval(), [torch.randn(3, 3)])


def test_a_device_without_its_provider_is_refused():
    with pytest.raises(InputError, match="onnxruntime-gpu"):
        OnnxRuntime().check(Settings("onnxruntime", device="cuda"))
