"""A search that was interrupted, or killed, ends as it would have."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_fakes import EXACT, data, network

import morphsearch as ms
from morphsearch.errors import DivergedError, InputError, StoppedError, UsageError
from morphsearch.files import read_tensors
from morphsearch.loop import runner
from morphsearch.loop.run import resume, start, status
from morphsearch.loop.rundir import RunDirectory

CONFIG = ms.SearchConfig(
    "digits_net", budget=("flops=50%",), iterations=2, epochs=2, recipe={**EXACT, "batch_size": 256, "lr": 0.1}
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same search without an interruption."""
    path = tmp_path_factory.mktemp("whole") / "run"
    start(CONFIG, path)
    return path


def assert_same(path: Path, whole: Path) -> None:
    """Architectures, weights, figures and what happened when are those of the uninterrupted run."""
    for name in ("001", "002"):
        ours, theirs = (RunDirectory(p).iteration(name) for p in (path, whole))
        assert json.loads((ours / "architecture.json").read_text()) == json.loads(
            (theirs / "architecture.json").read_text()
        )
        mine, other = read_tensors(ours / "weights.safetensors"), read_tensors(theirs / "weights.safetensors")
        assert mine.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in mine.items())
    assert history(path) == history(whole)
    assert RunDirectory(path).result() == RunDirectory(whole).result()


def history(path: Path) -> list[dict[str, Any]]:
    """The log without times and interruptions."""
    lines = [e for e in RunDirectory(path).events() if e["event"] not in ("interrupted", "resumed")]
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


def go_on(path: Path, at: int, kind: str | None = None, *, again: bool = False) -> bool:
    """Start or resume, interrupted at an event; whether it came to its end instead."""
    listener = Interrupting(at, kind)
    stopped: StoppedError | None = None
    try:
        if again:
            resume(path, listener=listener)
        else:
            start(CONFIG, path, listener=listener)
    except StoppedError as error:
        stopped = error
    if stopped is not None:
        assert f"morphsearch resume {path}" in stopped.repair
        assert stopped.exit_code == 130
        assert status(path)["state"] == "interrupted"
    return stopped is None


@pytest.mark.parametrize(
    ("kind", "at"), [("epoch", 1), ("epoch", 2), ("iteration", 1), ("progress", 1), ("epoch", 3), ("iteration", 2)]
)
def test_interrupted_by_a_listener(kind: str, at: int, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert not go_on(path, at, kind)
    result = resume(path)
    assert [a.name for a in result.architectures] == ["001", "002"]
    assert_same(path, whole)
    assert status(path)["state"] == "complete"


def test_interrupted_again_and_again_at_random(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from morphsearch.training import progress

    monkeypatch.setattr(progress.Throttle, "due", lambda self, *, force=False: True)  # an event a batch
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "run"
    dice = random.Random(5)
    done = go_on(path, dice.randint(2, 9))
    times = 1
    while not done:
        done = go_on(path, dice.randint(3, 9), again=True)
        times += 1
    assert times > 3
    assert_same(path, whole)


KILLED = """
import sys, torch
torch.set_num_threads(1)
import morphsearch as ms
from morphsearch.loop import runner
from morphsearch.loop.run import resume, start
runner.CHECKPOINT_SECONDS = 0.0
from tests_config import CONFIG
path, first = sys.argv[1], sys.argv[2] == "start"
tell = lambda kind, payload: print(kind, flush=True)
start(CONFIG, path, listener=tell) if first else resume(path, listener=tell)
"""


def test_killed_at_random_moments(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    (tmp_path / "tests_config.py").write_text(
        f"import morphsearch as ms\nCONFIG = ms.SearchConfig.from_dict({CONFIG.to_dict()!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}", "OMP_NUM_THREADS": "1"}
    dice = random.Random(3)
    for _ in range(2):
        how = "resume" if (path / "run.json").exists() else "start"
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path), how], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:  # training has begun; let it come to some moment of it
            if line.strip() == "progress":
                break
        time.sleep(dice.uniform(0.0, 1.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if process.returncode != -signal.SIGKILL:
            break
        assert status(path)["state"] in ("running", "complete")
    if status(path)["state"] != "complete":
        resume(path)
    assert_same(path, whole)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_killed_between_the_line_of_an_epoch_and_its_checkpoint(
    at: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    log, left = RunDirectory.log, [at]

    def dies(self: RunDirectory, event: str, **values: Any) -> None:
        log(self, event, **values)
        left[0] -= event == "epoch"
        if left[0] == 0:
            raise SystemExit("killed")

    with monkeypatch.context() as patched:
        patched.setattr(runner, "CHECKPOINT_SECONDS", -1.0)  # the last batch of an epoch has a checkpoint of its own
        patched.setattr(RunDirectory, "log", dies)
        with pytest.raises(SystemExit):
            start(CONFIG, path)
    resume(path)
    assert_same(path, whole)


def test_killed_between_the_weights_of_a_morph_and_its_architecture(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"

    def dies(self: ms.Architecture, path: Path) -> Path:
        raise SystemExit("killed")

    with monkeypatch.context() as patched:
        patched.setattr(ms.Architecture, "save", dies)
        with pytest.raises(SystemExit):
            start(CONFIG, path)
    assert (path / "iterations/001/weights.safetensors").exists()
    assert status(path)["iterations"] == 0
    resume(path)
    assert_same(path, whole)


def test_killed_after_the_architecture_before_anything_else(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    log = RunDirectory.log

    def dies(self: RunDirectory, event: str, **values: Any) -> None:
        if event == "iteration":
            raise SystemExit("killed")
        log(self, event, **values)

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "log", dies)
        with pytest.raises(SystemExit):
            start(CONFIG, path)
    assert status(path)["iterations"] == 1
    resume(path)
    assert_same(path, whole)


def test_killed_before_the_first_step_of_a_later_morph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers that group-lasso weighs rows by are those that the morph began with, in the first sitting too."""
    config = replace(CONFIG, strategy="group-lasso", recipe={**EXACT, "batch_size": 64, "lr": 0.1})
    start(config, tmp_path / "whole")
    epoch = runner.Runner._epoch

    def killed(self: runner.Runner, trainer: Any, interrupt: Any) -> None:
        if self.number == 2:
            raise SystemExit(9)
        epoch(self, trainer, interrupt)

    with monkeypatch.context() as patch:
        patch.setattr(runner.Runner, "_epoch", killed)
        with pytest.raises(SystemExit):
            start(config, tmp_path / "run")
    resume(tmp_path / "run")
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_complete_run_resumed_changes_nothing(whole: Path) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    result = resume(whole)
    assert [a.name for a in result.architectures] == ["001", "002"]
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_a_run_goes_on_in_one_process_at_a_time(tmp_path: Path) -> None:
    go_on(tmp_path / "run", 3, "epoch")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = "import sys; from morphsearch.locks import held\nwith held(sys.argv[1], ''): print('on'), sys.stdin.read()"
    record = str(tmp_path / "run" / "run.json")
    with subprocess.Popen(
        [sys.executable, "-uc", other, record], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        with pytest.raises(UsageError, match="another process works on"):
            resume(tmp_path / "run")
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        process.kill()  # what it held is free again
    assert status(tmp_path / "run")["state"] == "interrupted"
    resume(tmp_path / "run")
    assert status(tmp_path / "run")["state"] == "complete"


SEED = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)
    )
"""


def test_what_changed_since_a_run_was_begun_is_told(tmp_path: Path) -> None:
    (tmp_path / "seed.py").write_text(SEED)
    config = replace(CONFIG, model=f"{tmp_path / 'seed.py'}:build", input=(1, 1, 8, 8), allow_code=True, epochs=1)
    run = tmp_path / "run"
    with pytest.raises(StoppedError):
        start(config, run, listener=Interrupting(1, "iteration"))
    same, other, edited = (Path(shutil.copytree(run, tmp_path / name)) for name in ("same", "other", "edited"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resume(same, allow_code=True)
    (tmp_path / "seed.py").write_text(SEED.replace("nn.ReLU", "nn.SiLU"))
    with pytest.warns(UserWarning, match="computes other operations"):
        resume(other, allow_code=True)
    (tmp_path / "seed.py").write_text(SEED)
    asked = json.loads((edited / "run.json").read_text())
    asked["config"]["epochs"] = 2
    (edited / "run.json").write_text(json.dumps(asked))
    with pytest.warns(UserWarning, match=r"run\.json was edited after 001 was found: epochs is 2 and was 1"):
        resume(edited, allow_code=True)


def test_a_run_directory_that_holds_a_run_is_refused(whole: Path) -> None:
    with pytest.raises(UsageError, match="already holds a run") as caught:
        start(CONFIG, whole)
    assert f"morphsearch resume {whole}" in caught.value.repair


def test_states(whole: Path, tmp_path: Path) -> None:
    found = status(whole)
    assert found["state"] == "complete"
    assert (found["iterations"], found["asked"]) == (2, 2)
    assert found["best"] in ("001", "002")
    assert found["budgets"] == ["flops=50%"]
    assert found["costs"]["flops"] <= 608_512
    assert status(tmp_path)["state"] == "damaged"
    (tmp_path / "run.json").write_text("{")
    assert "line 1" in status(tmp_path)["error"]


def test_python_searches_resume_where_they_were_started(tmp_path: Path) -> None:
    def run(path: Path, **options: Any) -> ms.SearchResult:
        return ms.search(
            network(), data(), budget="flops=50%", iterations=2, epochs=2, run_dir=path, recipe=EXACT, **options
        )

    whole = run(tmp_path / "whole")
    with pytest.raises(StoppedError) as stopped:
        run(tmp_path / "a", listener=Interrupting(3, "epoch"))
    assert "resume=True" in stopped.value.repair
    with pytest.raises(UsageError, match="started from Python"):
        resume(tmp_path / "a")
    with pytest.raises(UsageError, match="already holds a run"):
        run(tmp_path / "a")
    with pytest.raises(UsageError, match="other arguments; seed: 0, now 1"):
        run(tmp_path / "a", resume=True, seed=1)
    again = run(tmp_path / "a", resume=True)
    assert again.architectures == whole.architectures
    assert all(torch.equal(v, whole.model.state_dict()[k]) for k, v in again.model.state_dict().items())
    assert run(tmp_path / "a", resume=True).architectures == whole.architectures


def test_without_a_run_directory_an_interrupt_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        ms.search(network(), data(), budget="flops=50%", epochs=1, recipe=EXACT, listener=Interrupting(1, "epoch"))


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(tmp_path: Path) -> None:
    config = ms.SearchConfig("digits_net", iterations=1, epochs=3, recipe={**EXACT, "batch_size": 256, "lr": 1e12})
    with pytest.raises(DivergedError) as caught:
        start(config, tmp_path / "run")
    assert "learning rate" in caught.value.repair
    assert caught.value.exit_code == 5
    tensors, _ = runner.load_checkpoint(tmp_path / "run/checkpoint")
    assert all(value.isfinite().all() for value in tensors.values() if value.is_floating_point())


def test_weights_that_are_missing_or_of_another_network(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    weights = path / "iterations/002/weights.safetensors"
    other = (path / "iterations/001/weights.safetensors").read_bytes()
    weights.write_bytes(other)
    with pytest.raises(InputError, match="do not fit"):
        resume(path)
    weights.write_bytes(other[:100])
    with pytest.raises(InputError, match="cannot read the tensors"):
        resume(path)
    weights.unlink()
    with pytest.raises(InputError, match=r"weights\.safetensors"):
        resume(path)


def test_killed_again_and_again_while_units_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from morphsearch.loop import live
    from morphsearch.training import progress

    monkeypatch.setattr(live, "PATIENCE", 2)
    monkeypatch.setattr(live, "LEAST_SHARE", 0.02)
    monkeypatch.setattr(live, "LEAST_STEPS", 0)
    monkeypatch.setattr(progress.Throttle, "due", lambda self, *, force=False: True)  # an event a batch
    config = replace(CONFIG, budget=("flops=40%,20%",), iterations=None, epochs=4)
    start(config, tmp_path / "whole")
    shrunk = [e for e in RunDirectory(tmp_path / "whole").events() if e["event"] == "shrunk"]
    assert {e["iteration"] for e in shrunk} == {1, 2}, "nobody left; the test would show nothing"
    dice = random.Random(1)

    class Dies:
        """A listener that kills the run, without any saving, at a moment of its choice."""

        def __init__(self) -> None:
            self.left = dice.randint(6, 24)

        def __call__(self, kind: str, payload: dict[str, Any]) -> None:
            self.left -= 1
            if self.left == 0:
                raise SystemExit

    deaths = 0
    while status(tmp_path / "run")["state"] != "complete":
        again = (tmp_path / "run" / "run.json").exists()
        with contextlib.suppress(SystemExit):
            resume(tmp_path / "run", listener=Dies()) if again else start(config, tmp_path / "run", listener=Dies())
            continue
        deaths += 1
        assert deaths < 40
    assert deaths > 1
    assert_same(tmp_path / "run", tmp_path / "whole")
