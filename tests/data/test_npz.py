"""NumPy archives: layouts, types, and archives that lie."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from morphsearch import data
from morphsearch.data import ArraySplit
from morphsearch.errors import InputError, UsageError

RNG = np.random.default_rng(0)


def images(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, **arrays: Any) -> str:
    np.savez(path / "set.npz", **arrays)
    return f"npz:{path}/set.npz"


def whole(x: np.ndarray, classes: int = 3) -> dict[str, np.ndarray]:
    labels = np.arange(len(x)) % classes
    return {"x_train": x, "y_train": labels, "x_test": x[:6], "y_test": labels[:6]}


@pytest.mark.parametrize(
    ("shape", "want"),
    [
        ((30, 3, 8, 9), (3, 8, 9)),
        ((30, 8, 9, 3), (3, 8, 9)),
        ((30, 8, 9, 1), (1, 8, 9)),
        ((30, 1, 8, 9), (1, 8, 9)),
        ((30, 8, 9), (1, 8, 9)),
        ((30, 10, 16, 16), (10, 16, 16)),
        ((30, 16, 16, 10), (10, 16, 16)),
    ],
)
def test_the_channels_are_found(tmp_path: Path, shape: tuple[int, ...], want: tuple[int, ...]) -> None:
    x = images(*shape)
    splits = data.load(save(tmp_path, **whole(x)))
    assert splits.shape == want
    assert (len(splits.train), len(splits.val), len(splits.test)) == (27, 3, 6)
    assert isinstance(splits.test, ArraySplit)
    first = x[0] if x.ndim == 4 else x[0][None]
    if first.shape != want:
        first = first.transpose(2, 0, 1)
    assert np.array_equal(splits.test.images[0].numpy(), first)


def test_one_part_is_split_in_three(tmp_path: Path) -> None:
    splits = data.load(save(tmp_path, images=images(60, 8, 8), labels=np.arange(60) % 3))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (48, 6, 6)
    assert splits.record["parts"]["test"]["carved_from"] == "all images"


def test_parts_that_are_given_are_used(tmp_path: Path) -> None:
    x, y = images(12, 3, 8, 8), np.arange(12) % 3
    parts = {
        f"{part}_{what}": v for part in ("train", "val", "test") for what, v in (("images", x), ("labels", y[:, None]))
    }
    splits = data.load(save(tmp_path, **parts))
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [12, 12, 12]


def test_floats_are_normalised_in_their_own_unit(tmp_path: Path) -> None:
    x = RNG.normal(5.0, 3.0, (200, 1, 8, 8))
    splits = data.load(save(tmp_path, **whole(x)))
    assert splits.mean.item() == pytest.approx(5, abs=0.2)
    batch = next(splits.train.batches(200))[0]
    assert batch.mean().item() == pytest.approx(0, abs=1e-4)
    assert batch.std().item() == pytest.approx(1, abs=1e-2)


def test_whole_numbers_up_to_255_are_kept_small(tmp_path: Path) -> None:
    splits = data.load(save(tmp_path, **whole(images(30, 8, 8).astype(np.int64))))
    assert splits.train.images.dtype == torch.uint8


def test_labels_may_be_names_or_any_numbers(tmp_path: Path) -> None:
    x = images(30, 8, 8)
    names = np.array(["cat", "dog", "emu"])[np.arange(30) % 3]
    assert data.load(save(tmp_path, images=x, labels=names)).classes == ["cat", "dog", "emu"]
    splits = data.load(save(tmp_path, images=x, labels=10.0 * (np.arange(30) % 3)))
    assert splits.classes == ["0", "10", "20"]
    assert set(splits.train.labels.tolist()) == {0, 1, 2}
    named = data.load(save(tmp_path, images=x, labels=np.arange(30) % 3, classes=np.array(["a", "b", "c", "d"])))
    assert named.classes == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": 1}, ["keys a", "x_train"]),
        ({"image": 1, "labels": 1}, ["rename: image -> images"]),
        ({"foo": 1, "labels": 1}, ["save the arrays under those names"]),
        ({}, ["(none)"]),
        ({"x_trian": images(4, 8, 8), "y_trian": np.arange(4)}, ["x_trian -> x_train"]),
        ({"images": images(4, 8), "labels": np.arange(4)}, ["images", "(4, 8)", "n x c x h x w"]),
        ({"images": images(4, 8, 8), "labels": np.arange(5)}, ["4 images and 5 labels"]),
        ({"images": images(4, 8, 8), "labels": np.eye(4)}, ["labels", "argmax"]),
        ({"images": images(4, 8, 8), "labels": np.linspace(0, 1, 4)}, ["labels", "float64"]),
        ({"images": images(4, 8, 8), "labels": np.zeros(4, int)}, ["only the class '0'"]),
        ({"images": images(2, 8, 8), "labels": np.arange(2)}, ["no class has two"]),
        ({"images": np.full((4, 8, 8), np.nan), "labels": np.arange(4) % 2}, ["not finite"]),
        ({"images": np.full((4, 8, 8), 1e300), "labels": np.arange(4) % 2}, ["not finite"]),
        ({"images": np.array(["x"] * 4), "labels": np.arange(4)}, ["images"]),
        ({"images": np.zeros((0, 8, 8)), "labels": np.zeros(0, int)}, ["images"]),
        ({**whole(images(30, 8, 8)), "y_test": np.full(6, 9)}, ["test labels", "9"]),
        ({**whole(images(30, 8, 8)), "x_test": images(6, 9, 9)}, ["test (1, 9, 9)", "one shape"]),
        ({"x_train": images(4, 8, 8), "y_train": np.arange(4) % 2, "x_test": images(4, 8, 8)}, ["x_test alone"]),
    ],
)
def test_an_archive_that_does_not_fit_is_told_why(tmp_path: Path, arrays: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        data.load(save(tmp_path, **arrays))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.repair


class Evil:
    def __reduce__(self) -> Any:
        return print, ("pwned",)


def test_objects_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = save(tmp_path, images=images(4, 8, 8), labels=np.array([Evil(), 1, 2, 3], dtype=object))
    with pytest.raises(InputError, match="Python objects"):
        data.load(spec)
    assert "pwned" not in capsys.readouterr().out


def member(path: Path, name: str, body: bytes) -> str:
    with zipfile.ZipFile(path / "set.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", body)
        archive.writestr(f"{name}.npy", body)
    return f"npz:{path}/set.npz"


def npy(shape: tuple[int, ...], body: bytes, kind: str = "|u1") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue() + body


@pytest.mark.parametrize(
    "body",
    [
        npy((10**9, 10**9), b"x"),
        npy((4, 8, 8), b"x" * 255),
        npy((4, 8, 8), b"x" * 257),
        npy((-4, 8, 8), b"x" * 256),
        b"",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x09\x00" + b"\0" * 100,
        b"plain text",
        pickle.dumps([1, 2]),
    ],
)
def test_a_header_that_lies_is_found_before_memory_is_taken(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(InputError, match=r"set\.npz is damaged"):
        data.load(member(tmp_path, "labels", body))


def test_an_archive_that_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unpacks to"):
        data.load(member(tmp_path, "labels", npy((1000, 1000), b"\0" * 10**6)), memory_limit_bytes=10**6)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"plain text"])
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"set\.npz"):
        data.load(f"npz:{tmp_path}/set.npz")


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    spec = save(tmp_path, **whole(images(30, 8, 8)))
    path = tmp_path / "set.npz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="damaged"):
        data.load(spec)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    spec = save(tmp_path, **whole(images(30, 8, 8)))
    path = tmp_path / "set.npz"
    content = bytearray(path.read_bytes())
    content[900] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        data.load(spec)


def test_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        data.load(f"npz:{tmp_path}/none.npz")
    with pytest.raises(UsageError, match="npz:PATH"):
        data.load("npz")
