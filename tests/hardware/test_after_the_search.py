"""Widths go to where the hardware is fast; and what was found is measured."""

from __future__ import annotations

import json
from pathlib import Path

import hardware_fakes as fakes
import pytest
from click.testing import CliRunner

from morphsearch import plugins
from morphsearch.cli import main
from morphsearch.loop import run
from morphsearch.loop.budget import Budgets
from morphsearch.loop.config import SearchConfig
from morphsearch.loop.retraining import retrain_run
from morphsearch.loop.settling import settle


@pytest.mark.parametrize("start", [33, 47, 50, 63])
def test_widths_settle_at_the_edge_of_steps_within_the_budget(start: int) -> None:
    """The device pads to 16: what ends just over an edge is not worth it, what ends just under it is free."""
    target = fakes.target()
    graph = target.graph
    widths = {**graph.widths, **dict.fromkeys(graph.free, start)}
    budgets = Budgets(graph, "latency=200%", hardware=fakes.profile(target))
    settled = settle(graph, widths, budgets)
    assert budgets.fits(settled)
    assert settled != widths
    before, after = (fakes.sample(target, found).ms / sum(found.values()) for found in (widths, settled))
    assert after < before, "more units for each millisecond of the true device"


def test_costs_without_steps_leave_widths_alone() -> None:
    graph = fakes.target().graph
    widths = {**graph.widths, **dict.fromkeys(graph.free, 33)}
    assert settle(graph, widths, Budgets(graph, "flops=100%")) == widths


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its architecture and the seed retrained, for a moment."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run.start(SearchConfig(model="digits_net", epochs=1, iterations=1, strategy="uniform"), folder)
    retrain_run(folder, baselines=["seed"], seeds=[0], epochs=0.2)
    return folder


def test_compare_measures_every_architecture_here(retrained: Path) -> None:
    done = CliRunner().invoke(main, ["compare", str(retrained), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["latency_of"].startswith("eager on cpu")
    assert len(told["rows"]) == 2
    for row in told["rows"]:
        assert 0 < row["latency"]["low"] <= row["latency"]["measured"] <= row["latency"]["high"]
        assert "predicted" not in row["latency"]
    table = CliRunner().invoke(main, ["compare", str(retrained)]).stdout
    assert "ms measured" in table


@pytest.mark.filterwarnings("ignore::morphsearch.hardware.HardwareWarning")
def test_compare_puts_the_prediction_beside_it(retrained: Path) -> None:
    fakes.profile().save()
    told = json.loads(CliRunner().invoke(main, ["compare", str(retrained), "--json"]).stdout)
    assert all(row["latency"]["predicted"] > 0 for row in told["rows"])


def test_compare_without_measuring(retrained: Path) -> None:
    told = json.loads(CliRunner().invoke(main, ["compare", str(retrained), "--no-latency", "--json"]).stdout)
    assert all(row["latency"] is None for row in told["rows"])
    assert told["latency_of"] is None


@pytest.mark.skipif("onnxruntime" in plugins.registry("latency_backends"), reason="it is there")
def test_a_backend_that_is_not_there_costs_a_warning_not_the_table(retrained: Path) -> None:
    done = CliRunner().invoke(main, ["compare", str(retrained), "--backend", "onnxruntime", "--json"])
    assert done.exit_code == 0
    assert "morphsearch-onnxruntime" in " ".join(json.loads(done.stdout)["warnings"])
    misspelt = CliRunner().invoke(main, ["compare", str(retrained), "--backend", "eagr"])
    assert misspelt.exit_code == 2
    assert "eager" in misspelt.stderr
