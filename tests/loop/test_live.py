"""Live shrinking: training goes on as if the units that left were masked, and everything that follows goes with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from loop_fakes import counted, example, images, network
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import morphsearch as ms
from morphsearch.errors import UsageError
from morphsearch.loop import live, morphing
from morphsearch.loop.inplace import exchange

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=5e-3, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=5e-3, weight_decay=1e-2, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=2e-3, momentum=0.9, centered=True),
}


class Gated(nn.Module):
    """Squeeze and excitation: a sigmoid that is not zero at zero, and a network in which nothing else tells."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.Softplus())
        self.squeeze, self.excite = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 12, 1)
        self.second = nn.Sequential(nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(self.second(x).mean((2, 3)))


class Sized(nn.Module):
    """Forward code with numbers written into it, that a rewrite must replace."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.left, self.right = nn.Conv2d(4, 6, 1), nn.Conv2d(12, 6, 1)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.body(x).split([4, 12], 1)
        x = torch.relu(self.norm(self.left(one) + self.right(two)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).reshape(-1, 24))


class Routed(nn.Module):
    """Kernels that lie flat in a bank, mixed for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.routing, self.kernels = nn.Linear(16, 4), nn.Parameter(torch.randn(4, 12 * 16 * 9) * 0.1)
        self.norm, self.head = nn.BatchNorm2d(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        n, c, h, w = x.shape
        weight = (self.routing(x.mean((2, 3))).sigmoid() @ self.kernels).view(-1, c, 3, 3)
        x = nn.functional.conv2d(x.reshape(1, n * c, h, w), weight, padding=1, groups=n)
        return self.head(torch.relu(self.norm(x.view(n, -1, h, w))).mean((2, 3)))


OWN: dict[str, type[nn.Module]] = {"gated": Gated, "sized": Sized, "routed": Routed}


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return (OWN[name]() if name in OWN else network(name)).double().train()


def searched(name: str = "residual", **options: Any) -> ms.Search:
    settings = {"steps": 100, "warmup": 0.05, "shrink_to": 1.0}
    return ms.Search(built(name), example().double(), "flops=25%", **{**settings, **options})


def run(
    search: ms.Search, optimizer: torch.optim.Optimizer, steps: int = 100, *, after: Callable[[], None] = lambda: None
) -> list[float]:
    """The user's loop; he holds the network himself."""
    model = search.model
    x, y = images(64)
    x = x.double()
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(y), (16,), generator=generator)
        loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
        (loss + search.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()
        after()
        losses.append(loss.item())
    return losses


def masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units that leave are masked and stay."""
    monkeypatch.setattr(live.Leaving, "worth", lambda *_: False)


def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units leave soon, and the network is rebuilt for every little."""
    monkeypatch.setattr(live, "PATIENCE", 2)
    monkeypatch.setattr(live, "LEAST_SHARE", 0.02)
    monkeypatch.setattr(live, "LEAST_STEPS", 0)


CASES = [(name, "sgd") for name in ("plain", "residual", "depthwise", "grouped", "dense", "gated", "sized", "routed")]
CASES += [(name, other) for name in ("residual", "depthwise") for other in ("adam", "adamw", "rmsprop")]


@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_the_loss_curve_is_that_of_masked_training(name: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tight(monkeypatch)
    shrunk = searched(name)
    follower = OPTIMIZERS[optimizer](shrunk.model.parameters())
    shrunk.follow(follower)
    ours = run(shrunk, follower)
    assert shrunk.leaving.gone >= (1 if name == "grouped" else 3), "nothing left; the test would show nothing"
    with monkeypatch.context() as patched:
        masked(patched)
        whole = searched(name)
        other = OPTIMIZERS[optimizer](whole.model.parameters())
        whole.follow(other)
        theirs = run(whole, other)
        assert whole.leaving.gone == 0
        assert whole.leaving.left == shrunk.leaving.left
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)
    assert counted(shrunk.model.float())["flops"] < counted(whole.model.float())["flops"]
    x = images(16, 3)[0]
    torch.testing.assert_close(shrunk.model.eval()(x), whole.model.eval()(x), rtol=1e-4, atol=1e-5)


def test_a_unit_with_a_dead_scale_leaves_exactly_though_it_emitted_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shift is faded while it is dying; nothing jumps when it is cut."""
    tight(monkeypatch)
    search = searched("plain")
    optimizer = OPTIMIZERS["sgd"](search.model.parameters())
    search.follow(optimizer)
    with torch.no_grad():
        norm = search.model.body[0][1]
        norm.weight[:3] = 0.0
        norm.bias[:3] = 0.7
    x = images(16, 5)[0].double()
    outputs: list[tuple[Tensor, Tensor]] = []

    def before() -> None:
        outputs.append((copy.deepcopy(search.model).train()(x), Tensor()))

    def after() -> None:
        outputs[-1] = (outputs[-1][0], copy.deepcopy(search.model).train()(x))

    search.before_cut, search.after_cut = before, after
    run(search, optimizer, 30)
    assert outputs
    for one, other in outputs:
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_dead_units_that_come_back_stay() -> None:
    search = searched("residual", strength=0.0)
    optimizer = OPTIMIZERS["sgd"](search.model.parameters())
    search.follow(optimizer)
    norm = search.model.first[0][1]

    def blink() -> None:  # dead at every look but one of a few
        with torch.no_grad():
            norm.weight[:3] = 1.0 if search.morph_step // search.controller.every % live.PATIENCE == 1 else 0.0

    run(search, optimizer, 40, after=blink)
    assert search.leaving.left == 0
    assert len(norm.weight) == 6

    def dead() -> None:
        with torch.no_grad():
            search.model.first[0][1].weight[:3] = 0.0

    run(search, optimizer, 40, after=dead)
    assert search.leaving.left == 3


def test_no_more_leave_than_the_target_asks_and_no_group_falls_below_its_floor() -> None:
    search = searched("residual", strength=50.0, steps=200)  # kills everything at once
    optimizer = OPTIMIZERS["sgd"](search.model.parameters())
    search.follow(optimizer)
    run(search, optimizer, 100)
    assert search.leaving.left
    assert all(group.width >= group.floor for group in search.graph.groups.values())
    widths = {name: int(search.leaving.present[search.graph.units_of(name)].sum()) for name in search.graph.free}
    assert all(width >= 1 for width in widths.values())
    found = search.morph()
    assert found.costs["flops"]["total"] <= 0.25 * search.budgets.seed_costs["flops"]


@pytest.mark.parametrize(
    ("wrap", "name"), [("averaged", "residual"), ("copy", "residual"), ("dict", "residual"), ("averaged", "routed")]
)
def test_averages_and_schedulers_follow(wrap: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Throughout, and through the morph too, the average is what it would be of the masked network."""
    tight(monkeypatch)

    def trained() -> tuple[ms.Search, Any, list[float], Any]:
        search = searched(name)
        optimizer = OPTIMIZERS["adamw"](search.model.parameters())
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)
        averaged = AveragedModel(search.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        plain = copy.deepcopy(search.model)
        table = {name: value.detach().clone() for name, value in search.model.named_parameters()}
        ema = {"averaged": averaged, "copy": plain, "dict": table}[wrap]
        search.follow(optimizer, scheduler=scheduler, ema=ema)

        @torch.no_grad()
        def after() -> None:
            scheduler.step()
            if wrap == "averaged":
                averaged.update_parameters(search.model)
                return
            own = table if wrap == "dict" else dict(plain.named_parameters())
            for name, value in search.model.named_parameters():
                own[name].lerp_(value, 0.1)

        return search, ema, run(search, optimizer, after=after), scheduler

    shrunk, ours, losses, scheduler = trained()
    assert shrunk.leaving.gone > 3
    assert shrunk.optimizer is not None
    assert scheduler.get_last_lr() == [shrunk.optimizer.param_groups[0]["lr"]]
    with monkeypatch.context() as patched:
        masked(patched)
        whole, theirs, other, _ = trained()
    np.testing.assert_allclose(losses, other, rtol=1e-8)
    x = images(16, 3)[0].double()

    def output(search: ms.Search, ema: Any) -> Tensor:
        if isinstance(ema, dict):
            twin = copy.deepcopy(search.model)
            twin.load_state_dict({**twin.state_dict(), **ema})
            return twin.eval()(x)
        return copy.deepcopy(ema).eval()(x)

    if wrap != "dict":  # dicts of parameters have no statistics of their own
        # The masked average still holds what is left of the units from before they were masked.
        torch.testing.assert_close(output(shrunk, ours), output(whole, theirs), rtol=0.05, atol=0.05)
    shrunk.morph()
    assert output(shrunk, ours).isfinite().all()
    sizes = {name: value.shape for name, value in shrunk.model.named_parameters()}
    inner = ours.module if wrap == "averaged" else ours
    held = inner if isinstance(inner, dict) else dict(inner.named_parameters())
    assert {name: value.shape for name, value in held.items()} == sizes


def test_references_to_the_network_and_its_parts_stay_right(monkeypatch: pytest.MonkeyPatch) -> None:
    tight(monkeypatch)
    search = searched("residual")
    model, part = search.model, search.model.first[0][0]
    wrapper = nn.Sequential(model)
    seen: list[tuple[int, ...]] = []
    part.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape)))
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    search.follow(optimizer)
    run(search, optimizer)
    assert search.leaving.gone
    assert search.model is model
    assert model.first[0][0] is part
    assert seen[-1][1] == part.out_channels == part.weight.shape[0] < 6
    x = images(4)[0].double()
    torch.testing.assert_close(wrapper(x), model(x))
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}
    assert copy.deepcopy(model)(x).shape == (4, 5)
    assert not any(
        value.numel() and (value.abs() < 1e-300).any() and (value != 0).all() for value in model.parameters()
    )


@pytest.mark.parametrize("name", ["depthwise", "grouped"])
def test_cut_after_cut_the_forward_code_stays_the_users(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tight(monkeypatch)
    search = searched(name)
    kinds = {path: type(module) for path, module in search.model.named_modules()}
    optimizer = OPTIMIZERS["sgd"](search.model.parameters())
    search.follow(optimizer)
    cuts = []
    search.after_cut = lambda: cuts.append(search.leaving.gone)
    run(search, optimizer)
    assert len(cuts) > 2
    assert {path: type(module) for path, module in search.model.named_modules()} == kinds
    graph = search.graph
    halved = graph.shrink({name: range(max(graph.groups[name].floor, graph.widths[name] // 2)) for name in graph.free})
    assert {path: type(module) for path, module in halved.named_modules()} == kinds
    assert halved(example().double()).shape == (1, 5)
    search.morph()
    assert {path: type(module) for path, module in search.model.named_modules()} == kinds


class Cached(nn.Module):
    """Keeps the grid of the image size that it saw last, as detectors do; which code runs depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network("depthwise")
        self.size: tuple[int, ...] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.size is None:
            self.size = tuple(x.shape[-2:])
        return self.inner(nn.functional.interpolate(x, self.size))


def test_what_modules_held_when_they_were_recorded_goes_with_cuts_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    tight(monkeypatch)
    torch.manual_seed(0)
    search = ms.Search(Cached().double().train(), example().double(), "flops=25%", steps=100, warmup=0.05)
    optimizer = OPTIMIZERS["sgd"](search.model.parameters())
    search.follow(optimizer)
    began = copy.deepcopy(search.state())
    run(search, optimizer)
    assert search.leaving.gone
    assert search.model.size == (8, 8)
    for graph in (search.graph, *([search._start[1]] if search._start else [])):
        assert not any("groups" in kept or "out_channels" in kept for kept in graph.tape.state.moved().values())
        assert graph.shrink({}) is not None
    search.load_state(*began)
    assert not search.leaving.gone
    assert search.graph.tape.state.moved() == {"": {"size": None}}


class Placed(nn.Module):
    """Adds an encoding of positions as wide as the channels, kept for every image size, and one for the last alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.head = nn.Linear(12, 5)
        self._known: dict[int, Tensor] = {}
        self.size, self.encoding = 0, None

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        size = x.shape[2]
        if size not in self._known:
            self._known[size] = torch.linspace(0, 1, size).to(x).view(1, 1, -1, 1).expand(1, x.shape[1], -1, -1).clone()
        x = self.body(x + self._known[size])
        if size != self.size:
            self.size = size
            self.encoding = torch.linspace(1, 0, size).to(x).view(1, 1, 1, -1).expand(1, x.shape[1], -1, -1).clone()
        return self.head((x + self.encoding).mean((2, 3)))


def test_what_is_kept_for_every_channel_is_made_anew_at_other_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training at another size than the example's, and an average that is evaluated: all keep encodings."""
    tight(monkeypatch)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        search = ms.Search(Placed().double().train(), example().double(), "flops=25%", steps=100, warmup=0.05)
        model, known, x = search.model, search.model._known, images(4)[0].double()
        larger = nn.functional.interpolate(x, 12)
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        search.follow(optimizer, ema=average)
        began = copy.deepcopy((search.state(), model.state_dict(), optimizer.state_dict()))

        def after(model: nn.Module = model, average: Any = average, x: Tensor = x, larger: Tensor = larger) -> None:
            average.update_parameters(model)
            for one in (x, larger):
                copy.deepcopy(model).eval()(one)
                average.eval()(one)
                model.eval()(one)
            model.train()

        losses.append(run(search, optimizer, after=after))
        masked(monkeypatch)
    assert search.leaving.left
    np.testing.assert_allclose(*losses, rtol=1e-8, atol=1e-10)
    monkeypatch.undo()
    tight(monkeypatch)
    search = ms.Search(Placed().double().train(), example().double(), "flops=25%", steps=100, warmup=0.05)
    model, known = search.model, search.model._known
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    search.follow(optimizer)
    run(search, optimizer)
    assert len(search.leaving.cuts) > 1
    assert model._known is known
    assert {tensor.shape[1] for tensor in known.values()} == {model.stem[0].out_channels}
    search.load_state(*began[0])
    model.load_state_dict(began[1])
    assert model(larger).isfinite().all()
    assert known[12].shape[1] == 16
    search.morph()
    for one in (x, larger, x):
        assert search.model(one).isfinite().all()


class PlacedLate(Placed):
    """Keeps an encoding for what the last convolution makes alone."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x))
        if self.encoding is None:
            self.encoding = torch.linspace(1, 0, x.shape[2]).to(x).view(1, 1, 1, -1).expand(1, x.shape[1], -1, -1)
        return self.head((x + self.encoding).mean((2, 3)))


def test_a_cut_elsewhere_leaves_free_what_meets_a_filled_cache() -> None:
    search = ms.Search(PlacedLate(), example(), "flops=25%", steps=100)
    graph, x = search.graph, images(4)[0]
    for name, width in (("stem.0", 9), ("body.0", 8), ("stem.0", 6), ("body.0", 5)):
        graph.model.eval()(x)
        rebuilt = morphing.without(graph, {name: list(range(width))}, search.budgets.rebound(graph), example())
        exchange(graph, rebuilt.graph)
        graph = rebuilt.graph
        assert graph.model is search.model
        assert graph.free == search.graph.free
    assert search.model(x).isfinite().all()
    assert search.model.encoding.shape[1] == graph.widths["body.0"] == 5


def test_kept_units_are_positions_in_the_parent_before_anyone_left(monkeypatch: pytest.MonkeyPatch) -> None:
    tight(monkeypatch)
    search = searched("residual", expand=False)
    before = search.model.second[0][0].weight
    optimizer = torch.optim.SGD(search.model.parameters(), lr=0.0)  # weights keep their values, scales die
    search.follow(optimizer)
    with torch.no_grad():
        before.copy_(torch.arange(10.0).reshape(10, 1, 1, 1).expand_as(before) + 1)
        for norm, gone in ((search.model.second[0][1], [0, 3, 4, 8]), (search.model.first[0][1], [1, 2])):
            norm.weight[gone] = 0.0
    run(search, optimizer, 60)
    assert search.leaving.gone == 6
    found = search.morph()
    kept = found.kept["second.0.0"]
    assert not set(kept) & {0, 3, 4, 8}
    assert search.model.second[0][0].weight[:, 0, 0, 0].tolist() == [float(unit + 1) for unit in kept]


def test_a_state_amid_a_morph_is_gone_on_from_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own checkpoint: states of search, network and optimizer, on a new seed."""
    tight(monkeypatch)
    first = searched("residual")
    optimizer = OPTIMIZERS["adam"](first.model.parameters())
    first.follow(optimizer)
    run(first, optimizer, 60)
    tensors, state = first.state()
    assert state["cuts"]
    weights, moments = copy.deepcopy(first.model.state_dict()), copy.deepcopy(optimizer.state_dict())
    ours = run(first, optimizer, 30)

    second = searched("residual")
    again = OPTIMIZERS["adam"](second.model.parameters())
    second.follow(again)
    for _ in range(2):  # from the seed, and from wherever it has got to
        second.load_state(tensors, state)
        second.model.load_state_dict(weights)
        again.load_state_dict(copy.deepcopy(moments))
        assert run(second, again, 30) == ours
    assert second.leaving.cuts == first.leaving.cuts
    assert second.graph.widths == first.graph.widths


def test_what_belongs_to_something_else_is_refused() -> None:
    search = searched()
    optimizer = OPTIMIZERS["sgd"](search.model.parameters())
    other = OPTIMIZERS["sgd"](network().parameters())
    with pytest.raises(UsageError, match="holds another optimizer") as caught:
        search.follow(optimizer, scheduler=torch.optim.lr_scheduler.StepLR(other, 10))
    assert "follow()" in caught.value.repair
    for ema in (network("plain"), {"nothing": torch.zeros(1)}, 3.0, {}):
        with pytest.raises(UsageError, match="does not hold the parameters"):
            search.follow(optimizer, ema=ema)


@pytest.mark.parametrize("make", [torch.optim.LBFGS, torch.optim.Adafactor])
def test_optimizers_whose_state_cannot_be_followed_are_named(make: Any) -> None:
    search = searched()
    with pytest.raises(UsageError, match="cannot be followed") as caught:
        search.follow(make(search.model.parameters()))
    assert make.__name__ in caught.value.arrived
    assert "AdamW" in caught.value.repair


class Factored(torch.optim.SGD):
    """Somebody's optimizer, with a state of its own."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["rows"] = torch.zeros(parameter.shape[0], 2)
        return super().step(closure)


def test_state_of_another_shape_is_found_at_the_first_step() -> None:
    search = searched()
    optimizer = Factored(search.model.parameters(), lr=0.01)
    search.follow(optimizer)
    with pytest.raises(UsageError, match="'rows' of a parameter of shape") as caught:
        run(search, optimizer, 1)
    assert "Factored" in caught.value.arrived


def test_without_follow_or_with_live_false_nobody_leaves() -> None:
    for options, follows in (({"live": False}, True), ({}, False)):
        search = searched("residual", strength=5.0, **options)
        optimizer = OPTIMIZERS["sgd"](search.model.parameters())
        if follows:
            search.follow(optimizer)
        run(search, optimizer, 60)
        assert search.leaving.left == 0
        assert search.graph.widths == search.seed_widths
    with pytest.raises(UsageError, match="live='yes'"):
        searched(live="yes")


def test_a_network_that_cannot_follow_keeps_its_units_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    from morphsearch.errors import GraphError
    from morphsearch.loop import morphing

    tight(monkeypatch)

    def refuses(*args: Any) -> Any:
        raise GraphError("no", "rule", "repair")

    search = searched("residual")
    optimizer = OPTIMIZERS["sgd"](search.model.parameters())
    search.follow(optimizer)
    with monkeypatch.context() as patched:
        patched.setattr(morphing, "without", refuses)
        losses = run(search, optimizer)
    assert search.leaving.gone == 0 < search.leaving.left
    assert np.isfinite(losses).all()
    assert any("masked, until the morph" in note for note in search.morph().notes)


def test_a_penalty_without_steps_is_found() -> None:
    search = searched()
    with pytest.raises(UsageError, match="without a step") as caught:
        for _ in range(5000):
            search.penalty()
    assert "search.step()" in caught.value.repair
