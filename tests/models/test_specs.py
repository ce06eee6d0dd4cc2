"""Seed specs: what they say, and what a wrong one is told."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from morphsearch import plugins
from morphsearch.errors import InputError, MorphError, PluginError, UnknownName, UsageError
from morphsearch.hookspecs import hookimpl
from morphsearch.models import build_seed, parse_spec
from morphsearch.models.spec import format_value, parse_value
from morphsearch.types import ModelRecord

FACTORY = """
import torch
from torch import nn
from neighbour import WIDTH

class Net(nn.Module):
    def __init__(self, num_classes=10, width=WIDTH):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))

def make(depth, *, width: int = 4):
    return nn.Sequential(*[nn.Conv2d(3 if i == 0 else width, width, 3) for i in range(depth)])

def broken():
    raise ValueError("no luck today")

def number():
    return 42

def leave():
    raise SystemExit(3)

ready = nn.Conv2d(1, 1, 1)
constant = 7
"""


# Found, not imported: their import needs the repair that the sources make.
zoo = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torchvision", "timm")), reason="needs morphsearch[zoo]"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(FACTORY)
    (tmp_path / "neighbour.py").write_text("WIDTH = 6\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "kind", "name", "target", "arguments"),
    [
        ("resnet20", "name", "resnet20", "", {}),
        ("resnet20?shortcut=A&num_classes=7", "name", "resnet20", "", {"shortcut": "A", "num_classes": 7}),
        ("torchvision:resnet18", "source", "torchvision", "resnet18", {}),
        ("timm:resnet10t.c3_in1k?drop=0.5", "source", "timm", "resnet10t.c3_in1k", {"drop": 0.5}),
        ("a.b.c:make?deep=true", "module", "a.b.c", "make", {"deep": True}),
        ("./some/net.py:make", "file", "./some/net.py", "make", {}),
    ],
)
def test_a_spec_is_taken_apart_and_put_together_again(
    spec: str, kind: str, name: str, target: str, arguments: dict[str, object]
) -> None:
    parsed = parse_spec(spec)
    assert (parsed.kind, parsed.name, parsed.target, dict(parsed.arguments)) == (kind, name, target, arguments)
    assert str(parsed) == spec
    assert parsed.runs_code == (kind in ("module", "file"))


@given(st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.text()))
def test_values_come_back_as_they_were(value: object) -> None:
    # A text that reads like a number is one: there are no quotes in a spec.
    if isinstance(value, str) and not isinstance(parse_value(value), str):
        return
    text = format_value(value)
    assert "&" not in text
    parsed = parse_spec(f"resnet20?key={text}").arguments["key"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_the_data_fills_in_what_the_spec_leaves_out() -> None:
    assert build_seed("resnet20", num_classes=10, input_shape=(1, 8, 8)).spec == "resnet20?num_classes=10&in_channels=1"
    small = build_seed("mobilenet_v1?alpha=0.25", num_classes=10, input_shape=(3, 32, 32))
    assert small.spec == "mobilenet_v1?alpha=0.25&num_classes=10&stem=cifar"
    assert small.model.stem.conv.stride == (1, 1)
    large = build_seed("mobilenet_v1?alpha=0.25", num_classes=10, input_shape=(3, 96, 96))
    assert large.spec == "mobilenet_v1?alpha=0.25&num_classes=10"
    assert large.model.stem.conv.stride == (2, 2)


def test_the_spec_wins_over_the_data_and_extra_over_both() -> None:
    seed = build_seed("mobilenet_v1?alpha=0.25&stem=imagenet&num_classes=12", num_classes=10, input_shape=(3, 32, 32))
    assert seed.model.classifier.out_features == 12
    assert seed.model.stem.conv.stride == (2, 2)
    assert build_seed("digits_net?num_classes=4", extra={"num_classes": 6}).spec == "digits_net?num_classes=6"


def test_a_finished_spec_builds_the_same_network_by_itself() -> None:
    seed = build_seed("resnet20", num_classes=7, input_shape=(1, 8, 8))
    again = build_seed(seed.spec, input_shape=seed.input_shape)
    assert again.spec == seed.spec
    shapes = {name: value.shape for name, value in seed.model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in again.model.state_dict().items()}


def test_fewer_outputs_than_classes_are_refused() -> None:
    with pytest.raises(UsageError, match="100 classes"):
        build_seed("resnet20?num_classes=10", num_classes=100)


def test_a_registered_seed_brings_its_input_shape() -> None:
    assert build_seed("digits_net").input_shape == (1, 8, 8)
    assert build_seed("digits_net?in_channels=3").input_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("resnet21", ["unknown seed", "resnet20"]),
        ("torchvison:resnet18", ["unknown model scheme", "torchvision:"]),
        ("resnet20?shortcutt=A", ["no argument 'shortcutt'", "did you mean shortcut?"]),
        ("resnet20?", ["does not parse"]),
        ("resnet20?A", ["does not parse", "key=value"]),
        ("resnet20?a=1&a=2", ["stands twice"]),
        ("?a=1", ["does not parse"]),
        ("", ["does not parse"]),
        ("torchvision:", ["names no model"]),
        ("torchvision", ["unknown seed", "torchvision:NAME"]),
        ("net.py", ["names no factory", "net.py:make"]),
        ("runs/gone", ["does not exist", "check the path"]),
        ("./net.json", ["does not exist", "check the path"]),
        ("a b:c", ["does not parse"]),
        ("net.py:make", ["runs code", "--allow-code"]),
        ("os:getcwd", ["runs code", "--allow-code"]),
    ],
)
def test_a_wrong_spec_is_a_usage_error_that_teaches(spec: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        build_seed(spec)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.repair


def test_a_path_that_is_there_is_not_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a seed nor a run"):
        build_seed(str(tmp_path))


def test_a_factory_in_a_file_gets_the_arguments_it_names(folder: Path) -> None:
    seed = build_seed("nets.py:Net", num_classes=3, input_shape=(1, 8, 8), allow_code=True)
    assert seed.spec == "nets.py:Net?num_classes=3"
    assert (seed.model.head.out_features, seed.model.conv.out_channels) == (3, 6)
    assert len(build_seed("nets.py:make?depth=2&width=5", num_classes=3, allow_code=True).model) == 2


def test_a_file_leaves_sys_path_alone_and_keeps_its_classes(folder: Path) -> None:
    before = list(sys.path)
    first = build_seed(f"{folder}/nets.py:Net", allow_code=True).model
    assert sys.path == before
    assert "nets" not in sys.modules
    assert type(build_seed("nets.py:Net", allow_code=True).model) is type(first)
    (folder / "nets.py").write_text(FACTORY.replace("num_classes=10", "num_classes=20"))
    assert build_seed("nets.py:Net", allow_code=True).model.head.out_features == 20


def test_files_of_one_name_do_not_meet(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "nets.py").write_text("from torch import nn\ndef make(): return nn.Conv2d(1, 9, 1)\n")
    assert build_seed("other/nets.py:make", allow_code=True).model.out_channels == 9
    assert build_seed("nets.py:make?depth=1", allow_code=True).model[0].out_channels == 4


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nets.py:mak", ["has no 'mak'", "did you mean make"]),
        ("netz.py:make", ["No such file", "did you mean nets.py"]),
        ("nets.py:broken", ["'nets.py:broken' raised ValueError: no luck today (line 19 of nets.py)"]),
        ("nets.py:leave", ["SystemExit"]),
        ("nets.py:number", ["returned an int", "torch.nn.Module"]),
        ("nets.py:make", ["missing 1 required positional argument: 'depth'", "?name=value"]),
        ("nets.py:ready", ["is a network, not a factory"]),
        ("nets.py:constant", ["constant in nets.py is a int", "function"]),
        ("no_such_package.nets:make", ["no module 'no_such_package'"]),
    ],
)
def test_a_wrong_factory_is_an_input_error_that_names_it(folder: Path, spec: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build_seed(spec, allow_code=True)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.rule
    assert caught.value.repair
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("text", "word"),
    [("def make(:\n", "SyntaxError"), ("import no_such_thing\n", "no_such_thing"), ("1 / 0\n", "line 1 of bad.py")],
)
def test_a_file_that_cannot_be_imported_says_why(folder: Path, text: str, word: str) -> None:
    (folder / "bad.py").write_text(text)
    before = set(sys.modules)
    with pytest.raises(InputError, match="cannot be imported") as caught:
        build_seed("bad.py:make", allow_code=True)
    assert word in caught.value.arrived
    assert not any(name.startswith("_morphsearch_bad") for name in set(sys.modules) - before)


def test_an_unknown_argument_of_a_users_factory_has_the_nearest_names(folder: Path) -> None:
    with pytest.raises(UsageError, match="did you mean width"):
        build_seed("nets.py:make?depth=1&widht=3", allow_code=True)


def test_a_factory_of_a_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    assert build_seed("nets:make?depth=3", allow_code=True).model[0].out_channels == 4


class _Plugin:
    @hookimpl
    def morphsearch_models(self) -> list[ModelRecord]:
        def raises(**arguments: object) -> nn.Module:
            raise RuntimeError("plugin trouble")

        def tiny(num_classes: int = 2) -> nn.Module:
            return nn.Conv2d(2, num_classes, 1)

        return [
            ModelRecord("raising_seed", "raises", raises),
            ModelRecord("tiny_seed", "a seed", tiny, input_shape=(2, 4, 4)),
            ModelRecord("zoo", "a scheme", lambda target, **kw: nn.Conv2d(len(target), 1, 1), source=True),
        ]


@pytest.fixture
def plugin() -> object:
    found = _Plugin()
    plugins.register(found)
    yield found
    plugins.unregister(found)


@pytest.mark.usefixtures("plugin")
def test_seeds_and_schemes_of_plugins_are_built_like_ours() -> None:
    seed = build_seed("tiny_seed", num_classes=5)
    assert (seed.spec, seed.input_shape) == ("tiny_seed?num_classes=5", (2, 4, 4))
    assert build_seed("zoo:abc").model.in_channels == 3
    with pytest.raises(PluginError, match="plugin trouble"):
        build_seed("raising_seed")


@zoo
def test_torchvision_and_timm_build_fresh_networks() -> None:
    seed = build_seed("torchvision:resnet18", num_classes=10, input_shape=(3, 32, 32))
    assert seed.spec == "torchvision:resnet18?num_classes=10"
    assert seed.model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    grey = build_seed("timm:resnet10t", num_classes=10, input_shape=(1, 32, 32))
    assert grey.spec == "timm:resnet10t?num_classes=10&in_chans=1"
    assert grey.model.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


@zoo
@pytest.mark.parametrize(
    ("spec", "kind", "word"),
    [
        ("torchvision:resnet19", UnknownName, "resnet18"),
        ("timm:resnet51", UnknownName, "resnet50"),
        ("timm:hf-hub:someone/net", UnknownName, "unknown timm model"),
        ("torchvision:resnet18?weights=DEFAULT", UsageError, "nothing is downloaded"),
        ("torchvision:resnet18?weights_backbone=DEFAULT", UsageError, "nothing is downloaded"),
        ("timm:resnet10t?pretrained=true", UsageError, "nothing is downloaded"),
        ("timm:resnet10t?checkpoint_path=/x.pth", UsageError, "nothing is downloaded"),
        ("torchvision:resnet18?widht=3", InputError, "leave out widht"),
    ],
)
def test_sources_refuse_what_they_cannot_build(spec: str, kind: type[MorphError], word: str) -> None:
    with pytest.raises(kind) as caught:
        build_seed(spec)
    assert word in str(caught.value)


def test_a_source_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="pip install timm"):
        build_seed("timm:resnet10t")
