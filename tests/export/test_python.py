"""Exported source: equal to the network, of torch alone, readable, safe."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import morphsearch as ms
from morphsearch.errors import InputError, UsageError
from morphsearch.exporting import python
from morphsearch.exporting.literals import tensor
from morphsearch.exporting.python import source_of
from morphsearch.exporting.source import Source
from morphsearch.exporting.taken import MARK
from morphsearch.files import read_tensors
from morphsearch.loop.architecture import describe_inputs
from tests import torchvision_shim
from tests.export.exporting import assert_same, construct, resized, source, tensors
from tests.graph import mixtures, multihead, usual
from tests.graph.mechanisms import CASES, cbr, conv, head, net

ROOT = Path(__file__).parents[2]
MECHANISMS = (
    "residual dense_concat unet depthwise grouped_lockstep channel_shuffle shuffle_units halves_apart c2f split_written"
    " res2net interleaved flatten_linear view_written pixel_unshuffle focus_by_view padded_shortcut written_in_place"
    " squeeze_excite layer_scale learned_gate layer_norm_map group_norm batch_norm_plain shared_head tied_weights"
    " two_inputs functional buffers blur_pool_written weight_standardisation summed_weights control_flow never_called"
    " auxiliary_head one_dimensional three_dimensional eca attention multihead_attention recurrent"
    " multihead_without_a_shortcut embedding_of_argmax weight_norm spectral_norm conv_lstm conv_gru made_state"
    " mixed_kernels experts_of_several_images demodulated"
).split()
REGISTERED = (usual.weight_norm, multihead.attention_pool, mixtures.mixed_kernels)
assert {one.__name__ for one in REGISTERED} <= CASES.keys()  # those files register networks
Pair = namedtuple("Pair", ["first", "second"])


def formatted(text: str, tmp_path: Path) -> bool:
    """Whether formatter and linter leave a file alone."""
    path = tmp_path / "formatted.py"
    path.write_text(text)
    ruff = [sys.executable, "-m", "ruff"]
    for command in ([*ruff, "format", "--diff", "--line-length=120"], [*ruff, "check", "--select=E4,E7,E9,F"]):
        done = subprocess.run([*command, "--isolated", str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return True


@pytest.mark.parametrize("name", MECHANISMS)
def test_resized_networks_of_every_mechanism(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    model, architecture = resized(case.build(), case.inputs)
    assert_same(model, source(model, architecture), case.inputs)


@pytest.mark.parametrize("name", ["googlenet", "shufflenet_v2_x1_0", "squeezenet1_0"])
def test_torchvision(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.zeros(1, 3, 64, 64)
    model, architecture = resized(torchvision_shim.build(name), inputs, 0.3)
    text = source(model, architecture)
    assert_same(model, text, torch.zeros(2, 3, 65, 67))
    assert formatted(text, tmp_path)
    assert "torchvision" not in {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}


def test_fresh_weights_under_weight_norm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    normed = torch.nn.utils.parametrizations.weight_norm
    seed = nn.Sequential(normed(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    model, architecture = resized(seed, torch.zeros(1, 3, 8, 8))
    text = source(model, architecture)
    assert formatted(text, tmp_path)
    made = construct(text)
    length = made.get_parameter("0.parametrizations.weight.original0")
    assert (length > 0).all()
    assert made(torch.zeros(2, 3, 8, 8)).isfinite().all()


class HalvesSwapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = conv(3, 12), head(12)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(self.body(x), [4, 8], 1)
        result: Tensor = self.head(torch.cat([second, first], 1))
        return result


def test_a_part_of_which_no_channel_is_left() -> None:
    torch.manual_seed(0)
    inputs = torch.zeros(1, 3, 8, 8)
    graph = ms.record(HalvesSwapped(), inputs)
    kept = {"body": [5, 7, 8, 11]}
    widths = {**graph.widths, "body": 4}
    architecture = Source("001", None, describe_inputs(inputs), widths, graph.widths, {})
    model = graph.shrink(kept)
    assert_same(model, source(model, architecture), torch.zeros(2, 3, 9, 9))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_constants_without_numbers_keep_shape_and_type(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    module = ModuleType("exported")
    exec(f"import torch\nmade = {tensor(torch.zeros(shape, dtype=dtype))}", vars(module))
    assert (module.made.shape, module.made.dtype) == (shape, dtype)


def test_blocks_of_other_widths_share_a_class() -> None:
    torch.manual_seed(0)
    model, architecture = resized(_stack(), torch.zeros(1, 3, 8, 8))
    text = source(model, architecture)
    classes = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert classes == ["Block", "Network"]
    assert "Block(a_0_in=" in text


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = cbr(inputs, outputs), cbr(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        result: Tensor = x + self.b(x)
        return result


def _stack() -> nn.Module:
    return nn.Sequential(Block(3, 8), Block(8, 12), Block(12, 20), head(20))


class Detector(nn.Module):
    """Three maps of a pyramid, a head that they share, and results of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.deep = cbr(3, 6, stride=2), cbr(6, 8, stride=2), cbr(8, 10, stride=2)
        self.laterals = nn.ModuleList([conv(6, 7, 1), conv(8, 7, 1), conv(10, 7, 1)])
        self.head = cbr(7, 9)
        self.predict = nn.ModuleDict({"box": conv(9, 4, 1), "class": conv(9, 5, 1)})

    def forward(self, x: Tensor) -> dict[str, Any]:
        c1 = self.stem(x)
        c2 = self.down(c1)
        maps = [lateral(c) for lateral, c in zip(self.laterals, (c1, c2, self.deep(c2)), strict=True)]
        for i in (1, 0):
            maps[i] = maps[i] + F.interpolate(maps[i + 1], size=maps[i].shape[-2:])
        found = [self.head(one) for one in maps]
        boxes = torch.cat([self.predict["box"](one).flatten(2) for one in found], 2)
        classes = [self.predict["class"](one) for one in found]
        return {"boxes": boxes, "pair": Pair(classes[0], classes[1:]), 'it\'s a "key"': found[-1].mean()}


def test_a_detector_with_several_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.zeros(1, 3, 16, 16)
    model, architecture = resized(Detector(), inputs)
    text = source(model, architecture)
    assert_same(model, text, torch.zeros(3, 3, 40, 27))
    assert formatted(text, tmp_path)
    found = construct(text)(inputs)
    assert list(found) == ["boxes", "pair", 'it\'s a "key"']
    assert found["pair"]._fields == ("first", "second")


def test_dropout_and_stochastic_depth_draw_as_the_network_does() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        if s.training:
            keep = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(0.5)
            x = x + s.b(x) * keep.div_(0.5)
        else:
            x = x + s.b(x)
        return s.head(F.dropout(s.drop(x), 0.2, s.training))

    model = net(forward, a=cbr(3, 6), b=cbr(6, 6), drop=nn.Dropout(0.3), head=head(6))
    network, architecture = resized(model, torch.zeros(2, 3, 8, 8))
    text = source(network, architecture)
    assert "if self.training:" in text
    assert "F.dropout(" in text
    assert "self.training)" in text
    assert_same(network, text, torch.zeros(4, 3, 8, 8))


def test_it_runs_where_torch_is_all_there_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.zeros(1, 3, 64, 64)
    model, _ = resized(torchvision_shim.build("mobilenet_v2"), inputs, 0.2)
    model.eval()
    written = ms.export(model, example_inputs=inputs, path=tmp_path / "net.py")
    assert written.notes == []
    assert read_tensors(tmp_path / "net.safetensors").keys() == model.state_dict().keys()
    script = f"""
import sys

class Only:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("morphsearch", "torchvision", "timm", "safetensors", "onnx"):
            raise ImportError(name + " is not here")

sys.meta_path.insert(0, Only())
sys.path.insert(0, {str(tmp_path)!r})
import torch
import net

model = net.load_weights(net.MobileNetV2(), {str(tmp_path / "net.safetensors")!r}).eval()
x = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
print(model(x).flatten().tolist())
assert not any(name.partition(".")[0] in ("morphsearch", "torchvision") for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = model(torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)).flatten()
    assert torch.allclose(torch.tensor(ast.literal_eval(done.stdout)), expected, atol=1e-5)


def test_fresh_weights_are_drawn_as_for_retraining() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = conv(3, 40), conv(40, 50), head(50)
            self.scale = nn.Parameter(torch.full((50, 1, 1), 0.01))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.b(self.a(x).relu()) * self.scale)
            return result

        def init_weights(self) -> None:
            nn.init.normal_(self.a.weight, 0.0, 7.0)
            nn.init.zeros_(self.b.weight)

    torch.manual_seed(0)
    model, architecture = resized(Own(), torch.zeros(1, 3, 8, 8), 0.5)
    made = construct(source(model, architecture))
    assert float(made.a.weight.detach().std()) == pytest.approx(7.0, rel=0.2)
    assert made.b.weight.abs().max() == 0
    assert torch.equal(made.scale, torch.full((25, 1, 1), 0.01))
    assert float(made.head[2].weight.detach().std()) == pytest.approx(
        float(model.head[2].weight.detach().std()), rel=0.3
    )


HOSTILE = 'a"""\nimport os\nos.system("x")\n\\" {0} \u202e'


class Hostile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 4)
        self.add_module(HOSTILE.replace(".", ""), conv(4, 4))
        self.register_buffer('b"]) + exec("x', torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        modules = list(self.children())
        return {HOSTILE: modules[1](modules[0](x)) * next(self.buffers())}


def test_names_from_elsewhere_stay_names() -> None:
    model = Hostile().eval()
    inputs = torch.zeros(1, 3, 8, 8)
    _, architecture = resized(model, inputs)
    architecture.name, architecture.seed_spec = HOSTILE, HOSTILE
    architecture.widths = {HOSTILE: 3}
    architecture.costs = {HOSTILE: {"total": 3, "unit": HOSTILE}}
    type(model).__name__ = "Hostile = exec"
    try:
        text = source(model, architecture)
    finally:
        type(model).__name__ = "Hostile"
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("os" in ast.unparse(node).split() for node in imports)
    names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert not names & {"os", "exec", "eval", "__import__"}
    assert text.isascii()
    assert list(construct(text)(inputs)) == [HOSTILE]


def test_sizes_that_are_written_into_the_code_are_asked_for() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = cbr(3, 6), head(6)

        def forward(self, x: Tensor) -> Tensor:
            if int(x.shape[2]) > 10:  # another network for larger images
                x = F.avg_pool2d(x, 2)
            result: Tensor = self.head(self.a(x))
            return result

    model, architecture = resized(Fixed(), torch.zeros(1, 3, 8, 8))
    text = source(model, architecture)
    assert "all other sizes are fixed" in text
    made = construct(text)
    assert made.eval()(torch.zeros(5, 3, 8, 8)).shape == (5, 5)
    with pytest.raises(ValueError, match="its size is fixed"):
        made(torch.zeros(1, 3, 16, 16))


def test_gradients_that_the_seed_brings_itself_are_told() -> None:
    class Straight(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.round()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient

    model = net(lambda s, x: s.head(Straight.apply(s.a(x))), a=conv(3, 6), head=head(6))
    network, architecture = resized(model, torch.zeros(1, 3, 8, 8))
    _, notes = python.source_of(network, architecture)
    assert any("gradients differ" in note for note in notes)


def test_parameters_that_do_not_train_stay_so() -> None:
    seed = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 3, bias=False))
    seed[0].requires_grad_(False)
    model, architecture = resized(seed, tensors(1, 3, 8, 8))
    text, notes = source_of(model, architecture)
    assert notes == []
    trains = {name: parameter.requires_grad for name, parameter in construct(text).named_parameters()}
    assert trains == {"0.weight": False, "0.bias": False, "2.weight": True}


def test_gradients_that_are_rounding_are_not_told_as_the_seeds_own() -> None:
    """That of a bias in front of a batch norm is zero, and another memory format sums it in another order."""
    seed = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 4, 3))
    seed = seed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model, architecture = resized(seed, tensors(1, 3, 8, 8))
    assert source_of(model, architecture)[1] == []


@dataclass
class Found:
    """An output of a class of its own."""

    logits: Tensor
    features: Tensor


@pytest.mark.parametrize("format", ["python", "onnx", "pt2"])
def test_outputs_of_a_class_of_its_own_are_refused_by_name(tmp_path: Path, format: str) -> None:
    def forward(s: nn.Module, x: Tensor) -> Found:
        features = s.a(x)
        return Found(s.head(features), features)

    if format == "onnx":
        pytest.importorskip("onnxscript")
    model = net(forward, a=cbr(3, 8), head=head(8))
    with pytest.raises(InputError, match="returns an object of class Found") as caught:
        ms.export(model, format=format, path=tmp_path / "net", example_inputs=tensors(1, 3, 8, 8))
    assert "{'logits': out.logits, 'features': out.features}" in caught.value.repair


def test_code_that_torch_does_not_see_is_refused() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x)
        return s.head(y * torch.from_numpy(np.sign(x.detach().numpy().mean((1, 2, 3)))).reshape(-1, 1, 1, 1))

    model = net(forward, a=conv(3, 6), head=head(6))
    with pytest.raises(InputError, match="no source can be written") as caught:
        ms.export(model, example_inputs=torch.randn(2, 3, 8, 8), path="never.py")
    assert "onnx or pt2" in caught.value.repair
    assert not Path("never.py").exists()


def test_an_export_that_differs_is_an_error_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = python.assemble

    def wrong(*args: Any, **kwargs: Any) -> str:
        return (
            right(*args, **kwargs)
            .replace("F.relu(", "F.gelu(")
            .replace("inplace=True", "")
            .replace("nn.ReLU", "nn.GELU")
        )

    monkeypatch.setattr(python, "assemble", wrong)
    before = f'"""An earlier export, {MARK}"""'
    (tmp_path / "net.py").write_text(before)
    with pytest.raises(InputError, match="not the one that was asked for"):
        ms.export(CASES["residual"].build(), example_inputs=torch.zeros(2, 3, 8, 8), path=tmp_path / "net.py")
    assert (tmp_path / "net.py").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["net.py"]


def test_weights_of_something_else_are_not_overwritten(tmp_path: Path) -> None:
    model, inputs = CASES["plain"].build(), torch.zeros(2, 3, 8, 8)
    ms.export(CASES["residual"].build(), example_inputs=inputs, path=tmp_path / "other.py")
    before = (tmp_path / "other.safetensors").rename(tmp_path / "net.safetensors").read_bytes()
    with pytest.raises(UsageError, match="holds other weights"):
        ms.export(model, example_inputs=inputs, path=tmp_path / "net.py")
    assert (tmp_path / "net.safetensors").read_bytes() == before
    ms.export(model, example_inputs=inputs, path=tmp_path / "mine.py")
    ms.export(model, example_inputs=inputs, path=tmp_path / "mine.py")  # an earlier export may be replaced
