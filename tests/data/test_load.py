"""Data specs, the digits, users' functions, and whether images fit a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from morphsearch import data, plugins
from morphsearch.data import ArraySplit, DataOptions, check_model_input
from morphsearch.data.splitting import carve
from morphsearch.errors import InputError, PluginError, UnknownName, UsageError
from morphsearch.hookspecs import hookimpl
from morphsearch.types import DataRecord

FUNCTIONS = """
import torch
from torch.utils.data import DataLoader, TensorDataset

def pair(n=30):
    return torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8), torch.arange(n) % 3

def two():
    return pair(30), pair(9)

def three():
    return pair(30), pair(9), pair(6)

def named():
    return {"train": TensorDataset(*pair(30)), "test": pair(6)}

def alone():
    return pair(30)

def with_options(options):
    return pair(30 + options.seed), pair(9)

def broken():
    raise KeyError("labels")

def nothing():
    pass

def strange():
    return {"training": pair()}

def number():
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sets.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_digits_are_always_there() -> None:
    splits = data.load("digits")
    assert splits.shape == (1, 8, 8)
    assert splits.classes == [str(digit) for digit in range(10)]
    assert len(splits.train) + len(splits.val) + len(splits.test) == 1797
    assert splits.train.images.dtype == torch.uint8
    assert splits.train.images.max() == 255
    assert splits.record["augmentation"] == {"pad": 1, "flip": False}
    assert json.loads(json.dumps(splits.record)) == splits.record
    for part in (splits.train, splits.val, splits.test):
        shares = torch.bincount(part.labels, minlength=10) / len(part)
        assert (shares - 0.1).abs().max() < 0.02


def test_the_test_digits_are_the_same_for_every_seed() -> None:
    one, two = data.load("digits", seed=1), data.load("digits", seed=2)
    assert torch.equal(one.test.images, two.test.images)
    assert not torch.equal(one.val.images, two.val.images)
    again = data.load("digits", seed=1)
    assert torch.equal(one.val.images, again.val.images)
    assert torch.equal(one.train.labels, again.train.labels)


def test_digits_can_be_enlarged_and_coloured() -> None:
    splits = data.load("digits", image_size=(32, 32), channels=3)
    assert splits.shape == (3, 32, 32)
    x, _ = next(splits.train.batches(4))
    assert x.shape == (4, 3, 32, 32)
    assert torch.equal(x[:, 0], x[:, 1])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.floats(0.01, 0.99), st.integers(0, 100))
def test_carving_keeps_every_class_on_both_sides(labels: list[int], fraction: float, seed: int) -> None:
    stay, out = carve(labels, fraction, seed)
    assert sorted([*stay, *out]) == list(range(len(labels)))
    array = np.array(labels)
    for value in set(labels):
        total, taken = (array == value).sum(), (array[out] == value).sum()
        assert taken == 0 if total == 1 else 1 <= taken < total
        assert abs(taken - fraction * total) <= 1
    again = carve(labels, fraction, seed)
    assert np.array_equal(again[0], stay)
    assert np.array_equal(again[1], out)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("two", (30, 9, None)),
        ("three", (30, 9, 6)),
        ("named", (27, 3, 6)),
        ("alone", (27, 3, None)),
        ("with_options", (37, 9, None)),
    ],
)
def test_a_users_function_may_return_what_it_has(folder: Path, name: str, sizes: tuple[int | None, ...]) -> None:
    splits = data.load(f"sets.py:{name}", seed=7, allow_code=True)
    found = [None if part is None else len(part) for part in (splits.train, splits.val, splits.test)]
    assert tuple(found) == sizes
    assert splits.name == f"sets.py:{name}"
    assert splits.num_classes == 3


def test_a_function_of_a_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sets.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(folder)
    assert len(data.load("mine.sets:two", allow_code=True).train) == 30
    with pytest.raises(UsageError, match="--allow-code"):
        data.load("mine.sets:two")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", ["sets.py:broken", "KeyError: 'labels'", "line 24 of sets.py"]),
        ("nothing", ["returned None"]),
        ("strange", ["training"]),
        ("number", ["an int"]),
        ("twoo", ["did you mean two"]),
    ],
)
def test_a_function_that_fails_is_named(folder: Path, name: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        data.load(f"sets.py:{name}", allow_code=True)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("digit", ["unknown data source 'digit'", "did you mean digits?"]),
        ("imagefoldr:/x", ["unknown data source 'imagefoldr'", "imagefolder"]),
        ("mnist", ["unknown data source", "package.module:function"]),
        ("", ["unknown data source"]),
    ],
)
def test_an_unknown_source_has_the_nearest_names(spec: str, words: list[str]) -> None:
    with pytest.raises(UnknownName) as caught:
        data.load(spec)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_plain_path_is_told_its_source(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"write imagefolder:{tmp_path}"):
        data.load(str(tmp_path))
    with pytest.raises(UsageError, match="digits takes no argument"):
        data.load("digits:5")


@pytest.mark.parametrize(
    "options",
    [
        {"val_fraction": 0.0},
        {"val_fraction": 1.0},
        {"image_size": (0, 3)},
        {"channels": 2},
        {"workers": -1},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        data.load("digits", **options)


class _Plugin:
    @hookimpl
    def morphsearch_data(self) -> list[DataRecord]:
        def tiny(argument: str | None, options: DataOptions) -> data.DataSplits:
            images = torch.zeros(20, 1, 4, 4, dtype=torch.uint8)
            return data.as_splits((images, torch.arange(20) % int(argument or 2)), options=options)

        def wrong(argument: str | None, options: DataOptions) -> int:
            return 3

        return [DataRecord("tiny", "zeros", tiny), DataRecord("wrong", "a number", wrong)]


@pytest.fixture
def plugin() -> object:
    found = _Plugin()
    plugins.register(found)
    yield found
    plugins.unregister(found)


@pytest.mark.usefixtures("plugin")
def test_a_plugins_source_is_loaded_like_ours() -> None:
    assert data.load("tiny:4").num_classes == 4
    with pytest.raises(PluginError, match="returned int"):
        data.load("wrong")
    with pytest.raises(PluginError, match="ValueError"):
        data.load("tiny:many")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 3, 8, 8), ["have 1 channel,", "has 3", "channels=3", "in_channels=1"]),
        ((1, 4, 8, 8), ["have 1 channel,", "has 4"]),
        ((1, 1, 32, 32), ["8 x 8, smaller than", "32 x 32", "image_size=(32, 32)"]),
        ((1, 4, 4), ["larger"]),
    ],
)
def test_images_that_do_not_fit_the_network_are_refused(shape: tuple[int, ...], words: list[str]) -> None:
    splits = data.load("digits")
    with pytest.raises(InputError) as caught:
        check_model_input(splits, shape)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_images_that_fit_pass() -> None:
    splits = data.load("digits")
    check_model_input(splits, (16, 1, 8, 8))
    check_model_input(splits, (1, 8, 8))
    with pytest.raises(UsageError, match="n x c x h x w"):
        check_model_input(splits, (8, 8))
    assert isinstance(splits.train, ArraySplit)


def test_a_fraction_that_nothing_is_carved_by_is_told(folder: Path) -> None:
    def told(spec: str, **options: float) -> bool:
        notes = data.load(spec, allow_code=True, **options).notes
        return any("validation part of its own" in note for note in notes)

    assert told("sets.py:two", val_fraction=0.3)
    assert not told("sets.py:two")  # the default asks for nothing
    assert not told("sets.py:alone", val_fraction=0.3)
    assert not told("digits", val_fraction=0.3)
