"""Shapes of equal cost, and short trainings that choose among them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import morphsearch as ms
from morphsearch.data import load
from morphsearch.errors import StoppedError, UsageError
from morphsearch.graph import record
from morphsearch.loop import trying
from morphsearch.loop.budget import Budgets
from morphsearch.loop.trying import in_small_batches
from morphsearch.models import build_seed
from morphsearch.strategies import get
from morphsearch.strategies.shapes import Shapes
from morphsearch.strategies.valley import Valley
from morphsearch.testing.networks import NETWORKS, example_inputs
from morphsearch.training import Recipe

SEED = "mobilenet_v1?alpha=0.25"


@pytest.fixture(scope="module")
def graph():
    return record(build_seed("resnet20", num_classes=10, input_shape=(3, 32, 32)).model, torch.zeros(1, 3, 32, 32))


@settings(max_examples=15, deadline=None)
@given(point=st.tuples(*[st.floats(-2, 2)] * 4), share=st.sampled_from([0.25, 0.5, 1.0]))
def test_every_shape_costs_what_the_budget_allows(graph, point, share):
    budgets = Budgets(graph, f"flops={share:.0%}")
    widths = Shapes(graph, 4.0).widths(point, budgets.fits)
    assert graph.check_widths(widths) == widths
    assert budgets.fits(widths)
    assert all(widths[name] <= 4 * group.width for name, group in graph.groups.items())


def test_the_origin_is_uniform_scaling_and_axes_do_what_they_say(graph):
    budgets = Budgets(graph, "flops=50%")
    shapes = Shapes(graph, 4.0)
    assert shapes.axes == ("early", "middle", "depth", "streams")
    plain = shapes.widths((0, 0, 0, 0), budgets.fits)
    assert plain == get("uniform").propose(graph, budgets.fits, np.random.default_rng(0))
    early = shapes.widths((0.5, 0, 0, 0), budgets.fits)
    names = graph.free
    assert early[names[0]] > plain[names[0]]
    assert early[names[-1]] < plain[names[-1]]
    middle = shapes.widths((0, 0.5, 0, 0), budgets.fits)
    assert middle[names[len(names) // 2]] > plain[names[len(names) // 2]]
    assert middle[names[-1]] < plain[names[-1]]
    streams = shapes.widths((0, 0, 0, 0.5), budgets.fits)
    assert streams["stem.conv"] > plain["stem.conv"]
    assert streams["stages.0.0.conv1"] < plain["stages.0.0.conv1"]


@pytest.mark.parametrize("name", ["plain", "depthwise"])
def test_a_network_without_residual_streams_has_no_axis_for_them(name):
    graph = record(NETWORKS[name](), example_inputs())
    assert not {"depth", "streams"} & set(Shapes(graph, 4.0).axes)


@pytest.mark.parametrize(("depth", "blocks"), [(-1.0, 3), (0.0, 3), (0.1, 3), (0.5, 2), (1.0, 1), (3.0, 1)])
def test_depth_leaves_out_the_last_blocks_of_every_stage_and_widens_the_rest(graph, depth, blocks):
    budgets = Budgets(graph, "flops=25%")
    plain, widths = (Shapes(graph, 4.0).widths((0, 0, one, 0), budgets.fits) for one in (0, depth))
    inner = [f"stages.{stage}.{block}.conv1" for stage in range(3) for block in range(3)]
    assert [name for name in inner if not widths[name]] == [name for name in inner if int(name[9]) >= blocks]
    stay = [name for name in graph.free if widths[name]]
    assert all(widths[name] > plain[name] for name in stay) if blocks < 3 else widths == plain
    smaller = graph.resize(widths).eval()
    assert smaller(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sum(isinstance(module, torch.nn.Conv2d) for module in smaller.modules()) == 1 + 6 * blocks + 2


def test_a_shape_is_told_in_words(graph):
    shapes = Shapes(graph, 4.0)
    assert shapes.described((0, 0, 0, 0)) == "uniform scaling"
    assert shapes.described((-0.284, 0, 0.5, 0.1)) == "early -0.28, depth +0.5 (3 branches leave), streams +0.1"
    assert shapes.described((0, 0, 0.1, 0)) == "depth +0.1 (0 branches leave)"
    assert shapes.within((-0.5, 0.1, -0.2, -0.3)) == (-0.5, 0.1, 0, -0.3)


def test_candidates_stand_a_step_away_and_never_far_out(graph):
    shapes = Shapes(graph, 4.0)
    assert shapes.around((0.2, 0.0, 0.0, 0.0), 0.5) == [
        (0.7, 0.0, 0.0, 0.0),
        (-0.3, 0.0, 0.0, 0.0),
        (0.2, 0.5, 0.0, 0.0),
        (0.2, -0.5, 0.0, 0.0),
        (0.2, 0.0, 0.5, 0.0),  # no branch can be added, so there is none at -0.5
        (0.2, 0.0, 0.0, 0.5),
        (0.2, 0.0, 0.0, -0.5),
    ]
    assert (1.0, 0.0, 0.0, 0.0) in shapes.around((0.9, 0.0, 0.0, 0.0), 0.5)
    assert all(abs(one) <= 1 for point in shapes.around((1.4, -1.2, 0.9, 0.0), 0.5) for one in point)


def test_branches_of_several_layers_leave_as_a_whole():
    model = build_seed("resnet50", num_classes=10, input_shape=(3, 64, 64)).model
    graph = record(model, torch.zeros(1, 3, 64, 64))
    shapes = Shapes(graph, 4.0)
    assert shapes.axes[2] == "depth"
    budgets = Budgets(graph, "flops=50%")
    widths = shapes.widths((0, 0, 0.5, 0), budgets.fits)
    gone = sorted({name.rpartition(".")[0] for name, width in widths.items() if not width})
    # Of 3, 4, 6 and 3 blocks 2, 2, 4 and 2 stay.
    assert gone == ["stages.0.2", "stages.1.2", "stages.1.3", "stages.2.4", "stages.2.5", "stages.3.2"]
    assert graph.check_widths(widths) == widths
    assert 0.9 < budgets.load(widths) <= 1


def test_a_shape_that_was_chosen_is_kept_by_the_names_of_its_axes(graph):
    strategy = get("trials", point=[0.1, 0, 0.5])
    strategy.attach(torch.nn.Identity(), graph)
    tensors, state = strategy.state_dict()
    assert json.loads(json.dumps(state)) == {"point": {"early": 0.1, "middle": 0.0, "depth": 0.5, "streams": 0.0}}
    again = get("trials")
    again.attach(torch.nn.Identity(), graph)
    again.load_state_dict(tensors, state)
    assert again.point == (0.1, 0.0, 0.5, 0.0)
    again.load_state_dict(tensors, {"point": [0.1, 0.2, 0.3]})  # as runs had it before there was a depth
    assert again.point == (0.1, 0.2, 0.0, 0.3)


def tried(surface, axes, points):
    valley = Valley(axes)
    for point in points:
        valley.add(point, surface(point))
    return valley.floor()


def test_a_valley_is_found_from_few_points():
    def surface(point):
        return 1.5 * np.exp(0.2 * ((point[0] - 0.5) ** 2 + (point[1] + 0.3) ** 2))

    points = [(0, 0), (0.5, 0), (0.4, 0.5)]
    assert np.allclose(tried(surface, 2, points), (0.5, -0.3), atol=0.1)
    assert np.allclose(tried(lambda p: 1e-6 * surface(p), 2, points), (0.5, -0.3), atol=0.1)


def test_a_lucky_trial_moves_the_answer_by_part_of_what_it_promises():
    (little,) = tried(lambda point: 1.0 - 0.01 * point[0], 1, [(0,), (0.5,)])
    (much,) = tried(lambda point: 1.0 - 0.2 * point[0], 1, [(0,), (0.5,)])
    assert 0.2 < little < 0.3 < much < 1  # with equal losses, half way between the two


def test_axes_that_no_trial_looked_at_stay_where_they_are():
    assert Valley(2).floor() == (0.0, 0.0)
    assert tried(lambda point: 1.0, 2, [(0, 0)]) == (0.0, 0.0)
    early, middle = tried(lambda point: 1 - 0.2 * point[0], 2, [(0, 0), (0.5, 0)])
    assert early > 0.2
    assert middle == pytest.approx(0)
    assert Valley(0).floor() == ()


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_training_that_diverged_drives_the_answer_away(bad):
    (there,) = tried(lambda point: bad if point[0] else 1.0, 1, [(0,), (0.5,)])
    assert there < 0
    assert tried(lambda point: bad, 1, [(0,), (0.5,)]) == pytest.approx((0,), abs=1e-9)


def test_the_floor_lies_within_reach_of_what_was_tried():
    assert tried(lambda point: np.exp(-2 * point[0]), 1, [(0,), (0.5,)]) == (1.0,)
    assert tried(lambda point: np.exp(2 * point[0]), 1, [(0,), (0.5,)]) == (-0.5,)
    assert tried(lambda point: np.exp(-2 * point[0]), 1, [(0,), (0.5,), (1,)]) == (1.0,)


def test_what_tells_most_is_the_axis_that_nothing_is_known_of():
    valley = Valley(2)
    assert valley.gain((0.5, 0.0)) == 0
    valley.add((0.0, 0.0), 1.0)
    assert valley.gain((0.5, 0.0)) == pytest.approx(valley.gain((0.0, -0.5)))
    valley.add((0.5, 0.0), 1.1)
    assert valley.gain((0.0, 0.5)) > valley.gain((-0.5, 0.0)) > valley.gain((0.5, 0.0)) > 0
    valley.add((0.0, 0.5), 1.1)
    # Both came out badly: what lies on the other side is not known yet.
    assert valley.gain((-0.5, 0.0)) > valley.gain((0.5, 0.0))


def test_an_axis_that_is_known_to_matter_little_is_looked_along_last():
    valley = Valley(2, slopes=(0.1, 0.2))
    valley.add((0.0, 0.0), 1.0)
    assert valley.gain((0.0, 0.5)) > 2 * valley.gain((0.5, 0.0)) > 0


def test_losses_below_zero_have_a_floor_too():
    (there,) = tried(lambda point: -2 + (point[0] - 0.5) ** 2, 1, [(0,), (0.5,), (1,)])
    assert 0.3 < there < 0.7


def searched(run_dir, **options):
    return ms.search(
        build_seed(SEED, num_classes=10, input_shape=(1, 8, 8)).model,
        load("digits"),
        budget="flops=50%",
        strategy="trials",
        strategy_options={"trials": 3},
        epochs=0.6,
        run_dir=run_dir,
        recipe={"precision": "fp32", "channels_last": False, "device": "cpu"},
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


def test_trials_on_the_cpu_are_in_small_batches_with_a_lower_rate(tmp_path):
    searched(tmp_path / "run")
    assert {event["images_a_step"] for event in trials_of(tmp_path / "run")} == {32}
    plain = Recipe(lr=0.1, device="cpu")
    assert in_small_batches(plain) == plain.replace(lr=0.05, batch_size=32)
    assert in_small_batches(plain.replace(batch_size=64)).batch_size == 32
    assert in_small_batches(plain.replace(batch_size=16)) == plain.replace(batch_size=16)
    # No batch is larger than the user's own: it may be all that fits.
    own = plain.replace(batch_size=8, accumulate=32)
    assert in_small_batches(own) == own.replace(lr=0.05, accumulate=8)


def test_an_accelerator_trains_with_the_batches_of_the_recipe(monkeypatch):
    there = SimpleNamespace(device=torch.device("cuda"))  # stands in for a machine that has one
    monkeypatch.setattr(trying, "OwnAccelerator", lambda *args: there)
    assert in_small_batches(Recipe()) == Recipe()


def test_after_a_bad_candidate_the_other_side_is_tried():
    seed = build_seed(SEED, num_classes=10, input_shape=(3, 32, 32)).model
    search = ms.Search(seed, torch.zeros(1, 3, 32, 32), "flops=50%", strategy="trials")
    first, last, full = search.graph.free[0], search.graph.free[-1], search.graph.widths
    tried: list[float] = []

    def early(widths):
        """How wide the first layer is beside the last, in relation to the seed."""
        return float(np.log(widths[first] / full[first] * full[last] / widths[last]))

    def train(widths, share):
        assert share == 1 / 4  # two axes
        tried.append(early(widths))
        return float(np.exp(0.4 * tried[-1]))

    search.run_phase(lambda: 0.0, train=train)
    assert tried[1] > tried[0] + 0.5
    assert min(tried[2:]) < tried[0] - 0.5
    assert early(search.morph().widths) < tried[0] - 0.5


def test_own_loops_bring_a_training_of_their_own():
    search = ms.Search(NETWORKS["plain"](), example_inputs(), "flops=50%", strategy="trials")
    with pytest.raises(UsageError, match="train"):
        search.run_phase(lambda: 0.0)
    tried = []
    uniform = get("uniform").propose(search.graph, search.budgets.fits, np.random.default_rng(0))

    def train(widths, share):
        assert search.budgets.fits(widths)
        tried.append(widths)
        return sum(p.numel() for p in search.graph.resize(widths).parameters())

    assert search.run_phase(lambda: 0.0, train=train) == len(tried) > 2
    found = search.morph()
    # Fewer parameters, less loss: the answer has fewer than uniform scaling, which was tried first.
    assert all(width >= uniform[name] for name, width in tried[0].items())  # and what room rounding left is filled
    assert train(found.widths, 0.1) < train(tried[0], 0.1)


@pytest.mark.parametrize("options", [{"trials": 1}, {"trials": 2.5}, {"step": 0}, {"limit": 0.5}, {"step": "a"}])
def test_options_out_of_range(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        get("trials", **options)


@pytest.mark.parametrize("point", [[0.5], (0.5, 0.0), 0.5, "0.5", "[0.5, 0]"])
def test_a_shape_by_hand_is_what_comes_out(graph, point):
    budgets = Budgets(graph, "flops=50%")
    strategy = get("trials", point=point)
    strategy.attach(graph.model, graph)
    expected = Shapes(graph, 4.0).widths((0.5, 0.0, 0.0, 0.0), budgets.fits)
    assert strategy.propose(graph, budgets.fits, np.random.default_rng(0)) == expected
    assert expected != Shapes(graph, 4.0).widths((0.0, 0.0, 0.0, 0.0), budgets.fits)


@pytest.mark.parametrize("point", ["half", [True], [4.0], [0.1, "x"], float("nan"), {"early": 0.5}])
def test_a_shape_that_is_none_is_refused(point):
    with pytest.raises(UsageError, match="one an axis"):
        get("trials", point=point)


def test_a_shape_with_more_numbers_than_the_network_has_axes_is_refused(graph):
    with pytest.raises(UsageError, match="4 numbers: early, middle, depth, streams"):
        get("trials", point=[0.1] * 5).attach(graph.model, graph)
