"""Every strategy in a search: it reaches the budget, keeps the accuracy, and says what is true."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import morphsearch as ms
from morphsearch.costs import vector
from morphsearch.errors import DivergedError, UsageError
from morphsearch.graph import record
from morphsearch.loop.budget import Budgets
from morphsearch.strategies import get
from morphsearch.testing.networks import NETWORKS, example_inputs
from morphsearch.testing.strategies import hooks_of
from tests.loop.loop_fakes import counted, images

PRESSING = ["gamma-l1", "group-lasso", "logistic-sigmoid"]
RANKING = ["magnitude", "taylor"]


def wide(norms: bool) -> nn.Module:
    """Enough units for a search to have a choice; with norms, or without."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for size, wider in ((3, 16), (16, 24), (24, 24)):
        layers += [nn.Conv2d(size, wider, 3, padding=1, bias=not norms)]
        nn.init.kaiming_normal_(layers[-1].weight)  # type: ignore[arg-type]
        layers += [nn.BatchNorm2d(wider)] if norms else []
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)).train()


def accuracy(model: nn.Module) -> float:
    x, y = images(200, 5)
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == y).float().mean())


def trained(
    strategy: str,
    budget: Any = "flops=50%",
    *,
    norms: bool = True,
    steps: int = 120,
    follow: bool = True,
    every: int = 20,
    **options: Any,
) -> tuple[ms.Search, list[tuple[float, float]]]:
    """A search after training, not yet morphed; fullness of the budget and accuracy along the way."""
    search = ms.Search(wide(norms), torch.zeros(1, 3, 8, 8), budget, strategy=strategy, steps=steps, **options)
    optimizer = torch.optim.SGD(search.model.parameters(), lr=0.05, momentum=0.9)
    if follow:
        search.follow(optimizer)
    x, y = images(256, 0)
    generator = torch.Generator().manual_seed(0)
    course = []
    for step in range(steps):
        search.model.train()
        chosen = torch.randint(len(x), (32,), generator=generator)
        loss = nn.functional.cross_entropy(search.model(x[chosen]), y[chosen]) + search.penalty()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()
        if (step + 1) % every == 0:
            course.append((search.status()["load"], accuracy(search.model)))
    return search, course


@pytest.mark.parametrize(
    ("strategy", "norms"),
    [("gamma-l1", True)] + [(name, norms) for name in [*PRESSING[1:], *RANKING] for norms in (True, False)],
)
def test_it_reaches_the_budget_and_keeps_the_accuracy(strategy: str, norms: bool) -> None:
    search, course = trained(strategy, norms=norms)
    seed = counted(wide(norms))["flops"]
    architecture = search.morph()
    assert counted(search.model)["flops"] <= seed / 2
    assert counted(search.model)["flops"] >= 0.9 * seed / 2, "the budget is there to be used"
    assert not hooks_of(search.model)
    loads = [load for load, _ in course]
    assert loads[-1] <= 0.8, f"the cost did not come down in training: {loads}"
    assert course[-1][1] >= 0.9, f"accuracy fell: {course}"
    told = " ".join(architecture.notes)
    assert "strength was too small" not in told
    assert (architecture.strength is None) == (strategy in RANKING)
    x, y = images(64, 9)
    optimizer = torch.optim.SGD(search.model.parameters(), lr=0.02)
    for _ in range(20):
        nn.functional.cross_entropy(search.model.train()(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert accuracy(search.model) >= 0.9


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("weight_norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.parametrize("strategy", [*PRESSING[1:], *RANKING])
def test_under_a_weight_norm_the_lengths_of_rows_are_judged(strategy: str, weight_norm: Any) -> None:
    model = wide(norms=False)
    for module in list(model):
        if isinstance(module, nn.Conv2d):
            weight_norm(module)
    # A direction of any size is the same network.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("original1", "weight_v")):
                parameter.mul_(torch.logspace(-1, 1, len(parameter)).view(-1, 1, 1, 1))
    search = ms.Search(model, torch.zeros(1, 3, 8, 8), "flops=50%", strategy=strategy, steps=120)
    scores = search.strategy.scores()
    with torch.no_grad():
        for name, parameter in search.model.named_parameters():
            if name.endswith(("original1", "weight_v")):
                parameter.mul_(3)
    assert torch.allclose(search.strategy.scores(), scores)
    optimizer = torch.optim.SGD(search.model.parameters(), lr=0.05, momentum=0.9)
    search.follow(optimizer)
    x, y = images(256, 0)
    for step in range(120):
        chosen = torch.arange(32) + 32 * (step % 8)
        loss = nn.functional.cross_entropy(search.model.train()(x[chosen]), y[chosen]) + search.penalty()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()
    assert accuracy(search.model) >= 0.9
    architecture = search.morph()
    assert architecture.totals["flops"] == counted(search.model)["flops"] <= counted(wide(norms=False))["flops"] / 2


@pytest.mark.parametrize("strategy", RANKING)
def test_nothing_is_pressed_and_units_leave_step_by_step(strategy: str) -> None:
    search, course = trained(strategy, steps=200, every=4)
    loads = [load for load, _ in course]
    assert search.strength == 0
    assert all(after <= before + 1e-9 for before, after in pairwise(loads))
    assert len({round(load, 2) for load in loads}) >= 4, f"units left all at once: {loads}"


@pytest.mark.parametrize("strategy", RANKING)
def test_units_leave_without_a_followed_optimizer_too(strategy: str) -> None:
    _, course = trained(strategy, follow=False)
    assert course[-1][0] <= 0.8


@pytest.mark.parametrize("strategy", RANKING)
def test_a_schedule_that_was_not_over_is_told(strategy: str) -> None:
    search, _ = trained(strategy, steps=60)
    search = ms.Search(wide(True), torch.zeros(1, 3, 8, 8), "flops=50%", strategy=strategy, steps=1000)
    architecture = search.morph()
    assert any("the schedule was not over" in note for note in architecture.notes)
    assert not any("threshold" in note or "strength" in note for note in architecture.notes)


@pytest.mark.parametrize("strategy", RANKING)
def test_a_strength_is_refused_where_nothing_presses(strategy: str) -> None:
    with pytest.raises(UsageError, match="by rank") as caught:
        ms.Search(wide(True), torch.zeros(1, 3, 8, 8), "flops=50%", strategy=strategy, strength=0.1)
    assert "leave the strength out" in caught.value.repair


@pytest.mark.parametrize("strategy", [*PRESSING, *RANKING])
def test_several_budgets_hold_at_once(strategy: str) -> None:
    search, _ = trained(strategy, ["flops=60%", "params=40%"])
    search.morph()
    seed, found = counted(wide(True)), counted(search.model)
    assert found["flops"] <= 0.6 * seed["flops"]
    assert found["params"] <= 0.4 * seed["params"]


def test_prices_are_those_of_the_budgets_that_bind() -> None:
    model = NETWORKS["residual"]()
    graph = record(model, example_inputs())
    point = vector(graph, graph.widths)

    def prices(texts: list[str], share: float = 1.0) -> Tensor:
        return Budgets(graph, texts).prices(graph.widths, share)

    flops = Budgets(graph, "flops=50%").bound["flops"]
    params = Budgets(graph, "params=50%").bound["params"]
    total = {"flops": float(flops.total(point)), "params": float(params.total(point))}
    each = {"flops": flops.marginal(point) / total["flops"], "params": params.marginal(point) / total["params"]}
    torch.testing.assert_close(prices(["flops=50%", "params=50%"]), 2 * each["flops"] + 2 * each["params"])
    torch.testing.assert_close(prices(["flops=50%", "params=25%"]), 2 * each["flops"] + 4 * each["params"])
    torch.testing.assert_close(prices(["flops=50%", "params=300%"]), 2 * each["flops"])
    # A morph shrinks to a share of the budget: what binds is what is above that.
    torch.testing.assert_close(prices(["flops=105%", "params=150%"]), each["flops"] / 1.05)
    both = each["flops"] / 1.05 + each["params"] / 1.4
    torch.testing.assert_close(prices(["flops=105%", "params=140%"], 0.75), both)


@pytest.mark.parametrize("strategy", [*PRESSING, *RANKING])
def test_a_loss_that_is_not_finite_is_named(strategy: str) -> None:
    search, _ = trained(strategy, steps=20)
    optimizer = torch.optim.SGD(search.model.parameters(), lr=0.05)
    x, _ = images(8, 0)

    def go_on() -> None:
        for _ in range(30):
            (search.model.train()(x).sum() * float("inf") + search.penalty()).backward()
            optimizer.step()
            optimizer.zero_grad()
            search.step(0.05)

    with pytest.raises(DivergedError, match="not finite"):
        go_on()


@pytest.mark.parametrize("strategy", [*PRESSING, *RANKING])
def test_a_scaled_loss_that_overflows_is_no_harm(strategy: str) -> None:
    """As under ``torch.amp.GradScaler``: where scaled gradients overflow, the step of the optimizer is left out."""
    search = ms.Search(wide(True), torch.zeros(1, 3, 8, 8), "flops=50%", strategy=strategy, steps=120)
    optimizer = torch.optim.SGD(search.model.parameters(), lr=0.05, momentum=0.9)
    search.follow(optimizer)
    x, y = images(256, 0)
    for step in range(120):
        chosen = torch.randint(len(x), (32,), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(search.model.train()(x[chosen]), y[chosen]) + search.penalty()
        scale = float("inf") if step in (0, 1, 20, 30, 40, 60) else 1024.0
        (loss * scale).backward()
        if scale == 1024:
            for parameter in search.model.parameters():
                assert parameter.grad is not None
                parameter.grad /= scale
            optimizer.step()
        optimizer.zero_grad()
        search.step()
    assert bool(search.strategy.scores().isfinite().all())
    search.morph()
    seed = counted(wide(True), torch.zeros(1, 3, 8, 8))["flops"]
    assert search.architectures[-1].costs["flops"]["total"] <= 0.5 * seed
    assert accuracy(search.model) > 0.5


def test_detach_ends_the_search_and_folds_the_gates() -> None:
    search, _ = trained("logistic-sigmoid")
    assert hooks_of(search.model)
    x, _ = images(8, 0)
    before = search.model.eval()(x)
    plain = search.detach()
    assert plain is search.model
    assert not hooks_of(plain)
    assert torch.equal(plain(x), before)
    assert torch.equal(copy.deepcopy(plain)(x), before)
    for call in (search.penalty, search.step, search.morph):
        with pytest.raises(UsageError, match="after detach"):
            call()


@pytest.mark.parametrize("strategy", ["group-lasso", "logistic-sigmoid", "taylor"])
def test_a_search_goes_on_where_it_was(strategy: str) -> None:
    """State through tensors and plain data: the second half repeats to the bit."""

    def half(search: ms.Search, optimizer: torch.optim.Optimizer, first: int) -> list[float]:
        x, y = images(256, 0)
        losses = []
        for step in range(first, first + 30):
            chosen = torch.randint(len(x), (32,), generator=torch.Generator().manual_seed(step))
            loss = nn.functional.cross_entropy(search.model.train()(x[chosen]), y[chosen]) + search.penalty()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            search.step(0.05)
            losses.append(float(loss.detach()))
        return losses

    def begin() -> tuple[ms.Search, torch.optim.Optimizer]:
        search = ms.Search(wide(True), torch.zeros(1, 3, 8, 8), "flops=50%", strategy=strategy, steps=60, warmup=0.1)
        return search, torch.optim.SGD(search.model.parameters(), lr=0.05)

    search, optimizer = begin()
    half(search, optimizer, 0)
    weights = copy.deepcopy(search.model.state_dict())
    tensors, state = search.state()
    rest = half(search, optimizer, 30)
    again, other = begin()
    again.load_state(tensors, state)
    again.model.load_state_dict(weights)
    assert half(again, other, 30) == rest
    assert torch.equal(again.strategy.scores(), search.strategy.scores())


def test_the_plugins_are_listed() -> None:
    from morphsearch import plugins

    known = plugins.registry("strategies")
    for name in [*PRESSING, *RANKING, "uniform", "random"]:
        assert known[name].summary
        assert get(name).name == name
