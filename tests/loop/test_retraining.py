"""Retraining beside the baselines, and what the table says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_fakes import EXACT, counted, data, network

import morphsearch as ms
from morphsearch.errors import InputError, StoppedError, UnknownName, UsageError
from morphsearch.loop.baselines import baseline, same_cost
from morphsearch.loop.budget import Budgets
from morphsearch.loop.comparison import Row, verdict
from morphsearch.loop.retraining import compare, retrain_run, retraining_recipe
from morphsearch.loop.run import start
from morphsearch.models import build_seed
from morphsearch.training import Recipe

RECIPE = {**EXACT, "batch_size": 256}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two architectures that needed no training."""
    path = tmp_path_factory.mktemp("retrain") / "run"
    start(ms.SearchConfig("digits_net", strategy="random", iterations=2, recipe=RECIPE), path)
    return path


@pytest.fixture
def run(found: Path, tmp_path: Path) -> Path:
    shutil.copytree(found, tmp_path / "run")
    return tmp_path / "run"


class Heard:
    """A listener that remembers."""

    def __init__(self, stop_at: int = 0) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.stop_at = stop_at

    def __call__(self, kind: str, payload: dict[str, Any]) -> None:
        self.events.append((kind, payload))
        if len(self.events) == self.stop_at:
            raise KeyboardInterrupt

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [payload for name, payload in self.events if name == kind]


def test_all_baselines_by_one_recipe(run: Path) -> None:
    heard = Heard()
    table = retrain_run(
        run, iterations="all", baselines=["uniform", "random", "seed"], seeds=2, epochs=0.4, listener=heard
    )
    assert [(row.label, row.kind) for row in table.rows] == [
        ("001", "found"),
        ("002", "found"),
        ("random", "baseline"),
        ("uniform", "baseline"),
        ("seed", "seed"),
    ]
    for row in table.rows:
        assert len(row.accuracies) == len(row.val_accuracies) == 2
        assert row.seeds == [0, 1]
        assert row.evaluated_on == "test"
        assert row.spread is not None
        assert row.mean == pytest.approx(sum(row.accuracies) / 2)
    limit = ms.Architecture.load(run / "iterations/002").costs["flops"]["total"]
    by_label = {row.label: row for row in table.rows}
    for label in ("uniform", "random"):
        assert 0.97 * limit < by_label[label].costs["flops"] <= limit
        assert by_label[label].baseline_of == "002"
    assert not table.warnings
    assert "uniform scaling" in table.verdict
    assert "random widths" in table.verdict
    assert table.metrics_units["flops"] == "FLOPs"
    assert json.loads(json.dumps(table.to_dict())) == compare(run).to_dict()
    assert len(heard.of("retrain")) == 10
    assert all({"phase", "done", "total", "unit"} <= payload.keys() for payload in heard.of("progress"))
    draws = [json.loads((run / f"baselines/random-{n}/architecture.json").read_text())["widths"] for n in (0, 1)]
    assert draws[0] != draws[1]


def test_finished_retrainings_are_not_repeated(run: Path) -> None:
    first = retrain_run(run, seeds=1, epochs=0.4)
    heard = Heard()
    second = retrain_run(run, seeds=2, epochs=0.4, listener=heard)
    assert {payload["phase"] for payload in heard.of("progress")} == {"2/2 002 seed 1"}
    assert second.rows[0].accuracies[0] == first.rows[0].accuracies[0]
    with pytest.raises(UsageError, match="epochs"):
        retrain_run(run, seeds=1, epochs=0.6)


def test_an_interrupted_retraining_goes_on_and_ends_the_same(run: Path, found: Path, tmp_path: Path) -> None:
    shutil.copytree(found, tmp_path / "whole")
    whole = retrain_run(tmp_path / "whole", baselines=["uniform"], seeds=1, epochs=2)
    with pytest.raises(StoppedError) as stopped:
        retrain_run(run, baselines=["uniform"], seeds=1, epochs=2, listener=Heard(stop_at=2))
    assert f"morphsearch retrain {run}" in stopped.value.repair
    again = retrain_run(run, baselines=["uniform"], seeds=1, epochs=2)
    assert [row.accuracies for row in again.rows] == [row.accuracies for row in whole.rows]


def test_baselines_of_an_earlier_architecture_do_not_mix_with_those_of_the_last(run: Path) -> None:
    retrain_run(run, iterations=[1], baselines=["uniform"], seeds=1, epochs=0.2)
    table = retrain_run(run, baselines=["uniform"], seeds=1, epochs=0.2)
    assert [row.label for row in table.rows] == ["001", "002", "uniform", "uniform-001"]
    assert {row.label: row.baseline_of for row in table.rows if row.kind == "baseline"} == {
        "uniform": "002",
        "uniform-001": "001",
    }


@pytest.mark.parametrize("iterations", [[3], [0], [1, 7]])
def test_an_iteration_that_is_not_there(run: Path, iterations: list[int]) -> None:
    with pytest.raises(UsageError, match="does not exist") as caught:
        retrain_run(run, iterations=iterations)
    assert "1, 2" in caught.value.rule


def test_what_cannot_be_retrained(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="uniform"):
        retrain_run(run, baselines=["unifrom"])
    with pytest.raises(UnknownName, match="local"):
        retrain_run(run, executor="locl", epochs=0.2)
    for seeds in (0, [], [1, 1], [-1], [0.5], [2**32], "12", True, 10**9):
        with pytest.raises(UsageError, match="seeds"):
            retrain_run(run, seeds=seeds)
    with pytest.raises(UsageError, match="all"):
        retrain_run(run, iterations="last")
    with pytest.raises(InputError, match="nothing in"):
        compare(run)
    with pytest.raises(InputError, match="does not exist"):
        retrain_run(tmp_path / "nowhere")
    shutil.rmtree(run / "iterations")
    with pytest.raises(InputError, match="no architecture yet") as caught:
        retrain_run(run)
    assert "resume" in caught.value.repair


def test_a_run_started_from_python_is_retrained_there(tmp_path: Path) -> None:
    ms.search(network(), data(), budget="flops=50%", strategy="uniform", run_dir=tmp_path / "run", recipe=EXACT)
    with pytest.raises(UsageError, match="started from Python") as caught:
        retrain_run(tmp_path / "run")
    assert "apply(network)" in caught.value.repair


def test_rows_of_different_recipes_carry_a_warning(run: Path) -> None:
    retrain_run(run, iterations=[1], seeds=1, epochs=0.2)
    table = retrain_run(run, iterations=[2], seeds=1, epochs=0.4)
    assert "recipe" in table.warnings[0]


def test_a_result_of_another_run_carries_a_warning(run: Path) -> None:
    assert not retrain_run(run, iterations=[2], baselines=["random"], seeds=2, epochs=0.2).warnings
    path = run / "retrained/002-seed1/result.json"
    result = json.loads(path.read_text())
    name = next(iter(result["extra"]["widths"]))
    result["extra"]["widths"][name] += 1
    path.write_text(json.dumps(result))
    (warning,) = compare(run).warnings
    assert warning.startswith("retrained/002-seed1: not of the widths of 002")


# -- equal cost


@pytest.fixture(scope="module")
def mobilenet() -> tuple[Any, ms.ConvGraph]:
    seed = build_seed("mobilenet_v1?alpha=0.25", num_classes=10, input_shape=(3, 32, 32))
    return seed, ms.record(seed.model, torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("budget", ["flops=50%", "params=50%", "flops=20%"])
def test_baselines_cost_what_was_found_within_a_per_cent(mobilenet: tuple[Any, ms.ConvGraph], budget: str) -> None:
    seed, graph = mobilenet
    search = ms.Search(seed.model, torch.zeros(1, 3, 32, 32), budget)
    with torch.no_grad():
        for module in search.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(generator=torch.Generator().manual_seed(module.num_features))
    architecture = search.morph()
    budgets = Budgets(graph, budget)
    metric = budgets.metrics[0]
    limit = architecture.costs[metric]["total"]
    for kind, draws in (("uniform", 1), ("random", 3)):
        for draw in range(draws):
            one = baseline(kind, architecture, graph, budgets, draw)
            assert same_cost(architecture, budgets)(one.widths)
            assert 0.99 * limit <= one.costs[metric]["total"] <= limit
    uniform = baseline("uniform", architecture, graph, budgets, 0)
    net = graph.resize(uniform.widths)
    assert counted(net, torch.zeros(1, 3, 32, 32)) == uniform.totals


@pytest.mark.parametrize("kind", ["uniform", "random"])
def test_baselines_are_rounded_as_what_was_found(mobilenet: tuple[Any, ms.ConvGraph], kind: str) -> None:
    seed, graph = mobilenet
    search = ms.Search(seed.model, torch.zeros(1, 3, 32, 32), "flops=50%", strategy="uniform", round_to=8)
    architecture = search.morph()
    limit = architecture.costs["flops"]["total"]
    one = baseline(kind, architecture, graph, Budgets(graph, "flops=50%"), 0)
    assert all(width % 8 == 0 for name, width in one.widths.items() if graph.groups[name].frozen is None)
    assert one.costs["flops"]["total"] <= limit
    assert one.record["round_to"] == 8


def test_baselines_that_cannot_be_rounded_and_as_cheap_stay_within_the_cost(
    mobilenet: tuple[Any, ms.ConvGraph],
) -> None:
    seed, graph = mobilenet
    architecture = ms.Search(seed.model, torch.zeros(1, 3, 32, 32), "flops=5%", strategy="uniform").morph()
    architecture.record["round_to"] = 64
    one = baseline("uniform", architecture, graph, Budgets(graph, "flops=5%"), 0)
    assert one.costs["flops"]["total"] <= architecture.costs["flops"]["total"]
    architecture.record["round_to"] = "eight"
    with pytest.raises(InputError, match="round_to"):
        baseline("uniform", architecture, graph, Budgets(graph, "flops=5%"), 0)


def test_a_finished_retraining_of_other_widths_is_not_taken_for_this_one(run: Path) -> None:
    retrain_run(run, baselines=["uniform"], seeds=1, epochs=0.2)
    path = run / "retrained/uniform-seed0/result.json"
    result = json.loads(path.read_text())
    name = next(iter(result["extra"]["widths"]))
    result["extra"]["widths"][name] += 1
    path.write_text(json.dumps(result))
    with pytest.raises(UsageError, match="other widths") as caught:
        retrain_run(run, baselines=["uniform"], seeds=1, epochs=0.2)
    assert "uniform-seed0" in caught.value.repair


# -- the verdict


def row(label: str, kind: str, accuracies: list[float], flops: float = 100.0, **more: Any) -> Row:
    mean = sum(accuracies) / len(accuracies)
    spread = None if len(accuracies) < 2 else (sum((a - mean) ** 2 for a in accuracies) / (len(accuracies) - 1)) ** 0.5
    return Row(label, kind, {"flops": flops}, accuracies, mean, spread, val_accuracies=accuracies, **more)


@pytest.mark.parametrize(
    ("ours", "theirs", "flops", "text"),
    [
        (
            [0.90, 0.91, 0.92],
            [0.85, 0.86, 0.87],
            100,
            "beats uniform scaling by 5.00 points, more than the spread of 1.41",
        ),
        ([0.85, 0.86, 0.87], [0.90, 0.91, 0.92], 100, "loses to uniform scaling by 5.00 points"),
        ([0.90, 0.91, 0.92], [0.905, 0.915, 0.925], 100, "no difference is shown"),
        ([0.90], [0.85], 100, "5.00 points above uniform scaling, on one training seed: that is no evidence"),
        ([0.85], [0.90], 100, "5.00 points below"),
        ([0.90, 0.91, 0.92], [0.85, 0.86, 0.87], 99.5, "beats uniform scaling by"),
        ([0.90, 0.91, 0.92], [0.85, 0.86, 0.87], 95, "(at a cost that differs by 5.0%)"),
    ],
)
def test_verdicts(ours: list[float], theirs: list[float], flops: float, text: str) -> None:
    said = verdict([row("002", "found", ours), row("uniform", "baseline", theirs, flops)], ["flops"])
    assert text in said


def test_verdicts_without_something_to_compare() -> None:
    assert "Retrain baselines" in verdict([row("002", "found", [0.9])], ["flops"])
    assert "No found architecture" in verdict([row("uniform", "baseline", [0.9])], ["flops"])


def test_the_best_on_validation_speaks_and_is_held_against_its_own_baselines() -> None:
    first, second = row("001", "found", [0.90, 0.91]), row("002", "found", [0.95, 0.96])
    first.val_accuracies = [0.99, 0.99]  # the test part, where 002 is better, chooses nothing
    rows = [
        first,
        second,
        row("uniform", "baseline", [0.5, 0.51], baseline_of="002"),
        row("uniform-001", "baseline", [0.8, 0.81], baseline_of="001"),
    ]
    said = verdict(rows, ["flops"])
    assert said.startswith("001 beats uniform scaling by 10.00 points")
    assert "002" not in said


def test_what_a_search_has_no_use_for_itself_is_kept_for_retraining() -> None:
    asked = {"ema": 0.99, "label_smoothing": 0.1, "lr": 0.3}
    kept = retraining_recipe(ms.SearchConfig("digits_net", recipe=asked), 2, {"temperature": 2.0})
    assert (kept.ema, kept.label_smoothing, kept.temperature, kept.epochs) == (0.99, 0.1, 2.0, 2)
    assert kept.lr == Recipe().lr  # that of a search is its own


def test_distilled_rows_stand_apart(run: Path) -> None:
    table = retrain_run(run, baselines=["uniform"], seeds=2, epochs=0.4, distill=True)
    assert [(row.label, row.kind) for row in table.rows] == [
        ("002", "found"),
        ("uniform", "baseline"),
        ("seed", "seed"),
        ("002-distilled", "distilled"),
        ("uniform-distilled", "distilled"),
    ]
    assert all(row.seeds == [0, 1] for row in table.rows)
    by_label = {row.label: row for row in table.rows}
    assert by_label["002-distilled"].costs == by_label["002"].costs
    assert by_label["002-distilled"].accuracies != by_label["002"].accuracies
    assert "distilled" not in table.verdict
    assert not table.warnings
    again = retrain_run(run, baselines=["uniform"], seeds=2, epochs=0.4, distill=True)
    assert again.to_dict() == table.to_dict()
