"""Shapes of equal cost, and short trainings that choose among them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import morphsearch as ms
from morphsearch.data import load
from morphsearch.errors import StoppedError, UsageError
from morphsearch.graph import record
from morphsearch.loop.budget import Budgets
from morphsearch.models import build_seed
from morphsearch.strategies import get
from morphsearch.strategies.shapes import Shapes, climb
from morphsearch.testing.networks import NETWORKS, example_inputs

SEED = "mobilenet_v1?alpha=0.25"


@pytest.fixture(scope="module")
def graph():
    return record(build_seed("resnet20", num_classes=10, input_shape=(3, 32, 32)).model, torch.zeros(1, 3, 32, 32))


@settings(max_examples=15, deadline=None)
@given(point=st.tuples(*[st.floats(-2, 2)] * 3), share=st.sampled_from([0.25, 0.5, 1.0]))
def test_every_shape_costs_what_the_budget_allows(graph, point, share):
    budgets = Budgets(graph, f"flops={share:.0%}")
    widths = Shapes(graph, 4.0).widths(point, budgets.fits)
    assert graph.check_widths(widths) == widths
    assert budgets.fits(widths)
    assert all(widths[name] <= 4 * group.width for name, group in graph.groups.items())


def test_the_origin_is_uniform_scaling_and_axes_do_what_they_say(graph):
    budgets = Budgets(graph, "flops=50%")
    shapes = Shapes(graph, 4.0)
    assert shapes.axes == ("early", "middle", "streams")
    plain = shapes.widths((0, 0, 0), budgets.fits)
    assert plain == get("uniform").propose(graph, budgets.fits, np.random.default_rng(0))
    early = shapes.widths((0.5, 0, 0), budgets.fits)
    names = graph.free
    assert early[names[0]] > plain[names[0]]
    assert early[names[-1]] < plain[names[-1]]
    middle = shapes.widths((0, 0.5, 0), budgets.fits)
    assert middle[names[len(names) // 2]] > plain[names[len(names) // 2]]
    assert middle[names[-1]] < plain[names[-1]]
    streams = shapes.widths((0, 0, 0.5), budgets.fits)
    assert streams["stem.conv"] > plain["stem.conv"]
    assert streams["stages.0.0.conv1"] < plain["stages.0.0.conv1"]


def test_a_network_without_residual_streams_has_no_axis_for_them():
    graph = record(NETWORKS["plain"](), example_inputs())
    assert "streams" not in Shapes(graph, 4.0).axes


def test_climbing_finds_the_valley_and_asks_for_no_point_twice():
    asked = []

    def loss(point):
        asked.append(point)
        return (point[0] - 0.8) ** 2 + (point[1] + 0.3) ** 2

    best, found = climb(loss, 2, 30)
    assert np.hypot(best[0] - 0.8, best[1] + 0.3) < 0.15
    assert found == min(map(loss, set(asked)))
    asked.clear()
    climb(loss, 2, 7)
    assert len(asked) == len(set(asked)) == 7
    assert asked[0] == (0.0, 0.0)


def test_climbing_stays_at_the_origin_where_nothing_is_better():
    assert climb(lambda point: float(any(point)), 3, 10) == ((0.0, 0.0, 0.0), 0.0)
    assert climb(lambda point: float("inf"), 1, 5)[0] == (0.0,)


def searched(run_dir, **options):
    return ms.search(
        build_seed(SEED, num_classes=10, input_shape=(1, 8, 8)).model,
        load("digits"),
        budget="flops=50%",
        strategy="trials",
        strategy_options={"trials": 3},
        epochs=0.6,
        run_dir=run_dir,
        recipe={"precision": "fp32", "channels_last": False},
        **options,
    )


def trials_of(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "trial"]


def test_a_search_trains_candidates_and_a_killed_one_repeats_none(tmp_path):
    (found,) = searched(tmp_path / "whole").architectures
    limit = found.budgets[0]["limit"]
    assert 0.98 * limit < found.totals["flops"] <= limit
    whole = trials_of(tmp_path / "whole")
    assert len(whole) == 3
    best = min(whole, key=lambda event: event["loss"])
    assert found.widths == best["widths"]
    assert found.metrics["val_accuracy"] == best["accuracy"]

    def stop(kind, payload):
        if kind == "trial" and payload["phase"] == "trial 2":
            raise KeyboardInterrupt

    with pytest.raises(StoppedError):
        searched(tmp_path / "killed", listener=stop)
    before = trials_of(tmp_path / "killed")
    assert len(before) == 2
    (again,) = searched(tmp_path / "killed", resume=True).architectures
    after = trials_of(tmp_path / "killed")
    assert after[:2] == before
    assert len(after) == 3
    assert again.widths == found.widths


def test_own_loops_bring_a_training_of_their_own():
    search = ms.Search(NETWORKS["plain"](), example_inputs(), "flops=50%", strategy="trials")
    with pytest.raises(UsageError, match="train"):
        search.run_phase(lambda: 0.0)
    tried = []

    def train(widths, share):
        assert search.budgets.fits(widths)
        tried.append(widths)
        return sum(p.numel() for p in search.graph.resize(widths).parameters())

    assert search.run_phase(lambda: 0.0, train=train) == len(tried) > 2
    found = search.morph()
    fewest = min(list(tried), key=lambda widths: train(widths, 0.1))
    assert found.widths == fewest


@pytest.mark.parametrize("options", [{"trials": 1}, {"trials": 2.5}, {"step": 0}, {"limit": 0.5}, {"step": "a"}])
def test_options_out_of_range(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        get("trials", **options)
