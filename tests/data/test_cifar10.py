"""CIFAR-10's batches, binary and pickled, and pickles that want more than to be read."""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from morphsearch import data
from morphsearch.data import ArraySplit, unpickle
from morphsearch.data.cifar10 import CLASSES
from morphsearch.errors import InputError, UsageError


def pixels(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10


def write_binary(folder: Path, batches: int = 5, count: int = 20) -> None:
    for number in range(1, batches + 1):
        x, y = pixels(count, number)
        (folder / f"data_batch_{number}.bin").write_bytes(np.concatenate([y[:, None], x], 1).tobytes())
    x, y = pixels(10, 9)
    (folder / "test_batch.bin").write_bytes(np.concatenate([y[:, None], x], 1).tobytes())


def write_python(folder: Path, protocol: int = 2, count: int = 20) -> None:
    for number in range(1, 6):
        x, y = pixels(count, number)
        batch = {b"data": x, b"labels": y.tolist(), b"batch_label": b"training batch", b"filenames": [b"a.png"] * count}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(batch, protocol))
    x, y = pixels(10, 9)
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": x, b"labels": y.tolist()}, protocol))
    names = {b"label_names": [name.encode() for name in CLASSES]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol))


def test_binary_and_python_batches_hold_the_same(tmp_path: Path) -> None:
    for kind, write in (("bin", write_binary), ("py", write_python)):
        (tmp_path / f"{kind}/cifar-10-batches-{kind}").mkdir(parents=True)
        write(tmp_path / f"{kind}/cifar-10-batches-{kind}")
    binary, python = data.load(f"cifar10:{tmp_path}/bin"), data.load(f"cifar10:{tmp_path}/py/cifar-10-batches-py")
    assert (len(binary.train), len(binary.val), len(binary.test)) == (90, 10, 10)
    assert binary.classes == python.classes == list(CLASSES)
    for one, two in zip((binary.train, binary.val, binary.test), (python.train, python.val, python.test), strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)
    x, y = pixels(10, 9)
    assert isinstance(binary.test, ArraySplit)
    assert torch.equal(binary.test.images, torch.from_numpy(x.reshape(10, 3, 32, 32)))
    assert binary.test.labels.tolist() == y.tolist()
    assert binary.record["parts"]["val"]["carved_from"] == "train"


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_pickle_is_read(tmp_path: Path, protocol: int) -> None:
    write_python(tmp_path, protocol)
    assert len(data.load(f"cifar10:{tmp_path}").test) == 10


def test_the_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    """Python 2 wrote texts as SHORT_BINSTRING and numpy's bytes as a text."""
    x, _ = pixels(2)
    raw = x.tobytes()
    stream = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
        + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + len(raw).to_bytes(4, "little")
        + raw
        + b"tbU\x06labels](K\x01K\x02eu."
    )
    pickletools.dis(stream, out=io.StringIO())  # well-formed
    found = unpickle.loads(stream, "batch")
    assert np.array_equal(found[b"data"], x)
    assert found[b"labels"] == [1, 2]


def test_missing_batches_are_noted(tmp_path: Path) -> None:
    write_binary(tmp_path, batches=2)
    splits = data.load(f"cifar10:{tmp_path}")
    assert any("data_batch_3, data_batch_4, data_batch_5" in note for note in splits.notes)


class Evil:
    """What a pickle can do to who loads it."""

    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.args


@pytest.mark.parametrize(
    "payload",
    [
        Evil(os.system, "touch pwned"),
        Evil(eval, "open('pwned', 'w').close()"),
        Evil(getattr, "x", "upper"),
        Evil(np.load, "x.npy"),
        Evil(__import__, "os"),
        {b"data": Evil(os.system, "touch pwned"), b"labels": [1]},
        np.array([Evil(os.system, "touch pwned")], dtype=object),
        np.array([("a", 1)], dtype=[("name", "U1"), ("value", "i4")]),
        np.array(["text"]),
        np.datetime64("2020-01-01"),
        collections.OrderedDict(a=1),
        torch.zeros(2),
        {1, 2},
        Path("x"),
    ],
    ids=lambda payload: type(payload).__name__,  # not its repr, which has an address: xdist workers must agree
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_wants_more_than_data_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: object, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    write_python(tmp_path)
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps(payload, protocol))
    with pytest.raises(InputError) as caught:
        data.load("cifar10:.")
    assert "data_batch_3" in caught.value.arrived
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "stream",
    [
        # Setting attributes of the stand-ins themselves, by a state with slots.
        b"\x80\x02cnumpy\nndarray\n(N}U\x05_callU\x01xstb.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x05_callU\x01xsb.",
        # Persistent ids and the extension registry.
        b"Pabc\n.",
        b"\x80\x02\x82\x01.",
        # A dotted name, which newer protocols resolve attribute by attribute.
        b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__class__.x\x93.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
        # An array that claims more than it has, or has no bytes at all.
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R(K\x01J\xff\xff\xff\x7f\x85cnumpy\ndtype\nU\x02u1\x85R"
        b"(K\x03U\x01|tb\x89U\x01atb.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.",
        b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.",
        # A list that holds itself.
        b"]q\x00h\x00a.",
        # Sizes that claim all memory: of a bytearray, of bytes, of the memo.
        b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.",
        b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00.",
        b"\x80\x02Nr\xff\xff\xff\x7f0cos\nsystem\n.",
        # Deeply nested tuples, and a key whose hash would take for ever.
        b"\x80\x02)" + b"\x85" * 200_000 + b".",
        b"\x80\x02})" + b"2\x86" * 60 + b"Ns.",
        # Operations in places where they make no sense.
        b"\x80\x02}(K\x01u.",
        b"\x80\x02K\x01K\x02a.",
        b"\x80\x02K\x01K\x02K\x03s.",
        b"\x80\x02e.",
        b"\x80\x02.",
        b"\x80\x02(.",
        b"\x80\x02K\x01)R.",
        b"\x80\x02h\x05.",
        # Truncated, empty, nonsense.
        b"\x80\x02]q\x00(K\x01",
        b"",
        b"GIF89a",
    ],
)
def test_hand_made_pickles_are_refused(stream: bytes) -> None:
    with pytest.raises(InputError):
        unpickle.loads(stream, "batch")
    x, _ = pixels(2)
    assert np.array_equal(unpickle.loads(pickle.dumps(x), "batch"), x)


def test_nested_references_do_not_grow_without_bound() -> None:
    value: list[Any] = [0] * 10
    for _ in range(15):
        value = [value] * 10
    assert len(unpickle.loads(pickle.dumps(value), "batch")) == 10


@pytest.mark.parametrize("kind", ["<i4", ">i4", "u1", "<f8", "f2", "?"])
def test_arrays_come_back_whole(kind: str) -> None:
    for order in ("C", "F"):
        array = np.arange(24).reshape(2, 3, 4).astype(kind, order=order)
        for protocol in range(6):
            found = unpickle.loads(pickle.dumps(array, protocol), "x")
            assert np.array_equal(found, array)
            assert found.dtype == array.dtype.newbyteorder("=")


def rewrite(name: str, content: bytes) -> Any:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (rewrite("data_batch_2.bin", b"\0" * 3072), "3,072 bytes"),
        (rewrite("data_batch_2.bin", b""), "0 bytes"),
        (rewrite("data_batch_2.bin", b"\x0a" + b"\0" * 3072), "label 10"),
    ],
)
def test_a_damaged_binary_batch_is_named(tmp_path: Path, damage: Any, word: str) -> None:
    write_binary(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError) as caught:
        data.load(f"cifar10:{tmp_path}")
    assert "data_batch_2.bin" in caught.value.arrived
    assert word in caught.value.arrived


@pytest.mark.parametrize(
    "content",
    [
        {b"data": np.zeros((2, 3072), np.uint8)},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
        {b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 2]},
        {b"data": np.zeros((2, 3072), np.float32), b"labels": [1, 2]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, "x"]},
        {b"data": np.zeros((0, 3072), np.uint8), b"labels": []},
        [1, 2],
    ],
)
def test_a_python_batch_of_another_shape_is_named(tmp_path: Path, content: object) -> None:
    write_python(tmp_path)
    (tmp_path / "data_batch_4").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match="data_batch_4"):
        data.load(f"cifar10:{tmp_path}")


def test_a_wrong_place_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cifar10:PATH"):
        data.load("cifar10")
    with pytest.raises(InputError, match="holds no batches"):
        data.load(f"cifar10:{tmp_path}")
    with pytest.raises(InputError, match="is not there"):
        data.load(f"cifar10:{tmp_path}/x")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"x")
    with pytest.raises(InputError, match="tar xf"):
        data.load(f"cifar10:{tmp_path}/cifar-10-python.tar.gz")
