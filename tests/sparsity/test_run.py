"""Whole sparsifications: one call, run directories, interruptions, networks that a search found."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sparsity_fakes import EXACT, images, small, zeros

import morphsearch as ms
from morphsearch.data import as_splits
from morphsearch.errors import DivergedError, InputError, StoppedError, UsageError
from morphsearch.exporting.api import find
from morphsearch.files import read_tensors, write_tensors
from morphsearch.loop.run import start as search
from morphsearch.loop.run import status
from morphsearch.loop.rundir import RunDirectory
from morphsearch.models import build_seed
from morphsearch.sparsity import SparsifyConfig, runner
from morphsearch.sparsity.run import load_data, plan, resume, start
from morphsearch.sparsity.source import Source, seed_as_it_is
from morphsearch.training import Recipe, Trainer, retrain

RECIPE = {**EXACT, "batch_size": 256}
CONFIG = SparsifyConfig("digits_net", "80%", epochs=3, frequency=2, recipe=RECIPE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sparsification without an interruption."""
    path = tmp_path_factory.mktemp("whole") / "run"
    start(CONFIG, path)
    return path


def assert_same(path: Path, whole: Path) -> None:
    mine, other = read_tensors(path / "weights.safetensors"), read_tensors(whole / "weights.safetensors")
    assert mine.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in mine.items())
    results = [RunDirectory(one).result() for one in (path, whole)]
    for result in results:
        assert result is not None
        del result["metrics"]["seconds"]
    assert results[0] == results[1]
    assert history(path) == history(whole)
    assert not (path / "checkpoint").exists()


def history(path: Path) -> list[dict[str, Any]]:
    lines = [event for event in RunDirectory(path).events() if event["event"] not in ("interrupted", "resumed")]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


class Interrupting:
    """A listener that interrupts at the event of that number."""

    def __init__(self, at: int, kind: str | None = None) -> None:
        self.left, self.kind = at, kind

    def __call__(self, kind: str, payload: dict[str, Any]) -> None:
        if self.kind in (None, kind):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_the_run_directory_is_the_record(whole: Path) -> None:
    result = RunDirectory(whole).result()
    assert result is not None
    rows = [row for row in result["sparsity"]["rows"] if row["kept"] is None]
    assert rows
    for row in rows:
        assert row["asked"] == 0.8
        assert row["nonzeros"] == max(1, round(row["weights"] * (1 - 0.8)))
    assert result["sparsity"]["after"]["gzip"] < 0.5 * result["sparsity"]["before"]["gzip"]
    assert 0 < result["metrics"]["test_accuracy"] <= 1
    epochs = [event for event in RunDirectory(whole).events() if event["event"] == "epoch"]
    assert [event["sparsity_asked"] for event in epochs][-1] == 0.8
    found = status(whole)
    assert (found["state"], found["budgets"], found["strategy"]) == ("complete", ["sparsity=80%"], "magnitude-sparsity")


def test_the_weights_reload_into_the_plain_network(whole: Path) -> None:
    model = build_seed("digits_net?num_classes=10").model
    model.load_state_dict(read_tensors(whole / "weights.safetensors"))
    assert zeros(model.classifier.weight) == pytest.approx(0.8, abs=0.01)
    again = resume(whole)  # complete: nothing is trained, what was found comes back
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in again.model.state_dict().items())


def test_no_sparsity_is_the_plain_training(tmp_path: Path) -> None:
    config = replace(CONFIG, target=0.0, epochs=1)
    data = load_data(config)
    start(config, tmp_path / "run", data=data)
    recipe = Recipe.from_dict({**RECIPE, "epochs": 1})
    retrain(
        lambda: build_seed("digits_net", num_classes=10, input_shape=data.shape).model,
        data,
        recipe,
        seed=0,
        folder=tmp_path / "plain",
        label="plain",
    )
    mine, other = (read_tensors(tmp_path / name / "weights.safetensors") for name in ("run", "plain"))
    assert all(torch.equal(value, other[key]) for key, value in mine.items())


@pytest.mark.parametrize(("kind", "at"), [("epoch", 1), ("progress", 2), ("epoch", 2)])
def test_interrupted_runs_end_as_they_would_have(kind: str, at: int, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(StoppedError) as stopped:
        start(CONFIG, path, listener=Interrupting(at, kind))
    assert stopped.value.repair == f"morphsearch resume {path}"
    assert status(path)["state"] == "interrupted"
    resume(path)
    assert_same(path, whole)


def test_every_checkpoint_is_as_sparse_as_the_network(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        start(CONFIG, tmp_path / "run", listener=Interrupting(2, "epoch"))
    saved = runner.load_checkpoint(tmp_path / "run/checkpoint")
    assert saved is not None
    masks = {name: mask for name, mask in saved[0].items() if name.startswith("sparsity.mask/")}
    assert len(masks) == 8
    for name, mask in masks.items():
        weight = name.removeprefix("sparsity.mask/")
        assert mask.float().mean() > 0.5
        assert not saved[0][f"trainer.model/{weight}"][mask].any()
        assert not saved[0][f"trainer.optimizer/{weight}/momentum_buffer"][mask].any()


def test_interrupted_again_and_again(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from morphsearch.training import progress

    monkeypatch.setattr(progress.Throttle, "due", lambda self, *, force=False: True)  # an event a batch
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", -1.0)
    path, dice, times, done = tmp_path / "run", random.Random(2), 0, False
    while not done:
        listener = Interrupting(dice.randint(3, 8))
        try:
            resume(path, listener=listener) if (path / "run.json").exists() else start(CONFIG, path, listener=listener)
            done = True
        except StoppedError:
            times += 1
    assert times > 2
    assert_same(path, whole)


KILLED = """
import sys, torch
torch.set_num_threads(1)
from morphsearch.sparsity import SparsifyConfig, runner
from morphsearch.sparsity.run import resume, start
runner.CHECKPOINT_SECONDS = 0.0
path, first, config = sys.argv[1], sys.argv[2] == "start", SparsifyConfig.from_dict(eval(sys.argv[3]))
tell = lambda kind, payload: print(kind, flush=True)
start(config, path, listener=tell) if first else resume(path, listener=tell)
"""


def test_killed_runs_end_as_they_would_have(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    for events in (4, 2):
        how = "resume" if (path / "run.json").exists() else "start"
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path), how, repr(CONFIG.to_dict())],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdout is not None
        with process, process.stdout:
            for _ in range(events):
                process.stdout.readline()
            time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
    resume(path)
    assert_same(path, whole)


def test_killed_between_the_line_of_an_epoch_and_its_checkpoint(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    log = RunDirectory.log

    def dies(self: RunDirectory, event: str, **values: Any) -> None:
        log(self, event, **values)
        if event == "epoch":
            raise SystemExit("killed")

    with monkeypatch.context() as patched:
        patched.setattr(runner, "CHECKPOINT_SECONDS", -1.0)
        patched.setattr(RunDirectory, "log", dies)
        with pytest.raises(SystemExit):
            start(CONFIG, path)
    resume(path)
    assert_same(path, whole)


def test_one_call_from_python_saves_and_resumes(tmp_path: Path) -> None:
    def run(path: Path | None, **options: Any) -> ms.SparsifyResult:
        arguments = {"target": "75%", "epochs": 2, "scope": "global", "recipe": EXACT, **options}
        return ms.sparsify(small(), images(), images(40, 1), images(40, 2), run_dir=path, **arguments)

    whole = run(tmp_path / "whole")
    assert whole.report.reached == pytest.approx(0.75, abs=1e-3)
    assert whole.metrics["test_accuracy"] > 0.5
    assert run(None).report == whole.report
    with pytest.raises(StoppedError, match="resume=True"):
        run(tmp_path / "a", listener=Interrupting(1, "epoch"))
    with pytest.raises(UsageError, match="started from Python"):
        resume(tmp_path / "a")
    with pytest.raises(UsageError, match="already holds a run"):
        run(tmp_path / "a")
    for options in ({"target": "70%"}, {"seed": 1}, {"scope": "layer"}):
        with pytest.raises(UsageError, match="was started with other arguments"):
            run(tmp_path / "a", resume=True, **options)
    again = run(tmp_path / "a", resume=True)
    assert all(torch.equal(v, whole.model.state_dict()[k]) for k, v in again.model.state_dict().items())
    assert run(tmp_path / "a", resume=True).report == whole.report
    with pytest.raises(KeyboardInterrupt):
        run(None, listener=Interrupting(1, "epoch"))


def test_a_run_of_another_kind_is_not_gone_on_with(searched: Path, whole: Path) -> None:
    with pytest.raises(UsageError, match="holds a search, and this is a sparsification") as caught:
        ms.sparsify(small(), images(), images(40, 1), target="75%", run_dir=searched, resume=True)
    assert "another run directory" in caught.value.repair
    with pytest.raises(UsageError, match="holds a sparsification, and this is a search"):
        ms.search(small(), images(), images(40, 1), budget="flops=50%", run_dir=whole, resume=True)


@pytest.mark.parametrize("shape", [(3, 8, 8), (4, 12, 12)])
def test_images_that_do_not_fit_the_network(shape: tuple[int, ...], tmp_path: Path) -> None:
    data = (torch.zeros(60, *shape), torch.arange(60) % 5)
    with pytest.raises(InputError, match=f"fails on a batch of shape .2, {shape[0]}, {shape[1]}") as caught:
        ms.sparsify(small(), data, target="70%", run_dir=tmp_path / "run")
    assert "channel count" in caught.value.repair
    few = (torch.zeros(60, 4, 8, 8), torch.arange(60) % 10)
    with pytest.raises(InputError, match="5 outputs, the data has 10 classes"):
        ms.sparsify(small(), few, target="70%", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()  # so that the corrected call may use it


def test_an_average_of_masked_weights_is_refused() -> None:
    with pytest.raises(UsageError, match="ema"):
        SparsifyConfig("digits_net", "80%", recipe={"ema": 0.9})
    with pytest.raises(UsageError, match="averages no weights"):
        ms.sparsify(small(), images(), images(40, 1), target="75%", recipe={**EXACT, "ema": 0.9})


@pytest.mark.parametrize("schedule", ["constant", "polynomial"])
def test_the_trainer_does_the_same_as_a_loop_of_ones_own(schedule: str) -> None:
    when = ms.Schedule(0.6, 0.6 if schedule == "constant" else 0.0, 0.2, 0.5, kind=schedule)
    ours = ms.sparsify(small(), images(), images(40, 1), schedule=when, epochs=2, recipe=EXACT).model
    trainer = Trainer(small(), as_splits(images(), images(40, 1)), Recipe.from_dict({**EXACT, "epochs": 2}))
    sparsifier = ms.Sparsifier(trainer.model, schedule=when, steps=trainer.total_steps)
    sparsifier.follow(trainer.optimizer)
    trainer.after_step = lambda step: sparsifier.step()
    while not trainer.finished:
        trainer.train_epoch()
    assert all(torch.equal(v, trainer.model.state_dict()[k]) for k, v in ours.state_dict().items())


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    config = replace(CONFIG, recipe={**RECIPE, "lr": 1e12})
    with pytest.raises(DivergedError) as caught:
        start(config, tmp_path / "run")
    assert "lower learning rate" in caught.value.repair
    assert "checkpoint" in caught.value.rule
    tensors, _ = runner.load_checkpoint(tmp_path / "run/checkpoint")
    assert all(value.isfinite().all() for value in tensors.values() if value.is_floating_point())


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search with uniform widths, whose architecture was retrained."""
    path = tmp_path_factory.mktemp("searched") / "run"
    search(ms.SearchConfig("digits_net", strategy="uniform", iterations=1, epochs=1, recipe=RECIPE), path)
    architecture = ms.Architecture.load(path / "iterations/001")
    data = load_data(CONFIG)
    recipe = Recipe.from_dict({**RECIPE, "epochs": 1})
    retrain(architecture.build, data, recipe, seed=4, folder=path / "retrained/001-seed4", label="001")
    return path


@pytest.mark.parametrize("weights", ["fresh", "inherited", "retrained"])
def test_a_found_network_is_sparsified(weights: str, searched: Path, tmp_path: Path) -> None:
    target = searched if weights != "fresh" else searched / "iterations/001/architecture.json"
    config = SparsifyConfig(str(target), 0.6, weights=weights, epochs=1, recipe=RECIPE)
    found = start(config, tmp_path / "run")
    assert ("start_val_accuracy" in found.metrics) == (weights != "fresh")
    copy = ms.Architecture.load(tmp_path / "run")
    assert copy.widths == ms.Architecture.load(searched / "iterations/001").widths
    net = copy.build()
    net.load_state_dict(read_tensors(tmp_path / "run/weights.safetensors"))
    assert zeros(net.classifier.weight) == pytest.approx(0.6, abs=0.01)
    if weights == "retrained":
        start_from = read_tensors(searched / "retrained/001-seed4/weights.safetensors")
        assert found.report.after.parameters == sum(p.numel() for p in net.parameters())
        assert start_from.keys() == net.state_dict().keys()


def test_inherited_weights_that_no_search_trained_are_told(searched: Path, tmp_path: Path) -> None:
    heard: list[str] = []

    def listener(kind: str, payload: dict[str, Any]) -> None:
        heard.extend([payload["text"]] if kind == "note" else [])

    config = SparsifyConfig(str(searched), 0.6, weights="inherited", epochs=0.2, recipe=RECIPE)
    start(config, tmp_path / "run", listener=listener)
    assert any("did not train the inherited weights (uniform" in note for note in heard)
    assert any("did not train" in note for note in plan(config).notes)
    told = ms.export(searched, weights="inherited", path=tmp_path / "net.py").notes
    assert any("did not train" in note for note in told)
    for path, weights in ((searched, "retrained"), (searched, "fresh"), (tmp_path / "run", "inherited")):
        notes = ms.export(path, weights=weights, path=tmp_path / "net.py").notes
        assert not any("did not train" in note for note in notes)


def test_a_found_network_resumes_without_the_search(searched: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(searched, tmp_path / "searched"))
    config = SparsifyConfig(str(moved), 0.6, weights="retrained", epochs=2, recipe=RECIPE)
    whole = start(config, tmp_path / "whole")
    with pytest.raises(StoppedError):
        start(config, tmp_path / "run", listener=Interrupting(1, "epoch"))
    shutil.rmtree(moved)
    again = resume(tmp_path / "run")
    assert all(torch.equal(v, whole.model.state_dict()[k]) for k, v in again.model.state_dict().items())
    assert again.report == whole.report


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"weights": "retraind"}, InputError, "did you mean retrained"),
        ({"weights": "nowhere.safetensors"}, InputError, "check the path"),
        ({"weights": "retrained"}, UsageError, "belong to an architecture"),
        ({"begin": 500}, UsageError, "never fires"),
        ({"nm": "2:4", "target": None, "frequency": None}, UsageError, "stem.conv (1)"),
        ({"strategy": "uniform"}, UsageError, "whole units"),
        ({"include": ("steem",)}, UsageError, "did you mean stem"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    changes: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    for call in (lambda: start(replace(CONFIG, **changes), tmp_path / "run"), lambda: plan(replace(CONFIG, **changes))):
        with pytest.raises(error) as caught:
            call()
        assert words in str(caught.value)
        assert not (tmp_path / "run").exists()


UNUSABLE: dict[str, tuple[Any, str, str]] = {
    "nan": (lambda value: value.fill_(float("nan")), "stem.conv.weight is not finite", "earlier epoch"),
    "complex": (lambda value: value.to(torch.complex64), "stem.conv.weight holds complex64", "tensor.float()"),
    "whole numbers": (lambda value: value.to(torch.int64), "stem.conv.weight holds int64", "tensor.float()"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_weights_that_no_network_can_start_from(kind: str, whole: Path, tmp_path: Path) -> None:
    change, arrived, repair = UNUSABLE[kind]
    tensors = read_tensors(whole / "weights.safetensors")
    file = tmp_path / "weights.safetensors"
    write_tensors(file, {**tensors, "stem.conv.weight": change(tensors["stem.conv.weight"])})
    for call in (
        lambda: start(SparsifyConfig("digits_net", 0.5, weights=str(file)), tmp_path / "run"),
        lambda: ms.export(
            build_seed("digits_net").model, weights=file, example_inputs=torch.zeros(1, 1, 8, 8), path=tmp_path / "n.py"
        ),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert arrived in caught.value.arrived
        assert repair in caught.value.repair
    assert list(tmp_path.iterdir()) == [file]


def test_weights_in_halves_are_taken_as_what_the_network_computes_in(whole: Path, tmp_path: Path) -> None:
    tensors = read_tensors(whole / "weights.safetensors")
    halves = {name: value.bfloat16() if value.is_floating_point() else value for name, value in tensors.items()}
    write_tensors(tmp_path / "halves.safetensors", halves)
    config = SparsifyConfig("digits_net", 0.9, weights=str(tmp_path / "halves.safetensors"), epochs=0.1, recipe=RECIPE)
    start(config, tmp_path / "run")
    assert read_tensors(tmp_path / "run" / "weights.safetensors")["stem.conv.weight"].dtype == torch.float32


def test_names_behind_the_prefix_of_a_wrapper(whole: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    tensors = read_tensors(whole / "weights.safetensors")
    write_tensors(file, {f"module.{name}": value for name, value in tensors.items()})
    with pytest.raises(InputError) as caught:
        start(SparsifyConfig("digits_net", 0.5, weights=str(file)), tmp_path / "run")
    assert "model.module.state_dict()" in caught.value.repair


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickles_are_told_and_never_read(how: str, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "run code",))

    file = tmp_path / "weights.pt"
    file.write_bytes(pickle.dumps(Trap()))
    if how == "torch":
        torch.save({"weight": Trap()}, file)
    with pytest.raises(InputError) as caught:
        start(SparsifyConfig("digits_net", 0.5, weights=str(file)), tmp_path / "run")
    assert "save_file(model.state_dict()" in caught.value.repair
    assert list(tmp_path.iterdir()) == [file]


def test_weights_of_another_network_and_runs_without_an_architecture(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not fit"):
        start(SparsifyConfig("resnet20", 0.5, weights=str(whole / "weights.safetensors")), tmp_path / "run")
    old = Path(shutil.copytree(whole, tmp_path / "old"))
    (old / "architecture.json").unlink()  # as runs were before sparsified seeds had one
    with pytest.raises(InputError, match="holds no architecture") as caught:
        start(SparsifyConfig(str(old), 0.5), tmp_path / "run")
    assert f"--weights {old / 'weights.safetensors'}" in caught.value.repair
    found = start(replace(CONFIG, model=str(whole), weights="inherited"), tmp_path / "run")
    assert found.metrics["start_val_accuracy"] > 0.1, "it begins with the sparse weights"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: run["sparsify"].update(targt="5%"), "targt"),
        (lambda run: run["sparsify"].update(target="120%"), "120%"),
        (lambda run: run["sparsify"].pop("model"), "model"),
    ],
)
def test_damaged_records_are_named(damage: Any, words: str, whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    record = json.loads((path / "run.json").read_text())
    damage(record)
    (path / "run.json").write_text(json.dumps(record, indent=2))
    with pytest.raises(InputError) as caught:
        resume(path)
    assert words in str(caught.value)
    assert "run.json" in caught.value.arrived


def test_a_damaged_result_is_named(whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    (path / "result.json").write_text('{"best": "sparsified", "metrics": {}}')
    with pytest.raises(InputError, match=r"result\.json"):
        resume(path)


def test_what_was_saved_within_the_first_epoch_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    save = runner.save_checkpoint

    def full(path: Path, tensors: Any, state: Any) -> None:
        if state["step"] > 2:
            raise InputError(f"cannot write {path}: No space left on device", "the disk must have room", "make some")
        save(path, tensors, state)

    monkeypatch.setattr(runner, "save_checkpoint", full)
    with pytest.raises(InputError, match="No space left"):
        start(CONFIG, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    monkeypatch.undo()
    resume(tmp_path / "run")
    assert status(tmp_path / "run")["state"] == "complete"


def test_a_disk_that_is_full_from_the_beginning_leaves_nothing(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise InputError("cannot write run.json: No space left on device", "the disk must have room", "make some")

    monkeypatch.setattr("morphsearch.loop.rundir.write_json", full)
    with pytest.raises(InputError, match="No space left"):
        start(SparsifyConfig(str(searched), 0.6, epochs=1, recipe=RECIPE), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_network_of_a_sparsified_seed_is_exported_with_its_weights(whole: Path, tmp_path: Path) -> None:
    done = ms.export(whole, path=tmp_path / "net.pt2")
    model = build_seed("digits_net", num_classes=10).model
    model.load_state_dict(read_tensors(whole / "weights.safetensors"))
    x = torch.rand(1, 1, 8, 8)
    assert torch.allclose(torch.export.load(done.path).module()(x), model.eval()(x), atol=1e-5)
    fresh = ms.export(whole, path=tmp_path / "fresh.pt2", weights="fresh")
    assert not torch.allclose(torch.export.load(fresh.path).module()(x), model(x), atol=1e-2)


def test_a_sparsification_that_has_not_ended_has_no_network_to_export(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    (path / "weights.safetensors").unlink()
    with pytest.raises(InputError, match="has no weights yet") as caught:
        ms.export(path, path=tmp_path / "net.py")
    assert f"morphsearch resume {path}" in caught.value.repair
    assert ms.export(path, path=tmp_path / "net.py", weights="fresh").path.is_file()


def test_a_sparsification_has_no_iterations_and_no_retrained_weights(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="weights 'retrained' of") as caught:
        ms.export(whole, path=tmp_path / "net.py", weights="retrained")
    assert "safetensors file" in caught.value.repair
    with pytest.raises(UsageError, match="iteration 1 does not exist") as caught:
        find(whole, 1)
    assert caught.value.repair == "leave the iteration out"


def test_recording_a_seed_draws_no_numbers(tmp_path: Path) -> None:
    model = build_seed("digits_net").model
    source, before = Source(model, "digits_net", None, None), torch.get_rng_state()
    made = seed_as_it_is(source, (1, 1, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert made is not None
    assert made.build().state_dict().keys() == model.state_dict().keys()
    assert seed_as_it_is(source, (1, 7, 8, 8)) is None, "it takes no seven channels"
    assert seed_as_it_is(Source(model, None, None, None), (1, 1, 8, 8)) is None, "no file can name it"
