"""``morphsearch sparsify`` as a user meets it: what it prints, what it saves, and every way to get it wrong."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from morphsearch import plugins
from morphsearch.cli import main
from morphsearch.files import read_tensors

QUICK = ("--epochs", "0.5", "--set", "precision=fp32", "--set", "channels_last=false")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def clean(result: Result, code: int) -> None:
    """The exit code, and never a traceback or a defect."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    assert "defect" not in result.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("runs") / "s"
    return folder, run("sparsify", "digits_net", "--target", "70%", "--exclude", "stem", "--run-dir", folder, *QUICK)


def test_it_prints_asked_beside_reached_and_sizes(finished: tuple[Path, Result]) -> None:
    folder, result = finished
    clean(result, 0)
    for part in ("asked", "reached", "70.00%", "classifier.weight", "excluded", "depthwise", "gzip", "zip", "accuracy"):
        assert part in result.stdout
    assert 'target = "70%"' in result.stderr
    assert (read_tensors(folder / "weights.safetensors")["classifier.weight"] == 0).float().mean() == pytest.approx(0.7)


def test_it_prints_json_and_the_printed_configuration_repeats_it(finished: tuple[Path, Result], tmp_path: Path) -> None:
    path = tmp_path / "again.toml"
    path.write_text(finished[1].stderr[: finished[1].stderr.index("\n[0:")])
    result = run("sparsify", "--config", path, "--run-dir", tmp_path / "b", "--json", "--quiet")
    clean(result, 0)
    found = json.loads(result.stdout)
    rows = {row["name"]: row for row in found["sparsity"]["rows"]}
    assert rows["stem.conv.weight"]["kept"] == "excluded"
    assert rows["classifier.weight"]["asked"] == 0.7
    assert set(found["sparsity"]["after"]) == {"parameters", "nonzeros", "file", "gzip", "zip"}
    assert found["sparsity"] == json.loads((finished[0] / "result.json").read_text())["sparsity"]


def test_resume_and_runs_know_it(finished: tuple[Path, Result]) -> None:
    result = run("resume", finished[0], "--json", "--quiet")
    clean(result, 0)
    assert json.loads(result.stdout)["best"] == "sparsified"
    listed = run("runs", finished[0].parent)
    clean(listed, 0)
    assert "sparsity=70%" in listed.stdout
    assert "complete" in listed.stdout


@pytest.mark.parametrize("command", ["retrain", "compare"])
def test_commands_of_searches_say_what_it_is(command: str, finished: tuple[Path, Result]) -> None:
    result = run(command, finished[0])
    clean(result, 2)
    assert "is a sparsification" in result.stderr


def test_dry_run_shows_what_and_when_and_writes_nothing(tmp_path: Path) -> None:
    result = run("sparsify", "digits_net", "--target", "0.5", "--dry-run", "--run-dir", tmp_path / "a", *QUICK)
    clean(result, 0)
    assert "updates from step" in result.stdout
    assert not (tmp_path / "a").exists()
    once = run("sparsify", "digits_net", "--target", "0.5", "--schedule", "constant", "--dry-run", *QUICK)
    assert "one update, at step 0, of" in once.stdout
    found = json.loads(run("sparsify", "digits_net", "--nm", "2:4", "--exclude", "stem", "--dry-run", "--json").stdout)
    assert {row["asked"] for row in found["rows"] if row["kept"] is None} == {0.5}


def test_a_found_network_takes_the_data_of_its_search(tmp_path: Path) -> None:
    first = ("--strategy", "uniform", "--iterations", 1, "--val-fraction", 0.3, "--seed", 3, "--quiet")
    clean(run("search", "digits_net", "--run-dir", tmp_path / "a", *first, *QUICK), 0)
    result = run("sparsify", tmp_path / "a", "--target", "60%", "--weights", "inherited", "--dry-run", *QUICK)
    clean(result, 0)
    assert "data_seed = 3" in result.stderr
    assert "val_fraction = 0.3" in result.stderr
    assert (
        "val_fraction = 0.2"
        in run("sparsify", tmp_path / "a", "--target", "60%", "--val-fraction", 0.2, "--dry-run", *QUICK).stderr
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--target 70%"),
        (("--target", "70"), "did you mean 70%?"),
        (("--target", "100%"), "[0, 1)"),
        (("--target", "most"), "'most'"),
        (("--targte", "70%"), "did you mean --target"),
        (("--target", "70%", "--schedule", "linear"), "known: polynomial, constant"),
        (("--target", "70%", "--schedule", "polynomal"), "did you mean polynomial"),
        (("--target", "70%", "--scope", "golbal"), "did you mean global"),
        (("--target", "70%", "--of", "netwrok"), "did you mean network"),
        (("--target", "70%", "--begin", "late"), "begin='late'"),
        (("--target", "70%", "--begin", "60%", "--end", "20%"), "ends after it begins"),
        (("--target", "70%", "--begin", "100000"), "never fires"),
        (("--target", "70%", "--end", "100000"), "within the training"),
        (("--target", "70%", "--schedule", "constant", "--power", "2"), "leave out power"),
        (("--target", "50%", "--initial", "60%"), "sparsity grows"),
        (("--target", "70%", "--frequency", "0"), "--frequency"),
        (("--target", "70%", "--block", "2"), "4,1"),
        (("--target", "70%", "--block", "2,2", "--pool", "men"), "did you mean mean"),
        (("--nm", "2:4"), "--exclude stem.conv"),
        (("--nm", "4:4"), "0 < N < M"),
        (("--nm", "2:4", "--target", "70%"), "makes 50%"),
        (("--target", "70%", "--include", "residual3*"), "matches no layer"),
        (("--target", "70%", "--include", "clasifier"), "did you mean classifier"),
        (("--target", "70%", "--exclude", "*"), "no prunable layer"),
        (("--target", "70%", "--strategy", "gamma-l1"), "magnitude-sparsity"),
        (("--target", "70%", "--strategy", "magnitude-sparsty"), "did you mean magnitude-sparsity"),
        (("--target", "70%", "--weights", "inherited"), "belong to an architecture"),
        (("--target", "70%", "--set", "lrr=1"), "did you mean lr"),
        (("--target", "70%", "--epochs", "-1"), "--epochs"),
    ],
)
def test_whatever_is_wrong_is_named_with_its_repair(
    arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("sparsify", "digits_net", *arguments)
    clean(result, 2)
    assert words in result.stderr
    assert "try:" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_the_search_sends_single_weights_to_sparsify() -> None:
    result = run("search", "digits_net", "--strategy", "magnitude-sparsity", "--dry-run")
    clean(result, 2)
    assert "morphsearch sparsify SEED --target 70%" in result.stderr
    assert "magnitude-sparsity" in run("plugins", "strategies").stdout


def test_the_criterion_of_the_how_to_is_taken(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/how-to/sparsify.md").read_text(encoding="utf-8")
    block = next(part for part in text.split("```python\n")[1:] if "MaskStrategy" in part).partition("```")[0]
    plugin = types.ModuleType("centred_plugin")
    exec(block, plugin.__dict__)
    plugins.register(plugin)
    try:
        arguments = ("--target", "50%", "--strategy", "centred", "--run-dir", tmp_path / "a", "--quiet", *QUICK)
        clean(run("sparsify", "digits_net", *arguments), 0)
        assert "known" not in run("sparsify", "digits_net", *arguments, "--dry-run").stderr
        refused = run("sparsify", "digits_net", "--target", "50%", "--strategy", "uniform")
        assert "centred" in refused.stderr
    finally:
        plugins.unregister(plugin)
