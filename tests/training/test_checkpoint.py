"""Checkpoints: whole after any crash, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from morphsearch.errors import InputError
from morphsearch.training import checkpoint, load_checkpoint, save_checkpoint

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "rng": torch.arange(5, dtype=torch.uint8)}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype for name in left)


def test_round_trip_and_only_the_latest_stays(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none") is None
    for step in (1, 2, 2):
        save_checkpoint(tmp_path, {**TENSORS, "b": torch.tensor(step)}, {"step": step, "note": "x"})
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert_same(found[0], {**TENSORS, "b": torch.tensor(2)})
    assert found[1] == {"step": 2, "note": "x"}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("dies_in", ["write_tensors", "write_json"])
def test_crash_while_saving_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    save_checkpoint(tmp_path, TENSORS, {"step": 1})

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, dies_in, die)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, {}, {"step": 1})
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert_same(found[0], TENSORS)


def test_leftovers_are_ignored_and_removed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, TENSORS, {"step": 1})
    (tmp_path / "tensors-9.safetensors").write_bytes(b"half")
    assert load_checkpoint(tmp_path) is not None
    save_checkpoint(tmp_path, TENSORS, {"step": 9})
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert_same(found[0], TENSORS)
    assert len(list(tmp_path.iterdir())) == 2


def truncate_tensors(folder: Path) -> None:
    file = next(folder.glob("tensors-*"))
    file.write_bytes(file.read_bytes()[:-3])


def flip_a_bit(folder: Path) -> None:
    file = next(folder.glob("tensors-*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def remove_tensors(folder: Path) -> None:
    next(folder.glob("tensors-*")).unlink()


def edit(**changes: Any) -> Any:
    def damage(folder: Path) -> None:
        record = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps({**record, **changes}))

    return damage


def truncate_state(folder: Path) -> None:
    path = folder / "state.json"
    path.write_text(path.read_text()[:20])


def foreign_state(folder: Path) -> None:
    (folder / "state.json").write_text("[1, 2]")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate_tensors, "bytes instead of"),
        (flip_a_bit, "checksum"),
        (remove_tensors, "missing"),
        (truncate_state, "line 2"),
        (foreign_state, "not an object"),
        (edit(schema_version=99), "schema_version is 99"),
        (edit(schema_version="one"), "schema_version 'one'"),
        (edit(tensors="../../secret"), "names the tensor file"),
        (edit(state=3), "'state'"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Any, words: str) -> None:
    save_checkpoint(tmp_path, TENSORS, {"step": 1})
    damage(tmp_path)
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path)
    assert words in caught.value.arrived
    assert caught.value.rule
    assert caught.value.repair


def test_nan_in_the_state_is_refused_and_nothing_lost(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, TENSORS, {"step": 1})
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path, {}, {"step": 2, "loss": float("nan")})
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[1] == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 2
