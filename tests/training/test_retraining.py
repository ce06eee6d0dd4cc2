"""Retraining into a folder: whole results, exact resumption, the test split read once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_fakes import TinyNet, fake_data, tiny_net

from morphsearch.errors import DivergedError, InputError, MorphError, StoppedError, UsageError
from morphsearch.files import read_lines, read_tensors
from morphsearch.locks import held
from morphsearch.training import Recipe, RetrainResult, evaluate, load_result, retrain, retraining

RECIPE = Recipe(epochs=3, batch_size=8, lr=0.1, precision="fp32", channels_last=False)


def run(
    folder: Path, data: Any = None, recipe: Recipe = RECIPE, model: Any = TinyNet, **arguments: Any
) -> RetrainResult:
    arguments = {"seed": 1, "label": "001", **arguments}
    return retrain(model, data or fake_data(40), recipe, folder=folder, **arguments)


def outcome(folder: Path) -> tuple[Any, ...]:
    """What must not depend on interruptions."""
    result = json.loads((folder / "result.json").read_text())
    lines = read_lines(folder / "metrics.jsonl")
    for record in [result, *lines]:
        record.pop("seconds")
        record.pop("images_per_second")
    return result, lines, {name: value.tolist() for name, value in read_tensors(folder / "weights.safetensors").items()}


def test_writes_result_metrics_and_weights(tmp_path: Path) -> None:
    data: Any = fake_data(40)
    events: list[tuple[str, dict[str, Any]]] = []
    result = run(tmp_path, data, extra={"flops": 7}, on_event=lambda *event: events.append(event))
    assert load_result(tmp_path) == result
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["schema_version"] == 1
    assert stored["extra"] == {"flops": 7}
    assert Recipe.from_dict(stored["recipe"]) == RECIPE
    assert (stored["label"], stored["seed"], stored["test_count"], stored["evaluated_on"]) == ("001", 1, 21, "test")
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["val_accuracy"] == result.val_accuracy
    assert [payload for kind, payload in events if kind == "epoch"] == lines
    assert any(kind == "progress" and payload["phase"] == "retrain" for kind, payload in events)
    model = TinyNet()
    model.load_state_dict(read_tensors(tmp_path / "weights.safetensors"))
    assert evaluate(model, data.test).accuracy == result.accuracy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "result.json", "weights.safetensors"]


def test_test_split_is_read_once_and_a_finished_folder_returns_at_once(tmp_path: Path) -> None:
    data: Any = fake_data(40)
    first = run(tmp_path, data)
    assert (data.test.reads, data.val.reads, data.train.reads) == (1, 3, 3)

    def never() -> nn.Module:
        raise AssertionError("a finished retraining needs no model")

    assert run(tmp_path, data, model=never) == first
    assert (data.test.reads, data.val.reads, data.train.reads) == (1, 3, 3)


def test_without_test_split_says_that_validation_was_used(tmp_path: Path) -> None:
    result = run(tmp_path, fake_data(40, test=False))
    assert result.evaluated_on == "val"
    assert (result.accuracy, result.test_count) == (result.val_accuracy, 15)


def test_same_seed_same_result_and_outside_random_state_does_not_matter(tmp_path: Path) -> None:
    torch.manual_seed(1)
    run(tmp_path / "a")
    before = torch.get_rng_state()
    torch.manual_seed(2)
    run(tmp_path / "b")
    run(tmp_path / "c", seed=2)
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
    assert outcome(tmp_path / "a")[2] != outcome(tmp_path / "c")[2]
    assert not torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["progress", "epoch"])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, kind: str) -> None:
    run(tmp_path / "whole")
    events = 0

    def interrupt(event: str, payload: dict[str, Any]) -> None:
        nonlocal events
        events += event == kind
        if event == kind and events == 2:
            raise KeyboardInterrupt

    with pytest.raises(StoppedError) as caught:
        run(tmp_path / "broken", on_event=interrupt)
    assert caught.value.exit_code == 130
    assert "checkpoint" in caught.value.rule
    assert not (tmp_path / "broken" / "result.json").exists()
    run(tmp_path / "broken", model=lambda: tiny_net(7))
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")


def test_crash_between_metrics_and_checkpoint_logs_each_epoch_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole")
    saves = 0
    save = retraining.save_checkpoint

    def die(*arguments: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == 3:
            raise MemoryError
        save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(retraining, "save_checkpoint", die)
        with pytest.raises(MemoryError):
            run(tmp_path / "broken")
    assert len(read_lines(tmp_path / "broken" / "metrics.jsonl")) == 2
    run(tmp_path / "broken")
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")


def test_saves_within_an_epoch_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retraining, "CHECKPOINT_SECONDS", 0)
    steps: list[int] = []
    save = retraining.save_checkpoint
    monkeypatch.setattr(retraining, "save_checkpoint", lambda *a: (steps.append(a[2]["step"]), save(*a)))
    run(tmp_path)
    assert set(range(16)) == set(steps)


@pytest.mark.parametrize(
    "change", [{"label": "002"}, {"seed": 2}, {"recipe": RECIPE.replace(lr=0.2)}], ids=["label", "seed", "recipe"]
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_another_retraining_is_refused(tmp_path: Path, change: dict[str, Any], finished: bool) -> None:
    def stop(kind: str, payload: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    if finished:
        run(tmp_path)
    else:
        with pytest.raises(StoppedError):
            run(tmp_path, on_event=stop)
    with pytest.raises(UsageError) as caught:
        run(tmp_path, **change)
    assert next(iter(change)) in caught.value.arrived or "lr" in caught.value.arrived


def test_one_process_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    with held(tmp_path, ""), pytest.raises(UsageError, match="another process works on"):
        run(tmp_path)
    assert not list(tmp_path.iterdir())
    run(tmp_path)


def test_lines_that_are_no_objects_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('3\n"epoch"\n[1]\nnull\n')
    run(tmp_path)
    assert [line["epoch"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_another_architecture_in_the_checkpoint_is_named(tmp_path: Path) -> None:
    def stop(kind: str, payload: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(StoppedError):
        run(tmp_path, on_event=stop)
    with pytest.raises(InputError, match=r"1\.weight is missing"):
        run(tmp_path, model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))


def test_divergence_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Poisoned(TinyNet):
        steps = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps += self.training
            return super().forward(x) * (float("inf") if self.steps > 7 else 1.0)

    with pytest.raises(DivergedError) as caught:
        run(tmp_path, model=Poisoned)
    assert "'001'" in caught.value.arrived
    assert "lower learning rate" in caught.value.repair
    saved = retraining.load_checkpoint(tmp_path / "checkpoint")
    assert saved is not None
    assert saved[1]["trainer"]["epoch"] == 1
    assert run(tmp_path).epochs == 3  # the cause is gone


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1"),
        ("[]", "list"),
        ('{"schema_version": 2}', "schema_version is 2"),
        ('{"schema_version": 1}', "'label' is missing"),
    ],
)
def test_damaged_results_are_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError) as caught:
        run(tmp_path)
    assert words in caught.value.arrived
    assert caught.value.repair


def test_wrong_type_in_a_result_is_named(tmp_path: Path) -> None:
    run(tmp_path)
    record = json.loads((tmp_path / "result.json").read_text())
    for value in ("high", True, None):
        (tmp_path / "result.json").write_text(json.dumps({**record, "accuracy": value}))
        with pytest.raises(InputError, match="'accuracy'"):
            load_result(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 1.5),
        ("val_accuracy", -1),
        ("seconds", 10**400),
        ("loss", float("inf")),
        ("extra.costs", "flops=50%"),
        ("extra.costs", {"flops": None}),
        ("extra.costs", {"flops": float("nan")}),
        ("extra.widths", {"conv": 0.5}),
        ("extra.baseline_of", 3),
        ("extra.teacher", ["seed"]),
    ],
)
def test_values_that_no_table_could_show_are_named(tmp_path: Path, name: str, value: Any) -> None:
    run(tmp_path)
    record = json.loads((tmp_path / "result.json").read_text())
    table, dot, field = name.rpartition(".")
    (record[table] if dot else record)[field] = value
    (tmp_path / "result.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=name) as caught:
        load_result(tmp_path)
    assert "retrain" in caught.value.repair


def test_unwritable_folder_is_an_error_of_three_parts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MorphError) as caught:
        run(tmp_path / "file" / "folder")
    assert caught.value.repair


SCRIPT = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from training_fakes import TinyNet, fake_data
from morphsearch.training import Recipe, retrain, retraining
from morphsearch.errors import StoppedError
retraining.CHECKPOINT_SECONDS = 0.05
recipe = Recipe(epochs=40, batch_size=8, lr=0.1, precision="fp32", channels_last=False)
def tell(kind, payload):
    print(kind, flush=True)
try:
    retrain(TinyNet, fake_data(40), recipe, seed=1, folder=Path(sys.argv[2]), label="x", on_event=tell)
except StoppedError:
    sys.exit(130)
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_it_would_have(tmp_path: Path) -> None:
    def start(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    run(tmp_path / "whole", recipe=RECIPE.replace(epochs=40), label="x")
    broken = start(tmp_path / "broken")
    for number, sent in enumerate((signal.SIGKILL, signal.SIGINT)):
        assert broken.stdout is not None
        assert broken.stdout.readline()  # it trains
        time.sleep(0.1 + 0.07 * number)
        os.kill(broken.pid, sent)
        broken.communicate()
        assert broken.returncode in ((-9, 0) if sent == signal.SIGKILL else (130, 0))
        broken = start(tmp_path / "broken")
    broken.communicate()
    assert broken.returncode == 0
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")
