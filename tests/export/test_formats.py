"""``ms.export`` and its formats: ONNX, programs of torch.export, widths, what a plugin brings."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import morphsearch as ms
from morphsearch import plugins
from morphsearch.errors import InputError, PluginError, UnknownName, UsageError
from morphsearch.exporting import onnx as onnx_module
from morphsearch.exporting import programs
from morphsearch.exporting.source import Source
from morphsearch.files import read_tensors, write_tensors
from morphsearch.graph import record
from morphsearch.loop.architecture import Architecture, describe_inputs
from morphsearch.types import ExporterRecord
from tests.export.exporting import construct
from tests.graph import caches
from tests.graph.mechanisms import CASES

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")), reason="onnx is not installed"
)
INPUTS = torch.zeros(1, 1, 8, 8)


@pytest.fixture
def saved(tmp_path: Path) -> Architecture:
    """An architecture of digits_net in a file."""
    from morphsearch.models import build_seed

    torch.manual_seed(0)
    graph = record(build_seed("digits_net").model, INPUTS)
    widths = {**graph.widths, "stem.conv": 11, "mix.1.conv": 30}
    found = Architecture(
        "001", "digits_net", describe_inputs(INPUTS), widths, graph.widths, {}, floors=dict.fromkeys(graph.widths, 1)
    )
    found.save(tmp_path / "run" / "iterations" / "001")
    return found


@needs_onnx
@pytest.mark.filterwarnings("ignore")  # of the exporter's own insides
def test_onnx_runs_in_onnx_runtime_at_any_batch(tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(0)
    model = CASES["channel_shuffle"].build().eval()
    done = ms.export(model, format="onnx", example_inputs=torch.zeros(1, 3, 8, 8), path=tmp_path / "net.onnx")
    assert done.notes == []
    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x = torch.randn(batch, 3, 8, 8)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(found), model(x), atol=1e-5)


def test_onnx_without_its_packages_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx_module, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs onnx and onnxscript") as caught:
        ms.export(
            CASES["plain"].build(), format="onnx", example_inputs=torch.zeros(1, 3, 8, 8), path=tmp_path / "a.onnx"
        )
    assert "pip install" in caught.value.repair
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
def test_pt2_loads_without_the_network(saved: Architecture, tmp_path: Path) -> None:
    weights = saved.build().state_dict()
    write_tensors(tmp_path / "w.safetensors", weights)
    done = ms.export(saved, format="pt2", weights=tmp_path / "w.safetensors", path=tmp_path / "net.pt2")
    assert done.notes == []
    program = torch.export.load(done.path).module()
    reference = saved.build()
    reference.load_state_dict(weights)
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(program(x), reference.eval()(x), atol=1e-5)


def test_a_program_that_differs_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(programs, "error", lambda one, other: 0.5)
    with pytest.raises(InputError, match="not the network that was asked for"):
        ms.export(CASES["plain"].build(), format="pt2", example_inputs=torch.zeros(1, 3, 8, 8), path=tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
def test_code_that_torch_export_cannot_follow_goes_through_its_source(tmp_path: Path) -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = CASES["plain"].build()

        def forward(self, x: Tensor) -> Tensor:
            if bool((x.abs().sum() >= 0).item()):
                x = x * 2
            result: Tensor = self.inner(x)
            return result

    model = Deciding().eval()
    done = ms.export(model, format="pt2", example_inputs=torch.zeros(1, 3, 8, 8), path=tmp_path / "net.pt2")
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(torch.export.load(done.path).module()(x), model(x), atol=1e-5)
    assert any("decides by the numbers" in note for note in done.notes)


class Several(nn.Module):
    """Its forward code takes any number of images."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = CASES["plain"].build()

    def forward(self, *images: Tensor) -> Tensor:
        return torch.stack([self.inner(image) for image in images]).sum(0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["pt2", pytest.param("onnx", marks=needs_onnx)])
def test_the_batch_of_arguments_behind_a_star_is_open(tmp_path: Path, format: str) -> None:
    model, example = Several().eval(), torch.zeros(1, 3, 8, 8)
    done = ms.export(model, format=format, path=tmp_path / "net", example_inputs=(example, example))
    assert done.notes == []
    given = (torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8))
    if format == "pt2":
        found = torch.export.load(done.path).module()(*given)
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        found = torch.from_numpy(session.run(None, {n: x.numpy() for n, x in zip(names, given, strict=True)})[0])
    with torch.no_grad():
        assert torch.allclose(found, model(*given), atol=1e-5)


def test_an_exporter_gets_a_copy_since_code_may_keep_what_it_computed() -> None:
    """Anchors that a detector keeps would stay an exporter's tracers, and the check would compare with those."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(3, 8, 3)
            self.kept: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.inner(x)
            self.kept = [torch.arange(found.shape[-1])]
            return found + self.kept[0]

    program = programs.Program(Source.given(Detector(), torch.zeros(1, 3, 8, 8), "detector"), None, False)
    before = program.model.kept
    program.attempt(lambda model, args, kwargs, shapes: model(*args, **kwargs))
    assert program.model.kept is before


@pytest.mark.filterwarnings("ignore")
def test_a_program_that_cannot_be_read_back_is_an_error(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = CASES["plain"].build()

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"out": self.inner(x), "kind": "logits"}

    with pytest.raises(InputError, match="cannot be exported") as caught:
        ms.export(Named(), format="pt2", example_inputs=torch.zeros(1, 3, 8, 8), path=tmp_path / "net.pt2")
    assert "python" in caught.value.repair
    assert list(tmp_path.iterdir()) == []


@needs_onnx
@pytest.mark.filterwarnings("ignore")
def test_onnx_names_the_cause_and_not_its_own_steps(tmp_path: Path) -> None:
    class Fourier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(3, 8, 3)
            self.phase = nn.Parameter(torch.randn(8, dtype=torch.cfloat))

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = (torch.fft.fft2(self.inner(x)) * self.phase[:, None, None]).abs()
            return found

    with pytest.raises(InputError, match="cannot be exported") as caught:
        ms.export(Fourier(), format="onnx", example_inputs=torch.zeros(1, 3, 8, 8), path=tmp_path / "net.onnx")
    assert "complex" in caught.value.arrived
    assert "\x1b" not in caught.value.arrived


def test_an_architecture_is_exported_from_a_run_and_its_weights_load(saved: Architecture, tmp_path: Path) -> None:
    trained = saved.build()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.normal_()
    write_tensors(tmp_path / "w.safetensors", trained.state_dict())
    done = ms.export(tmp_path / "run", weights=tmp_path / "w.safetensors", path=tmp_path / "net.py")
    made = construct(done.path.read_text())
    made.load_state_dict(read_tensors(tmp_path / "net.safetensors"))
    x = torch.randn(3, 1, 8, 8)
    assert torch.allclose(made.eval()(x), trained.eval()(x), rtol=1e-4, atol=1e-4)
    assert "stem.conv 11 of 24" in done.path.read_text()


@pytest.mark.parametrize("kind", ["missing", "extra", "shape"])
def test_weights_of_another_network_are_refused(saved: Architecture, tmp_path: Path, kind: str) -> None:
    weights = dict(saved.build().state_dict())
    if kind == "missing":
        del weights["stem.conv.weight"]
    elif kind == "extra":
        weights["stem.conv.wieght"] = torch.zeros(1)
    else:
        weights["stem.conv.weight"] = torch.zeros(3, 1, 3, 3)
    with pytest.raises(InputError, match=r"stem\.conv\.w") as caught:
        ms.export(saved, weights=weights, path=tmp_path / "net.py")
    assert caught.value.rule
    assert not (tmp_path / "net.py").exists()


def test_widths_of_a_network_that_was_handed_over(tmp_path: Path) -> None:
    model = CASES["plain"].build()
    ms.export(model, format="widths", example_inputs=torch.zeros(1, 3, 8, 8), path=tmp_path / "w.json")
    assert json.loads((tmp_path / "w.json").read_text())["widths"] == record(model, torch.zeros(1, 3, 8, 8)).widths


def test_misspelt_formats_and_things_that_are_no_network() -> None:
    with pytest.raises(UnknownName, match="pyhton") as caught:
        ms.export(CASES["plain"].build(), format="pyhton", example_inputs=torch.zeros(1, 3, 8, 8))
    assert "python" in caught.value.repair
    with pytest.raises(UsageError, match="without example inputs"):
        ms.export(CASES["plain"].build())
    with pytest.raises(UsageError, match="a list cannot be exported"):
        ms.export([])  # type: ignore[arg-type]


def test_plugins_get_a_whole_architecture_and_their_failures_are_theirs(tmp_path: Path) -> None:
    class Lines:
        suffix = ".txt"

        def export(self, architecture: Any, destination: Any, *, weights: Any = None, allow_code: bool = False) -> None:
            if architecture.name == "broken":
                raise KeyError("no such luck")
            built = architecture.build(allow_code=allow_code)
            Path(destination).write_text(f"{sum(p.numel() for p in built.parameters())} {len(weights)}")

    class Plugin:
        @ms.hookimpl
        def morphsearch_exporters(self) -> list[ExporterRecord]:
            return [ExporterRecord("lines", "Lines", Lines)]

    plugin = Plugin()
    plugins.register(plugin)
    model = CASES["plain"].build()
    try:
        done = ms.export(model, format="lines", example_inputs=torch.zeros(1, 3, 8, 8), path=tmp_path / "a.txt")
        assert done.path.read_text() == f"{sum(p.numel() for p in model.parameters())} {len(model.state_dict())}"
        source = Source.given(model, torch.zeros(1, 3, 8, 8), "broken")
        with pytest.raises(PluginError, match="no such luck"):
            ms.export(source, format="lines", path=tmp_path / "b.txt")
    finally:
        plugins.unregister(plugin)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ran", [False, True], ids=["new", "ran before"])
@pytest.mark.parametrize("form", ["file", "lru_cache", "object"])
@pytest.mark.parametrize("format", ["python", "pt2"])
def test_what_code_keeps_outside_of_modules_stays_as_it_was(format: str, form: str, ran: bool, tmp_path: Path) -> None:
    caches.forget()
    model, x = caches.Network(caches.FORMS[form]).eval(), torch.rand(1, 3, 9, 9)
    if ran:
        model(x)
    done = ms.export(model, format=format, example_inputs=x, path=tmp_path / f"net.{format}")
    expected = model(x)
    if format == "pt2":
        found = torch.export.load(done.path).module()(x)
    else:
        made = construct((tmp_path / "net.python").read_text())
        made.load_state_dict(model.state_dict())
        found = made.eval()(x)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.py", "python"), ("a.onnx", "onnx"), ("a.pt2", "pt2"), ("a.json", "widths"), ("a", "python")],
)
def test_the_name_of_the_file_says_the_format(name: str, format: str, tmp_path: Path) -> None:
    model, x = CASES["plain"].build(), torch.zeros(1, 3, 8, 8)
    assert ms.export(model, example_inputs=x, path=tmp_path / name).format == format
    assert ms.export(model, example_inputs=x, path=tmp_path).path.suffix == ".py", "a folder says nothing"
    assert ms.export(model, example_inputs=x, path=tmp_path / "b.txt", format="python").format == "python"


def test_a_name_that_no_format_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"end in \.pth") as caught:
        ms.export(CASES["plain"].build(), example_inputs=torch.zeros(1, 3, 8, 8), path=tmp_path / "net.pth")
    assert "onnx (.onnx)" in caught.value.rule
    assert "net.onnx" in caught.value.repair
    assert not list(tmp_path.iterdir())
