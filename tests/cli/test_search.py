"""search, resume, retrain, compare and runs on real, very small searches; and every way to ask for the impossible."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import morphsearch as ms
from morphsearch import plugins
from morphsearch.cli import main
from morphsearch.errors import InputError
from morphsearch.hookspecs import hookimpl
from morphsearch.loop import morphing, runner
from morphsearch.models import build_seed
from morphsearch.types import StrategyRecord

NETS = """
import numpy as np
import torch
from torch import nn


def tiny(num_classes=10, in_channels=1):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )


def flat(num_classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


def narrow():
    return tiny(4)


def raises():
    raise RuntimeError("no such luck")


class Shifted(nn.Module):

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 6, 3), nn.Linear(6, 10)

    def forward(self, x):
        x = self.a(x)
        x = self.b(torch.cat([x[:, :5].transpose(2, 3), x[:, 5:]], 1).relu())
        return self.out(x.mean((2, 3)))


class Versioned(nn.Sequential):
    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") != 2:
            raise ValueError(f"version {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def versioned():
    return Versioned(*tiny())


def data():
    x = np.zeros((40, 8, 8, 1), dtype=np.uint8)
    return x, np.arange(40) % 4


def no_data():
    raise ValueError("no data today")
"""

QUICK = ("--epochs", "0.5", "--iterations", "1", "--set", "precision=fp32", "--set", "channels_last=false")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def clean(result: Result, code: int) -> None:
    """The exit code, and never a traceback or a defect."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    assert "defect" not in result.stderr


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nets") / "nets.py"
    path.write_text(NETS)
    return path


@pytest.fixture(scope="module")
def finished(nets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A finished search and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    return folder, run("search", f"{nets}:tiny", "--run-dir", folder, *QUICK)


@pytest.fixture
def copy(finished: tuple[Path, Result], tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


def test_a_search_prints_the_plan_what_it_found_and_the_next_command(finished: tuple[Path, Result]) -> None:
    folder, result = finished
    clean(result, 0)
    assert "found" in result.stdout
    assert "widths of 001" in result.stdout
    for part in ('budget = [\n    "flops=50%",\n]', "can be met", "morph 1/1", f"next: morphsearch retrain {folder}"):
        assert part in result.stderr
    assert (folder / "iterations" / "001" / "architecture.json").is_file()
    asked = json.loads((folder / "run.json").read_text())["config"]
    assert (asked["epochs"], asked["recipe"]["precision"]) == (0.5, "fp32")


def test_the_printed_configuration_repeats_the_search(finished: tuple[Path, Result], tmp_path: Path) -> None:
    text = finished[1].stderr
    path = tmp_path / "again.toml"
    path.write_text(text[: text.index("\nplan")])
    result = run("search", "--config", path, "--run-dir", tmp_path / "b", "--json", "--quiet")
    clean(result, 0)
    found = json.loads(result.stdout)
    assert found["best"] == "001"
    first = json.loads((finished[0] / "iterations" / "001" / "architecture.json").read_text())
    second = json.loads((tmp_path / "b" / "iterations" / "001" / "architecture.json").read_text())
    assert first["widths"] == second["widths"]
    assert "morph 1/1" not in result.stderr


def test_without_a_folder_a_new_one_is_made(nets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        result = run("search", f"{nets}:tiny", "--strategy", "uniform", "--iterations", 1, "--json")
        clean(result, 0)
        assert json.loads(result.stdout)["run_dir"] == f"runs/nets.py-tiny-{number:03d}"
    rows = json.loads(run("runs", "--json").stdout)
    assert [row["state"] for row in rows] == ["complete", "complete"]


def test_a_run_is_never_overwritten(finished: tuple[Path, Result], nets: Path) -> None:
    before = sorted(path.stat().st_mtime_ns for path in finished[0].rglob("*"))
    result = run("search", f"{nets}:tiny", "--run-dir", finished[0])
    clean(result, 2)
    assert f"morphsearch resume {finished[0]}" in result.stderr
    assert sorted(path.stat().st_mtime_ns for path in finished[0].rglob("*")) == before


def test_a_dry_run_shows_the_plan_and_writes_nothing(nets: Path, tmp_path: Path) -> None:
    arguments = ("search", f"{nets}:tiny", "--run-dir", tmp_path / "x", "--dry-run", "--budget", "params<=700")
    result = run(*arguments)
    clean(result, 0)
    for part in ("plan", "asked for", "700", "lowest", "yes"):
        assert part in result.stdout
    plan = json.loads(run(*arguments, "--json").stdout)
    assert plan["satisfiable"] is True
    assert plan["budgets"][0]["lowest"] < 700 < plan["budgets"][0]["seed"]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_an_impossible_budget_is_refused_with_the_lowest_possible(nets: Path, tmp_path: Path, dry: list[str]) -> None:
    result = run("search", f"{nets}:tiny", "--run-dir", tmp_path / "x", "--budget", "params<=3", *dry)
    clean(result, 3)
    plan = json.loads(run("search", f"{nets}:tiny", "--dry-run", "--json", "--budget", "params=99%").stdout)
    lowest = plan["budgets"][0]["lowest"]
    assert f"{lowest:,} parameters" in result.stderr
    refused = run("search", f"{nets}:tiny", "--json", "--budget", "params<=3", *dry)
    data = json.loads(refused.stdout)  # one document
    assert (refused.exit_code, data["exit_code"]) == (3, 3)
    assert data.get("satisfiable", False) is False
    assert ("budgets" in data) == bool(dry)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--budget", "flops=fifty"], 2, ["flops=fifty", "flops=50%"]),
        (["--budget", "50%"], 2, ["50%"]),
        (["--budget", "flops"], 2, ["flops"]),
        (["--budget", "flops=0%"], 2, ["flops=0%"]),
        (["--budget", "flops=-5%"], 2, ["flops=-5%"]),
        (["--budget", "params<=1Q"], 2, ["1Q"]),
        (["--budget", "flops=150%", "--no-expand"], 2, ["--no-expand"]),
        (["--set", "lerning_rate=1"], 2, ["lerning_rate"]),
        (["--set", "optimizer=adamm"], 2, ["adamw"]),
        (["--set", "lr=fast"], 2, ["lr"]),
        (["--strategy-option", "nonsense=1"], 2, ["nonsense"]),
        (["--shrink-to", "3"], 2, ["shrink_to"]),
        (["--hardware", "v100"], 2, ["v100", "--budget latency"]),
        (["--data", "imagefolder:nowhere"], 5, ["nowhere"]),
        (["--data", "cifar10:nowhere"], 5, ["nowhere"]),
        (["--data", "npz:nowhere.npz"], 5, ["nowhere.npz"]),
        (["--data", "imagefolder"], 2, ["imagefolder"]),
        (["--data", "no_such.module:load"], 5, ["no_such"]),
        (["--data", "digitts:x"], 2, ["did you mean digits"]),
        (["--data", "digits", "--input", "1,2,8,8"], 5, ["channel"]),
        (["--set", "lr=1e30", "--set", "warmup=0"], 5, ["not finite", "lower"]),
        (["--device", "cuda:77"], 2, ["cuda"]),
    ],
)
def test_what_cannot_be_done_is_said_in_three_parts(
    nets: Path, tmp_path: Path, arguments: list[str], code: int, parts: list[str]
) -> None:
    result = run("search", f"{nets}:tiny", "--run-dir", tmp_path / "x", *QUICK, *arguments)
    clean(result, code)
    tail = result.stderr[result.stderr.index("error:") :]
    assert "try:" in tail
    for part in parts:
        assert part in tail
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.rglob("architecture.json"))


@pytest.mark.parametrize(
    ("factory", "code", "parts"),
    [
        ("raises", 5, ["no such luck"]),
        ("flat", 5, ["no convolution"]),
        ("tinny", 5, ["tiny"]),
        ("narrow", 5, ["4 outputs", "num_classes=10"]),
    ],
)
def test_networks_that_cannot_be_searched(
    nets: Path, tmp_path: Path, factory: str, code: int, parts: list[str]
) -> None:
    result = run("search", f"{nets}:{factory}", "--run-dir", tmp_path / "x", *QUICK)
    clean(result, code)
    for part in parts:
        assert part in result.stderr
    assert not (tmp_path / "x").exists()


def test_data_from_a_function_of_the_user(nets: Path, tmp_path: Path) -> None:
    result = run("search", f"{nets}:tiny", "--data", f"{nets}:no_data", "--dry-run")
    clean(result, 5)
    assert "no data today" in result.stderr


def test_code_that_a_configuration_file_names_needs_leave(nets: Path, tmp_path: Path) -> None:
    path = tmp_path / "options.toml"
    path.write_text(f'model = "{nets}:tiny"\n')
    refused = run("search", "--config", path, "--dry-run")
    clean(refused, 2)
    assert "--allow-code" in refused.stderr
    clean(run("search", "--config", path, "--dry-run", "--allow-code"), 0)


@pytest.mark.parametrize("place", ["", "iterations/001", "iterations/001/architecture.json"])
def test_code_that_a_run_names_needs_leave_to_be_sparsified(finished: tuple[Path, Result], place: str) -> None:
    sparse = ("sparsify", finished[0] / place, "--target", "50%", "--dry-run")
    refused = run(*sparse)
    clean(refused, 2)
    assert "--allow-code" in refused.stderr
    clean(run(*sparse, "--allow-code"), 0)


def test_the_command_that_comes_next_has_the_leave_that_it_needs(finished: tuple[Path, Result]) -> None:
    following = next(line for line in finished[1].stderr.splitlines() if line.startswith("next: "))
    assert following.endswith("--allow-code")


def test_retrain_and_compare(finished: tuple[Path, Result]) -> None:
    folder = finished[0]
    early = run("compare", folder)
    clean(early, 5)
    assert "morphsearch retrain" in early.stderr
    result = run("retrain", folder, "--baselines", "uniform", "--seeds", "2", "--epochs", "0.5", "--allow-code")
    clean(result, 0)
    for part in ("001 (found)", "uniform", "test accuracy", " ± ", "FLOPs", "parameters"):
        assert part in result.stdout
    table = run("compare", folder, "--no-latency")
    assert table.stdout == result.stdout
    unmeasured = run("compare", folder)
    clean(unmeasured, 0)
    assert "pass --allow-code" in " ".join(unmeasured.stdout.split())
    assert "ms" in run("compare", folder, "--allow-code").stdout.split()
    rows = json.loads(run("compare", folder, "--json").stdout)["rows"]
    assert {row["label"]: len(row["accuracies"]) for row in rows} == {"001": 2, "uniform": 2}
    assert (folder / "retrained" / "uniform-seed1" / "result.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--iteration", "7"], 2, "iteration 7"),
        (["--set", "lerning_rate=1"], 2, "lerning_rate"),
        (["--set", "distill=0.5"], 2, "--distill"),
        ([], 2, "--allow-code"),
    ],
)
def test_bad_retrainings(finished: tuple[Path, Result], arguments: list[str], code: int, part: str) -> None:
    allowed = ["--allow-code"] if arguments else []
    result = run("retrain", finished[0], "--seeds", "1", *allowed, *arguments)
    clean(result, code)
    assert part in result.stderr


def test_a_backend_where_nothing_is_measured(finished: tuple[Path, Result]) -> None:
    result = run("compare", finished[0], "--no-latency", "--backend", "eager")
    clean(result, 2)
    assert "--no-latency" in result.stderr


def test_an_input_beside_what_has_one(finished: tuple[Path, Result]) -> None:
    result = run("inspect", finished[0], "--allow-code", "--input", "1,1,16,16")
    clean(result, 2)
    assert "name the seed" in result.stderr


def test_networks_that_load_by_the_version_of_their_modules(nets: Path, tmp_path: Path) -> None:
    path, seed = tmp_path / "run", f"{nets}:versioned"
    clean(run("search", seed, "--budget", "flops=60%", "--run-dir", path, *QUICK), 0)
    clean(run("retrain", path, "--allow-code", "--distill", "--seeds", 1, "--epochs", 0.5), 0)
    for weights in ("inherited", "retrained"):
        clean(run("export", path, "--allow-code", "--weights", weights, "--output", tmp_path / "net.py"), 0)
        sparse = ("--weights", weights, "--target", "50%", "--epochs", 0.5, "--run-dir", tmp_path / weights)
        clean(run("sparsify", path, "--allow-code", *sparse), 0)
    model = build_seed(seed, allow_code=True).model
    search = ms.Search(model, torch.zeros(1, 1, 8, 8), "flops=60%", run_dir=tmp_path / "own")
    search.morph()
    again = ms.Search(model, torch.zeros(1, 1, 8, 8), "flops=60%", run_dir=tmp_path / "own", resume=True)
    torch.testing.assert_close(again.model.state_dict(), search.model.state_dict())


def test_inherited_weights_where_channels_are_taken_by_their_place(nets: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "run", tmp_path / "net.pt2"
    options = ("--strategy", "magnitude", "--budget", "flops=80%,50%", *QUICK[:2], *QUICK[4:])
    clean(run("search", f"{nets}:Shifted", "--run-dir", path, *options), 0)
    search = ms.Search(build_seed(f"{nets}:Shifted", allow_code=True).model, torch.zeros(1, 1, 8, 8), "flops=80%")
    graph = search.graph
    for name in ("001", "002"):
        found = ms.Architecture.load(path / "iterations" / name / "architecture.json")
        graph = morphing.replay(graph, found, search.budgets.rebound(graph), torch.zeros(1, 1, 8, 8)).graph
    trained = graph.model.eval()
    trained.load_state_dict(found.weights())
    result = run("export", path, "--allow-code", "--weights", "inherited", "--format", "pt2", "--output", out)
    clean(result, 0)
    assert "takes channels by their place" in result.stderr
    x = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(torch.export.load(out).module()(x), trained(x))
    sparse = ("--weights", "inherited", "--target", "50%", "--run-dir", tmp_path / "sparse")
    refused = run("sparsify", path, "--allow-code", *sparse)
    clean(refused, 5)
    assert "--weights retrained" in refused.stderr


def test_runs_lists_every_state(copy: Path) -> None:
    shutil.copytree(copy, copy.parent / "worse")
    (copy.parent / "worse" / "run.json").write_text('{"format": ')
    result = run("runs", copy.parent)
    clean(result, 0)
    assert "complete" in result.stdout
    assert "damaged" in result.stdout
    rows = json.loads(run("runs", copy.parent, "--json").stdout)
    assert sorted(row["state"] for row in rows) == ["complete", "damaged"]
    nowhere = run("runs", copy.parent / "nowhere")
    clean(nowhere, 5)
    empty = copy.parent / "empty"
    empty.mkdir()
    nothing = run("runs", empty)
    clean(nothing, 0)
    assert not nothing.stdout
    assert "morphsearch search" in nothing.stderr


@pytest.mark.parametrize("command", ["resume", "retrain", "compare"])
def test_what_is_no_run_is_named_with_its_neighbours(copy: Path, command: str) -> None:
    missing = run(command, copy.parent / "cpoy")
    clean(missing, 5)
    assert f"did you mean {copy}" in missing.stderr
    assert run(command).exit_code == 2


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "line 1"),
        ('{"format": "morphsearch-run", "schema', "line 1"),
        ("[]", "run.json"),
        ('{"format": "something else"}', "format"),
        ('{"format": "morphsearch-run", "schema_version": 99}', "99"),
    ],
)
@pytest.mark.parametrize("command", ["resume", "retrain", "compare"])
def test_a_damaged_record_is_named(copy: Path, command: str, text: str, part: str) -> None:
    (copy / "run.json").write_text(text)
    result = run(command, copy)
    clean(result, 5)
    assert part in result.stderr


def test_resuming_what_is_complete_shows_what_it_found(copy: Path) -> None:
    result = run("resume", copy, "--allow-code", "--json")
    clean(result, 0)
    assert json.loads(result.stdout)["best"] == "001"
    refused = run("resume", copy)
    clean(refused, 2)
    assert "--allow-code" in refused.stderr


def test_ctrl_c_saves_and_names_the_command_that_goes_on(nets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    search = ["search", f"{nets}:tiny", "--run-dir", str(folder), *QUICK, "--epochs", "400"]
    process = subprocess.Popen(
        [sys.executable, "-m", "morphsearch.cli", *search],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert f"resume: morphsearch resume {folder} --allow-code" in err
    assert not out
    assert json.loads(run("runs", tmp_path, "--json").stdout)[0]["state"] == "interrupted"


def test_a_disk_that_fills_up_names_the_command_that_goes_on(
    nets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = runner.save_checkpoint, []

    def full(path: Path, *state: Any) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise InputError(f"cannot write {path}: No space left on device", "the disk must have room", "free some")
        save(path, *state)

    monkeypatch.setattr(runner, "save_checkpoint", full)
    folder = tmp_path / "full"
    result = run("search", f"{nets}:tiny", "--run-dir", folder, *QUICK)
    clean(result, 5)
    assert f"go on with the run: morphsearch resume {folder} --allow-code" in result.stderr
    monkeypatch.undo()
    clean(run("resume", folder, "--allow-code"), 0)


class Broken:
    """A plugin whose strategy fails when it is made."""

    @hookimpl
    def morphsearch_strategies(self) -> list[StrategyRecord]:
        """One strategy."""

        def fail(**options: object) -> object:
            raise KeyError("weights")

        return [StrategyRecord("falls", "Raises.", fail)]


def test_a_plugin_that_fails_has_its_own_exit_code(nets: Path, tmp_path: Path) -> None:
    plugin = Broken()
    plugins.register(plugin)
    try:
        result = run("search", f"{nets}:tiny", "--strategy", "falls", "--run-dir", tmp_path / "x")
    finally:
        plugins.unregister(plugin)
    clean(result, 4)
    assert "falls" in result.stderr
    assert not (tmp_path / "x").exists()


def test_verify_proves_and_says_what_it_proved(nets: Path) -> None:
    result = run("verify", f"{nets}:tiny", "--input", "1,1,8,8", "--trials", "1")
    clean(result, 0)
    for part in ("exact", "what can be reached", "flops", "params", "it is the network's output"):
        assert part in result.stdout
    found = json.loads(run("verify", f"{nets}:tiny", "--input", "1,1,8,8", "--trials", "1", "--json").stdout)
    assert found["exact"] is True
    assert found["max_error"] <= 1e-6
    clean(run("verify", f"{nets}:raises", "--input", "1,1,8,8"), 5)


def pictures(folder: Path, classes: int, each: int, size: int = 8, broken: int = 0) -> Path:
    """A folder of classes of grey images, the first `broken` of each unreadable."""
    from PIL import Image

    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(each):
            path = folder / f"class{label}" / f"{number}.png"
            if number < broken:
                path.write_bytes(b"no image")
            else:
                Image.new("L", (size, size), 40 * label + number).save(path)
    return folder


@pytest.mark.parametrize(
    ("classes", "each", "broken", "part"),
    [(0, 0, 0, "images"), (1, 20, 0, "class"), (3, 20, 5, "0.png")],
    ids=["empty", "one class", "unreadable"],
)
def test_folders_that_are_no_data(nets: Path, tmp_path: Path, classes: int, each: int, broken: int, part: str) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    pictures(folder, classes, each, broken=broken)
    result = run("search", f"{nets}:tiny", "--data", f"imagefolder:{folder}", "--run-dir", tmp_path / "x", *QUICK)
    clean(result, 5)
    assert part in result.stderr[result.stderr.index("error:") :]
    assert not (tmp_path / "x").exists()


def test_images_smaller_than_the_network_takes(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", 2, 20, size=8)
    result = run("search", "vgg16_bn", "--data", f"imagefolder:{folder}", "--dry-run")
    clean(result, 5)
    assert "8" in result.stderr[result.stderr.index("error:") :]


@pytest.mark.parametrize(
    ("budget", "name", "reason"),
    [
        ("flops=50%", "gamma-l1", "norms scale most units"),
        ("params=50%", "trials", "shapes of that cost can be tried out"),
    ],
)
def test_the_plan_says_which_strategy_was_chosen_and_why(budget: str, name: str, reason: str) -> None:
    told = run("search", "digits_net", "--budget", budget, "--dry-run")
    clean(told, 0)
    assert f"strategy {name}" in told.stdout
    assert reason in " ".join(told.stdout.split())
    named = run("search", "digits_net", "--budget", budget, "--strategy", "taylor", "--dry-run")
    assert "was chosen" not in named.stdout
