"""Training at many widths, and narrowing by held-out loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import morphsearch as ms
from morphsearch.data import load
from morphsearch.errors import UsageError
from morphsearch.graph import record
from morphsearch.models import build_seed
from morphsearch.strategies import get
from morphsearch.strategies.base import Phase
from morphsearch.strategies.greedy import narrow
from morphsearch.testing.networks import NETWORKS, example_inputs
from morphsearch.training import HeldOut


def stepper(by: int):
    return lambda name, width: width - by if width > by else None


def test_narrowing_takes_what_costs_least_for_what_it_saves():
    """Two groups of equal price: one that nobody misses goes down to its last step before the other is touched."""
    widths, count = narrow(
        {"idle": 8, "busy": 8},
        stepper(2),
        loss=lambda w: 0.1 * (8 - w["busy"]) + 0.01 * (8 - w["idle"]),
        load=lambda w: w["idle"] + w["busy"],
        fits=lambda w: w["idle"] + w["busy"] <= 9,
    )
    assert widths == {"idle": 2, "busy": 6}
    assert count < 12


def test_narrowing_agrees_with_measuring_everything_each_time():
    """With a loss that is steeper the narrower a group is, lazy evaluation changes nothing but the number of calls."""
    rng = np.random.default_rng(0)
    names = [f"g{i}" for i in range(6)]
    slope, price = ({name: rng.uniform(1, 3) for name in names} for _ in range(2))
    loss = lambda w: sum(slope[n] / w[n] for n in names)  # noqa: E731
    load = lambda w: sum(price[n] * w[n] for n in names)  # noqa: E731
    start = dict.fromkeys(names, 12)
    limit = 0.4 * load(start)
    plain, calls = dict(start), 0
    while load(plain) > limit:
        trials = [{**plain, n: plain[n] - 1} for n in names if plain[n] > 1]
        calls += len(trials)
        plain = min(trials, key=lambda t: (loss(t) - loss(plain)) / (load(plain) - load(t)))
    lazy, count = narrow(start, stepper(1), loss, load, lambda w: load(w) <= limit)
    assert lazy == plain
    assert count < calls / 2


def attached(name: str = "residual"):
    model = NETWORKS[name]()
    graph = record(model, example_inputs())
    strategy = get("slimmable", plain=0.0)
    strategy.uniform_share = 0.5
    strategy.attach(model, graph)
    strategy.after_step(torch.ones(graph.num_units), 0.0, 0.1)
    return model, graph, strategy


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_widths_that_are_judged_compute_what_the_narrow_network_does(name):
    """Gates stand for the network that will be built: same outputs, norms of one example's statistics aside."""
    model, graph, strategy = attached(name)
    model.eval()
    seen = []

    def loss() -> float:
        seen.append((strategy._now.clone(), model(example_inputs(2)).detach()))
        return float(len(seen))

    phase = Phase(model, graph, loss, lambda w: len(seen) > 6, lambda w: float(sum(w.values())))
    strategy.run_phase(phase)
    assert phase.evaluations == len(seen) > 1
    rank = strategy._rank.numpy()
    for widths, output in seen[1:4]:
        keep = {
            name: np.sort(np.nonzero(rank[graph.units_of(name)] < widths[position].item())[0])
            for position, name in enumerate(graph.groups)
            if graph.groups[name].frozen is None
        }
        with strategy.plain():
            small = graph.shrink(keep).eval()
        torch.testing.assert_close(small(example_inputs(2)), output, rtol=1e-4, atol=1e-5)


def test_every_batch_trains_narrow_networks_and_the_loops_own_passes_are_whole():
    model, graph, strategy = attached()
    model.train()
    prices = torch.ones(graph.num_units)
    assert strategy.penalty(prices, 0.0).item() == 0  # nothing has run yet
    torch.manual_seed(0)
    x = example_inputs(8)
    whole = model(x)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    losses = [strategy.penalty(prices, 0.0).item()]
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())
    assert strategy.penalty(prices, 0.0).item() == 0  # a pass is repeated once
    for _ in range(2):
        torch.testing.assert_close(model(x), whole)
        losses.append(strategy.penalty(prices, 0.0).item())
    assert len(set(losses)) == 3
    strategy.detach()
    assert torch.equal(model(x), whole)


def test_narrow_networks_come_nearer_to_the_whole_one():
    model, graph, strategy = attached()
    model.train()
    torch.manual_seed(0)
    x = example_inputs(16)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    for _ in range(40):
        model(x)
        loss = strategy.penalty(torch.ones(graph.num_units), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])


class _Number(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 1)

    def forward(self, x):
        return {"height": self.head(self.norm(self.conv(x)).relu().mean((2, 3)))}


def test_a_network_of_numbers_needs_the_option_and_is_told_so():
    x = example_inputs(4)
    for match in ("classes", "numbers"):
        model = _Number()
        graph = record(model, x)
        strategy = get("slimmable", plain=0.0, match=match)
        strategy.attach(model, graph)
        strategy.after_step(torch.ones(graph.num_units), 0.0, 0.1)
        model.train()(x)
        if match == "numbers":
            assert strategy.penalty(torch.ones(graph.num_units), 0.0).item() > 0
        else:
            with pytest.raises(UsageError, match="match='numbers'"):
                strategy.penalty(torch.ones(graph.num_units), 0.0)


@pytest.mark.parametrize(("share", "seen"), [(0.25, 4), (1.0, 16), (0.01, 2)])
def test_narrow_networks_see_a_share_of_the_batch(share, seen):
    model, x = _Number(), example_inputs(16)
    graph = record(model, x)
    strategy = get("slimmable", plain=0.0, match="numbers", examples=share)
    strategy.attach(model, graph)
    strategy.after_step(torch.ones(graph.num_units), 0.0, 0.1)
    sizes = []
    model.conv.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    model.train()(x)
    strategy.penalty(torch.ones(graph.num_units), 0.0).backward()
    assert sizes == [16, seen, seen]


def test_a_search_meets_its_budget_and_says_what_it_evaluated(tmp_path):
    result = ms.search(
        build_seed("mobilenet_v1?alpha=0.25", num_classes=10, input_shape=(1, 8, 8)).model,
        load("digits"),
        budget="flops=50%",
        strategy="slimmable",
        iterations=1,
        epochs=2,
        run_dir=tmp_path / "run",
    )
    (found,) = result.architectures
    limit = found.budgets[0]["limit"]
    assert 0.95 * limit < found.totals["flops"] <= limit
    assert '"judged"' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_own_loops_judge_with_a_loss_of_their_own():
    torch.manual_seed(0)
    model = NETWORKS["plain"]()
    search = ms.Search(model, example_inputs(), "flops=50%", strategy="slimmable", strategy_options={"plain": 0.0})
    x = example_inputs(16)
    calls = []

    def loss() -> float:
        with torch.no_grad():
            calls.append(float(search.model(x).square().mean()))
        return calls[-1]

    assert search.judges
    assert search.run_phase(loss) == len(calls) > 0
    assert search.morph().totals["flops"] <= search.budgets.limits[0]


def test_a_search_without_the_phase_still_meets_its_budget():
    search = ms.Search(NETWORKS["plain"](), example_inputs(), "flops=50%", strategy="slimmable")
    assert search.morph().totals["flops"] <= search.budgets.limits[0]


def test_held_out_loss_is_repeatable_and_leaves_statistics_alone():
    data = load("digits")
    model = build_seed("resnet20", num_classes=10, input_shape=(1, 8, 8)).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    judge = HeldOut(model, data.val)
    assert judge() == judge() > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).running_mean.fill_(100.0)
    assert judge() == HeldOut(model, data.val)()


@pytest.mark.parametrize(
    "options",
    [
        {"least": 0},
        {"least": 2},
        {"plain": -1},
        {"parts": 1},
        {"seed": -1},
        {"parts": 2.5},
        {"widths": 0},
        {"match": "klasses"},
        {"examples": 0},
        {"examples": 1.5},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        get("slimmable", **options)
