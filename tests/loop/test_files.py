"""Files: damaged, foreign, newer and hostile ones are named by field and line; nothing is half-written."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from loop_fakes import EXACT, data, example, network

import morphsearch as ms
from morphsearch import files
from morphsearch.errors import InputError, MorphError, UsageError
from morphsearch.loop.run import resume, start, status
from morphsearch.loop.rundir import RunDirectory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of two morphs that needed no training."""
    path = tmp_path_factory.mktemp("files") / "run"
    config = ms.SearchConfig("digits_net", strategy="random", iterations=2, recipe=EXACT)
    start(config, path)
    return path


@pytest.fixture
def architecture(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(run / "iterations/001/architecture.json", tmp_path / "architecture.json"))


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=2))
    return path


def line_of(path: Path, key: str) -> int:
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if f'"{key}":' in line)


def test_an_architecture_survives_saving_and_loading(architecture: Path, tmp_path: Path) -> None:
    found = ms.Architecture.load(architecture)
    assert found.save(tmp_path / "copy") == tmp_path / "copy/architecture.json"
    assert ms.Architecture.load(tmp_path / "copy") == found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("widths", []),
        ("widths", {}),
        ("costs", 3),
        ("metrics", {"val_accuracy": "high"}),
        ("kept", {"stem.conv": [-1]}),
        ("kept", {"stem.conv": ["a"]}),
        ("multiplier", "1.2"),
        ("notes", "none"),
        ("parent", 3),
        ("name", ""),
        ("name", "../../etc"),
        ("name", "001\n"),
        ("name", 7),
        ("decisions", {"a": 1}),
        ("budgets", [3]),
        ("budgets", [{"text": "flops=50%"}]),
        ("record", []),
        ("schema_version", "1"),
        ("seed", "resnet20"),
        ("seed", {"spec": "digits_net", "inputs": []}),
        ("seed", {"spec": "digits_net", "inputs": [{"shape": [1, -1]}]}),
        ("seed", {"spec": "digits_net", "inputs": [{"shape": [1, 2], "dtype": "quint8"}]}),
        ("seed", {"spec": ["rm"], "inputs": [{"shape": [1, 2]}]}),
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_its_line(architecture: Path, key: str, value: Any) -> None:
    changed(architecture, lambda c: c.update({key: value}))
    with pytest.raises(InputError) as caught:
        ms.Architecture.load(architecture)
    assert key in caught.value.arrived
    assert "line " in caught.value.arrived
    assert str(architecture) in caught.value.arrived


@pytest.mark.parametrize("width", [0, -3, 10**9, 2.5, "24", None, True, float("nan"), float("inf")])
def test_hostile_widths(architecture: Path, width: Any) -> None:
    changed(architecture, lambda c: c["widths"].update({"stem.conv": width}))
    with pytest.raises(InputError) as caught:
        ms.Architecture.load(architecture)
    assert "widths.stem.conv" in caught.value.arrived
    assert f"line {line_of(architecture, 'stem.conv')}" in caught.value.arrived


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda c: c["kept"].update({"nowhere": [0]}), "nowhere"),
        (lambda c: c["floors"].update({"nowhere": 1}), "nowhere"),
        (lambda c: c["seed_widths"].pop("stem.conv"), "stem.conv"),
        (lambda c: c["seed_widths"].update({"nowhere": 4}), "nowhere"),
        (lambda c: c["kept"]["stem.conv"].append(0), "kept.stem.conv"),
        (lambda c: c["kept"].update({"stem.conv": [999] * c["widths"]["stem.conv"]}), "999"),
        (lambda c: c.update(strength=float("nan")), "strength"),
        (lambda c: c["costs"]["flops"].update(total=float("inf")), "costs.flops.total"),
        (lambda c: c.pop("widths"), "widths"),
    ],
)
def test_fields_that_do_not_fit_together(architecture: Path, change: Any, field: str) -> None:
    changed(architecture, change)
    with pytest.raises(InputError) as caught:
        ms.Architecture.load(architecture)
    assert field in caught.value.arrived


def test_widths_that_are_whole_numbers_written_as_fractions(architecture: Path) -> None:
    found = ms.Architecture.load(architecture)
    changed(architecture, lambda c: c["widths"].update({k: float(v) for k, v in c["widths"].items()}))
    again = ms.Architecture.load(architecture)
    assert again == found
    assert all(type(width) is int for width in again.widths.values())


def test_input_sizes_that_are_whole_numbers_written_as_fractions(architecture: Path) -> None:
    def fractions(content: dict[str, Any]) -> None:
        entry = content["seed"]["inputs"][0]
        entry["shape"] = [float(size) for size in entry["shape"]]

    expected = ms.Architecture.load(architecture).inputs
    changed(architecture, fractions)
    found = ms.Architecture.load(architecture)
    assert found.inputs == expected
    found.build()


@pytest.mark.parametrize("version", [2, 2.0])
def test_a_newer_schema_is_not_guessed_at(architecture: Path, version: float) -> None:
    changed(architecture, lambda c: c.update(schema_version=version, widths="in another form"))
    with pytest.raises(InputError, match=r"schema_version is 2") as caught:
        ms.Architecture.load(architecture)
    assert "update" in caught.value.repair


@pytest.mark.parametrize(
    "content", ["{}", "[]", "3", '"text"', "null", '{"format": "morphsearch-run"}', '{"widths": {}}']
)
def test_foreign_files(architecture: Path, content: str) -> None:
    architecture.write_text(content)
    with pytest.raises(InputError, match="is not an architecture"):
        ms.Architecture.load(architecture)


def test_a_truncated_file_tells_where(architecture: Path) -> None:
    text = architecture.read_text()
    for end in range(0, len(text) - 2, max(1, len(text) // 40)):
        architecture.write_text(text[:end])
        with pytest.raises(InputError, match=r"line \d+, column \d+"):
            ms.Architecture.load(architecture)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"\x80\x04\x95", b"[" * 100_000, b'{"a": ' + b"9" * 10_000 + b"}"], ids=list("abcd")
)
def test_bytes_that_are_no_json(architecture: Path, content: bytes) -> None:
    architecture.write_bytes(content)
    with pytest.raises(InputError):
        ms.Architecture.load(architecture)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        ms.Architecture.load(tmp_path / "no.json")


def test_widths_and_costs_must_agree_before_anything_is_built(architecture: Path) -> None:
    def widen(content: dict[str, Any]) -> None:
        content["widths"] |= {"stem.conv": 2**20, "down.1.conv": 2**20}
        content["kept"] = {}

    changed(architecture, widen)
    found = ms.Architecture.load(architecture)
    with pytest.raises(InputError, match="its widths make"):
        found.build()
    found.costs = {}
    with pytest.raises(InputError, match="networks of up to"):
        found.build()


def test_an_enormous_example_input_is_not_made(architecture: Path) -> None:
    changed(architecture, lambda c: c["seed"]["inputs"][0].update(shape=[2**20, 2**20, 2**20]))
    with pytest.raises(InputError, match="example input"):
        ms.Architecture.load(architecture).build()


def test_code_named_in_a_file_does_not_run(architecture: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef make(): pass\n")
    changed(architecture, lambda c: c["seed"].update(spec=f"{tmp_path / 'evil.py'}:make"))
    with pytest.raises(UsageError, match="allow"):
        ms.Architecture.load(architecture).build()
    assert not (tmp_path / "ran").exists()


# -- runs


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda c: c.update(schema_version=9), "schema_version is 9"),
        (lambda c: c.update(format="other"), "is not the record of a run"),
        (lambda c: c.update(config=[]), "config"),
        (lambda c: c["config"].update(iterations="two"), "iterations"),
        (lambda c: c["config"].update(epochs="soon"), "epochs"),
        (lambda c: c["config"].update(recipe=3), "recipe"),
        (lambda c: c["config"].update(recipe={"lr": "high"}), "lr"),
        (lambda c: c["config"].update(budget=7), "budget"),
        (lambda c: c["config"].update(bugdet="flops=50%"), "bugdet"),
        (lambda c: c["config"].pop("model"), "model"),
        (lambda c: c["config"].update(input=[1, 0, 8, 8]), "input"),
        (lambda c: c["config"].update(seed=-1), "seed"),
        (lambda c: c.update(budgets=[{}]), "budgets"),
        (lambda c: c.update(strategy=None), "strategy"),
    ],
)
def test_a_damaged_record_of_a_run_is_named(copied: Path, change: Any, part: str) -> None:
    changed(copied / "run.json", change)
    with pytest.raises(InputError) as caught:
        resume(copied)
    assert part in str(caught.value)
    assert "run.json" in str(caught.value)
    assert status(copied)["path"] == str(copied)  # a list of runs goes on


def test_a_record_changed_under_a_run_is_refused(copied: Path) -> None:
    changed(copied / "run.json", lambda c: c["config"].update(budget=["flops=70%"]))
    with pytest.raises(UsageError, match=r"other arguments; budgets: .* now "):
        resume(copied)


@pytest.mark.parametrize("name", ["run.json", "result.json", "iterations/001/architecture.json"])
def test_truncated_files_of_a_run(copied: Path, name: str) -> None:
    path = copied / name
    path.write_bytes(path.read_bytes()[:-20])
    assert status(copied)["state"] == "damaged"
    with pytest.raises(InputError, match="line"):
        resume(copied)


@pytest.mark.parametrize("content", ["[]", "{}", '{"best": 3}'])
def test_a_foreign_result(copied: Path, content: str) -> None:
    (copied / "result.json").write_text(content)
    with pytest.raises(InputError, match="best"):
        resume(copied)


def test_an_iteration_that_is_missing_or_another(copied: Path) -> None:
    (copied / "result.json").unlink()
    first = copied / "iterations/001"
    shutil.rmtree(first)
    with pytest.raises(InputError, match=r"001/architecture\.json is missing"):
        resume(copied)
    shutil.copytree(copied / "iterations/002", first)
    with pytest.raises(InputError, match="in the folder of 001"):
        resume(copied)


def test_kept_units_that_the_parent_does_not_have(copied: Path) -> None:
    def beyond(content: dict[str, Any]) -> None:
        content["kept"]["stem.conv"] = [4000] * content["widths"]["stem.conv"]

    changed(copied / "iterations/002/architecture.json", beyond)
    with pytest.raises(InputError, match="unit 4000"):
        resume(copied)


def test_a_torn_last_line_of_the_log_does_no_harm(copied: Path) -> None:
    (copied / "result.json").unlink()
    with open(copied / "metrics.jsonl", "a") as log:
        log.write('3\n"x"\n{"event": "st')
    resume(copied)
    assert status(copied)["state"] == "complete"
    assert all(isinstance(event, dict) for event in RunDirectory(copied).events())


# -- writing


def full(*arguments: Any, **options: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def leftovers(path: Path) -> list[Path]:
    return [p for p in path.rglob("*") if p.name.startswith(".") or p.suffix == ".tmp"]


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    search = ms.Search(network(), example(), "flops=50%", strategy="uniform", run_dir=tmp_path / "run")
    before, files_before = search.model, sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patched:
        patched.setattr(files.os, broken, full)
        with pytest.raises(InputError, match="No space left"):
            search.morph()
    assert search.model is before
    assert not search.architectures
    assert not leftovers(tmp_path)
    assert [p for p in sorted(tmp_path.rglob("*")) if p.is_file()] == [p for p in files_before if p.is_file()]
    assert search.morph().name == "001"
    assert ms.Architecture.load(tmp_path / "run/iterations/001").widths == search.graph.widths


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may be larger than `size` bytes, as the system itself sees to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def tensors_to_a_full_disk(tmp_path: Path, what: str) -> None:
    options: dict[str, Any] = {"epochs": 1, "run_dir": tmp_path / "run", "recipe": EXACT}
    if what == "search":
        ms.search(network(), data(), budget="flops=50%", iterations=1, **options)
    elif what == "sparsify":
        ms.sparsify(network(), data(), target="50%", **options)
    elif what == "morph":
        ms.Search(network(), example(), "flops=50%", strategy="uniform", run_dir=tmp_path / "run").morph()
    else:
        ms.export(network(), format="python", path=tmp_path / "network.py", example_inputs=example())


@pytest.mark.parametrize("what", ["search", "sparsify", "morph", "export"])
def test_tensors_that_do_not_fit_on_the_disk(tmp_path: Path, what: str) -> None:
    """Weights are written by safetensors, whose errors are not Python's."""
    with room_for(3000), pytest.raises(InputError, match="File too large") as caught:
        tensors_to_a_full_disk(tmp_path, what)
    assert "cannot write" in caught.value.arrived
    assert "os error" not in caught.value.arrived
    assert "free some space" in caught.value.repair
    assert not leftovers(tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_disk_that_fills_up_in_training_stops_the_run_which_then_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go(path: Path, **options: Any) -> ms.SearchResult:
        return ms.search(
            network(), data(), budget="flops=50%", iterations=1, epochs=3, run_dir=path, recipe=EXACT, **options
        )

    whole = go(tmp_path / "whole")

    def fill(kind: str, payload: dict[str, Any]) -> None:
        if kind == "epoch":
            monkeypatch.setattr(files.os, "replace", full)

    with pytest.raises(InputError, match="No space left"):
        go(tmp_path / "run", listener=fill)
    monkeypatch.undo()
    assert not leftovers(tmp_path / "run")
    assert go(tmp_path / "run", resume=True).architectures == whole.architectures


def test_a_log_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = ms.Search(network(), example(), "flops=50%", run_dir=tmp_path / "run")
    monkeypatch.setattr("morphsearch.loop.rundir.append_line", full)
    with pytest.raises(InputError, match=r"metrics\.jsonl: No space") as caught:
        search.run.log("step", step=1)
    assert "morphsearch resume" in caught.value.repair


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MorphError, match="cannot write") as caught:
        ms.Search(network(), example(), "flops=50%", run_dir=tmp_path / "file" / "run")
    assert f"{tmp_path / 'file'} is a file" in caught.value.arrived
    assert "space" not in caught.value.repair


def test_nothing_is_pickled(run: Path) -> None:
    kinds = {path.suffix for path in run.rglob("*") if path.is_file()}
    assert kinds == {".json", ".jsonl", ".safetensors"}
    assert not any(b"\x80\x04\x95" in path.read_bytes()[:64] for path in run.rglob("*") if path.is_file())
