"""Masks in the user's own loop: exact zeros at every moment, exact resumption, nothing left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsity_fakes import everything, images, small, train, zeros
from torch import Tensor, nn

import morphsearch as ms
from morphsearch.errors import DivergedError, InputError, UsageError
from morphsearch.files import read_tensors, write_tensors
from morphsearch.loop.inplace import swap
from morphsearch.sparsity import MaskStrategy, Schedule, Sparsifier, SparsityWarning

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.005, weight_decay=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.005, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.001, momentum=0.9, weight_decay=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
}


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_sparsity_is_training_as_without(name: str) -> None:
    plain, masked = everything(), everything()
    expected = train(plain, OPTIMIZERS[name](plain.parameters()), 6)
    optimizer = OPTIMIZERS[name](masked.parameters())
    sparsifier = Sparsifier(masked, 0.0, steps=6)
    sparsifier.follow(optimizer)
    assert train(masked, optimizer, 6, sparsifier) == expected
    sparsifier.strip()
    assert same(plain, masked)


@pytest.mark.parametrize("followed", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_weights_are_exactly_zero_at_every_step(name: str, followed: bool) -> None:
    model = small()
    optimizer = OPTIMIZERS[name](model.parameters())
    sparsifier = Sparsifier(model, schedule=Schedule.polynomial(0.8, begin=3, end=15, frequency=4))
    if followed:
        sparsifier.follow(optimizer)
    gone: dict[int, Tensor] = {}
    for step in range(25):
        train(model, optimizer, 1, sparsifier, first=step)
        for index in (0, 3, 6):
            weight = model[index].weight
            if index in gone:
                assert not weight[gone[index]].any()  # what is zero stays zero
            gone[index] = weight.detach() == 0
            state = optimizer.state[weight]
            if followed and step >= 3:
                assert all(
                    not value[gone[index]].any()
                    for key, value in state.items()
                    if isinstance(value, Tensor) and value.shape == weight.shape
                )
    assert {round(zeros(model[index].weight), 2) for index in (0, 3, 6)} == {0.8}


def test_followed_weights_are_zero_before_the_sparsifier_steps() -> None:
    """Whatever saves or judges the network between the two calls sees it sparse."""
    for make in OPTIMIZERS.values():
        model = small()
        optimizer = make(model.parameters())
        sparsifier = Sparsifier(model, schedule=Schedule.constant(0.5))
        sparsifier.follow(optimizer)
        x, y = images(16)
        for _ in range(4):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            assert zeros(model[3].weight) == 0.5
            sparsifier.step()


def test_the_network_stays_plain_and_stripped_equals_masked() -> None:
    model = small()
    names, modules = list(model.state_dict()), [type(one) for one in model.modules()]
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sparsifier = Sparsifier(model, "60%", steps=10)
    sparsifier.follow(optimizer)
    train(model, optimizer, 10, sparsifier)
    x, _ = images(8)
    model.eval()
    masked = model(x)
    assert list(model.state_dict()) == names
    twin = copy.deepcopy(model)
    assert sparsifier.strip() is model
    assert torch.equal(model(x), masked)
    assert torch.equal(twin(x), masked)
    assert list(model.state_dict()) == names
    assert [type(one) for one in model.modules()] == modules
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
    model.train()
    train(model, optimizer, 1)  # the optimizer is free again
    assert zeros(model[3].weight) < 0.1


def test_a_checkpoint_of_the_network_reloads_as_sparse_as_it_is(tmp_path: Any) -> None:
    model = small()
    sparsifier = Sparsifier(model, schedule=Schedule.constant(0.75))
    train(model, OPTIMIZERS["adamw"](model.parameters()), 2, sparsifier)
    write_tensors(tmp_path / "weights.safetensors", model.state_dict())
    fresh = small(seed=5)
    fresh.load_state_dict(read_tensors(tmp_path / "weights.safetensors"))
    assert same(model, fresh)
    assert zeros(fresh[6].weight) == 0.75


def test_training_past_the_end_keeps_the_masks() -> None:
    model = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sparsifier = Sparsifier(model, schedule=Schedule.polynomial(0.7, begin=0, end=4, frequency=3))
    train(model, optimizer, 4, sparsifier)
    gone = model[3].weight == 0
    losses = train(model, optimizer, 40, sparsifier, first=4)
    assert torch.equal(model[3].weight == 0, gone)
    assert losses[-1] < losses[0]
    assert sparsifier.asked == 0.7


@settings(max_examples=12)
@given(st.integers(1, 11), st.sampled_from(sorted(OPTIMIZERS)), st.sampled_from(["layer", "global"]))
def test_stopped_and_restarted_equals_uninterrupted(stop: int, name: str, scope: str) -> None:
    def fresh(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, Sparsifier]:
        model = small(seed)
        optimizer = OPTIMIZERS[name](model.parameters())
        sparsifier = Sparsifier(model, "80%", steps=12, scope=scope)
        sparsifier.follow(optimizer)
        return model, optimizer, sparsifier

    whole, optimizer, sparsifier = fresh(0)
    expected = train(whole, optimizer, 12, sparsifier)
    report = sparsifier.report()

    broken, optimizer, sparsifier = fresh(0)
    train(broken, optimizer, stop, sparsifier)
    saved = copy.deepcopy((broken.state_dict(), optimizer.state_dict(), sparsifier.state()))

    resumed, optimizer, sparsifier = fresh(9)
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    sparsifier.load_state(*saved[2])
    assert train(resumed, optimizer, 12 - stop, sparsifier, first=stop) == expected[stop:]
    assert same(whole, resumed)
    assert sparsifier.report() == report


@pytest.mark.parametrize("options", [{"target": "60%"}, {"nm": "2:4"}])
def test_schedules_by_name_are_those_of_the_command_line(options: dict[str, Any]) -> None:
    final = 0.6 if "target" in options else 0.5
    known = {"constant": Schedule.constant(final), "polynomial": Schedule.polynomial(final)}
    for name, expected in known.items():
        made = Sparsifier(small(), schedule=name, steps=20, **options)
        assert made.timetable == expected.timetable(20)
    assert Sparsifier(small(), steps=20, **options).timetable == known["polynomial"].timetable(20)


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    made = Sparsifier(small(), schedule=Schedule.polynomial(0.5, end=np.int64(8)), steps=np.int64(10))
    assert made.timetable == Schedule.polynomial(0.5, end=8).timetable(10)


def test_states_of_other_sparsifications_are_refused() -> None:
    tensors, state = Sparsifier(small(), schedule=Schedule.constant(0.5)).state()
    others: list[tuple[Sparsifier, dict[str, Tensor], dict[str, Any], str]] = [
        (Sparsifier(small(), schedule=Schedule.constant(0.6)), tensors, state, "timetable"),
        (Sparsifier(small(), schedule=Schedule.constant(0.5), scope="global"), tensors, state, "scope"),
        (Sparsifier(small(), schedule=Schedule.constant(0.5), block="2,2"), tensors, state, "pattern"),
        (Sparsifier(everything(), schedule=Schedule.constant(0.5)), tensors, state, "weights"),
        (Sparsifier(small(), schedule=Schedule.constant(0.5)), tensors, {}, "settings"),
        (Sparsifier(small(), schedule=Schedule.constant(0.5)), {"mask/0.weight": torch.ones(3)}, state, "0.weight"),
        (Sparsifier(small(), schedule=Schedule.constant(0.5)), {"mask/x": torch.ones(3)}, state, "x is not pruned"),
        (Sparsifier(small(), schedule=Schedule.constant(0.5)), {"mask/0.weight": 3}, state, "0.weight is 3"),
        (Sparsifier(small(), schedule=Schedule.constant(0.5)), None, None, "None and None"),  # type: ignore[list-item]
        (Sparsifier(small(), schedule=Schedule.constant(0.5)), tensors, {**state, "before": {"a": 1}}, "its sizes"),
    ]
    for sparsifier, given_tensors, given_state, words in others:
        with pytest.raises(InputError, match=words) as caught:
            sparsifier.load_state(given_tensors, given_state)
        assert caught.value.repair


def test_averages_of_the_weights_are_masked_on_request() -> None:
    model = small()
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sparsifier = Sparsifier(model, schedule=Schedule.constant(0.5, begin=2))
    for step in range(4):
        train(model, optimizer, 1, sparsifier, first=step)
        average.update_parameters(model)
    twin = copy.deepcopy(average)
    sparsifier.apply(average.module)
    sparsifier.apply(twin)  # the wrapper itself will do
    for one in (average, twin):
        assert zeros(one.module[3].weight) == 0.5
    assert same(average, twin)
    wrapped = nn.DataParallel(copy.deepcopy(model))
    train(wrapped, OPTIMIZERS["sgd"](wrapped.parameters()), 1)
    sparsifier.apply(torch.optim.swa_utils.AveragedModel(wrapped))
    sparsifier.apply(wrapped)
    assert torch.equal(wrapped.module[3].weight == 0, model[3].weight == 0)


@pytest.mark.parametrize(
    ("copied", "words"),
    [
        (lambda model: nn.Linear(3, 3), ["Linear", "no parameter 0.weight"]),
        (lambda model: everything(), ["Everything", "no parameter 0.weight"]),
        (lambda model: torch.optim.swa_utils.AveragedModel(nn.Linear(3, 3)), ["AveragedModel", "no parameter"]),
        (
            lambda model: nn.Sequential(nn.Conv2d(4, 6, 3), *model[1:]),
            ["0.weight of shape [6, 4, 3, 3]", "[8, 4, 3, 3]"],
        ),
        (lambda model: dict(model.named_parameters()), ["a dict"]),
        (lambda model: "average", ["a str"]),
    ],
)
def test_what_is_no_copy_of_the_network_takes_no_masks(copied: Any, words: list[str]) -> None:
    model = small()
    sparsifier = Sparsifier(model, schedule=Schedule.constant(0.5))
    with pytest.raises(UsageError, match="apply") as caught:
        sparsifier.apply(copied(model))
    complete(caught.value, "AveragedModel", *words)


class Sign(MaskStrategy):
    """Negative weights leave first: a criterion under which zeros can come back."""

    name = "sign"

    def saliency(self, name: str, weight: Tensor) -> Tensor:
        return (weight - weight.min()).abs()


def test_a_criterion_of_ones_own_decides_and_brings_zeros_back_without_momentum() -> None:
    model = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sparsifier = Sparsifier(model, schedule=Schedule.constant(0.5, end=20, frequency=5), strategy=Sign())
    sparsifier.follow(optimizer)
    assert (model[6].weight[model[6].weight != 0] > 0).float().mean() > 0.9
    train(model, optimizer, 20, sparsifier)
    assert zeros(model[6].weight) >= 0.5


class Broken(Sign):
    name = "broken"

    def saliency(self, name: str, weight: Tensor) -> Tensor:
        return weight.abs().sum(1)


def complete(error: Any, *words: str) -> None:
    assert error.arrived
    assert error.rule
    assert error.repair
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": 1.0}, ["target=1.0"]),
        ({"target": -0.1}, ["target=-0.1"]),
        ({"target": 0.5, "steps": 0}, ["steps=0"]),
        ({"target": 0.5, "steps": 2.5}, ["steps=2.5"]),
        ({}, ["neither a target"]),
        ({"target": 0.5, "schedule": Schedule.constant(0.5)}, ["leave out one"]),
        ({"target": 0.5, "scope": "layers"}, ["did you mean layer?"]),
        ({"target": 0.5, "of": "netwrok"}, ["did you mean network?"]),
        ({"target": 0.5, "block": (0, 4)}, ["block=(0, 4)"]),
        ({"target": 0.5, "block": "4"}, ["block='4'"]),
        ({"target": 0.5, "block": (64, 1)}, ["64 x 1", "--exclude"]),
        ({"target": 0.5, "block": (2, 2), "pool": "maks"}, ["did you mean max"]),
        ({"nm": "4:2"}, ["nm='4:2'"]),
        ({"nm": "two"}, ["nm='two'"]),
        ({"nm": (2, 4), "target": 0.7}, ["makes 50%"]),
        ({"nm": (2, 4), "block": (2, 2)}, ["block"]),
        ({"nm": (2, 4), "scope": "global"}, ["scope"]),
        ({"nm": (3, 5)}, ["3:5 does not divide", "0 (4)", "--exclude 0"]),
        ({"target": 0.5, "include": ["7"]}, ["matches no layer", "'7'"]),
        ({"target": 0.5, "include": ["1"]}, ["norm"]),
        ({"target": 0.5, "exclude": ["*"]}, ["no prunable layer", "exclude less"]),
        ({"target": 0.5, "strategy": "gamma-l1"}, ["whole units", "magnitude-sparsity"]),
        ({"target": 0.5, "strategy": "magnitud-sparsity"}, ["did you mean magnitude-sparsity"]),
        ({"schedule": Schedule.constant(0.5), "strategy": Broken()}, ["no usable saliency"]),
        ({"target": 0.5, "steps": 10, "schedule": None, "strategy_options": {"p": 2}}, ["no option 'p'"]),
    ],
)
def test_bad_arguments(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        Sparsifier(small(), **{"steps": 10, **options})
    complete(caught.value, *words)


def test_near_matches_of_layer_names() -> None:
    with pytest.raises(UsageError, match="did you mean grouped"):
        Sparsifier(everything(), 0.5, steps=10, include=["groupd"])
    with pytest.raises(UsageError, match="depthwise=True"):
        Sparsifier(everything(), 0.5, steps=10, include=["depthwise"])


def test_networks_without_anything_to_prune() -> None:
    frozen = small().requires_grad_(False)
    for model, words in ((nn.BatchNorm2d(3), "norm"), (nn.ReLU(), "no parameters"), (frozen, "frozen")):
        with pytest.raises(UsageError, match="no prunable layer") as caught:
            Sparsifier(model, 0.5, steps=10)
        complete(caught.value, words)
    with pytest.raises(InputError, match="not initialised"):
        Sparsifier(nn.Sequential(nn.LazyLinear(3)), 0.5, steps=10)


class Factored(torch.optim.Optimizer):
    """Keeps one number a row, as Adafactor does."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.01})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["row"] = torch.zeros(parameter.shape[0])


def test_optimizers_that_cannot_be_followed() -> None:
    model = small()
    sparsifier = Sparsifier(model, 0.5, steps=10)
    with pytest.raises(UsageError, match="LBFGS") as caught:
        sparsifier.follow(torch.optim.LBFGS(model.parameters()))
    complete(caught.value, "SGD")
    with pytest.raises(UsageError, match="none of the weights") as caught:
        sparsifier.follow(torch.optim.SGD(small().parameters(), lr=0.1))
    complete(caught.value)
    with pytest.raises(UsageError, match="AveragedModel"):
        sparsifier.follow(torch.optim.swa_utils.AveragedModel(model))  # type: ignore[arg-type]
    factored = Factored(model.parameters())
    sparsifier.follow(factored)
    with pytest.raises(UsageError, match="'row'") as caught:
        train(model, factored, 1, sparsifier)
    complete(caught.value, "don't follow it")


def test_weights_that_are_not_finite() -> None:
    model = small()
    sparsifier = Sparsifier(model, schedule=Schedule.constant(0.5, begin=3))
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = torch.nan
    sparsifier.step()
    sparsifier.step()
    with pytest.raises(DivergedError, match="step 3") as caught:
        sparsifier.step()
    complete(caught.value, "3.weight", "learning rate")
    with pytest.raises(DivergedError):
        sparsifier.strip()


def test_after_strip_there_is_nothing_to_do() -> None:
    model = small()
    sparsifier = Sparsifier(model, schedule=Schedule.constant(0.5))
    state = sparsifier.state()
    sparsifier.strip()
    for call in (
        sparsifier.step,
        sparsifier.strip,
        lambda: sparsifier.follow(torch.optim.SGD(model.parameters(), lr=0.1)),
        lambda: sparsifier.load_state(*state),
    ):
        with pytest.raises(UsageError, match="after strip") as caught:
            call()
        complete(caught.value, "new Sparsifier")


def test_stripping_before_the_end_is_said_aloud() -> None:
    sparsifier = Sparsifier(small(), "80%", steps=100)
    for _ in range(20):
        sparsifier.step()
    with pytest.warns(SparsityWarning, match="after 20 steps of a schedule that ends at step 70") as caught:
        sparsifier.strip()
    assert "80% was asked for" in str(caught[0].message)


def test_parameters_that_were_exchanged() -> None:
    model = small()
    sparsifier = Sparsifier(model, schedule=Schedule.constant(0.5, begin=1))
    model[3] = nn.Conv2d(8, 12, 3, stride=2, padding=1)
    with pytest.raises(UsageError, match=r"3\.weight") as caught:
        sparsifier.step()
    complete(caught.value)


def assigned(model: nn.Module) -> None:
    model.load_state_dict(small(seed=3).state_dict(), assign=True)


def shrunk(model: nn.Module) -> None:
    graph = ms.record(model, torch.zeros(1, 4, 8, 8))
    name = next(iter(graph.free))
    swap(model, graph.shrink({name: [0, 1]}))


def cut(model: nn.Module) -> None:
    model[6].weight.data = model[6].weight.data[:, :10]


def parametrized(model: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(model[3])


@pytest.mark.parametrize("change", [assigned, shrunk, cut, parametrized])
def test_masks_say_nothing_about_parameters_that_came_later(change: Callable[[nn.Module], None]) -> None:
    """Long after the last update too: the real network has none of the zeros that a report would tell of."""
    model = small()
    sparsifier = Sparsifier(model, schedule=Schedule.constant(0.5))
    sparsifier.step()
    assert sparsifier.reached == sparsifier.report().reached == 0.5
    change(model)
    for ask in (sparsifier.step, sparsifier.apply, sparsifier.report, lambda: sparsifier.reached, sparsifier.strip):
        with pytest.raises(UsageError, match=r"parameter \d\.weight of the network") as caught:
            ask()
        complete(caught.value, "assign=True", "make the Sparsifier after")
    assert not sparsifier.stripped


@pytest.mark.parametrize("options", [{}, {"scope": "global"}, {"block": "2,2"}, {"nm": "2:4", "target": None}])
def test_zeros_stay_zero_where_the_optimizer_is_not_followed(options: dict[str, Any]) -> None:
    """Momentum and weight decay move masked weights at every step; an update must not take them for large."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3))
    model.extend([nn.Flatten(), nn.Linear(12 * 16, 5)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.95, weight_decay=1e-3)
    sparsifier = Sparsifier(model, **{"target": 0.8, "steps": 60, **options})
    gone: dict[str, Tensor] = {}
    for step in range(60):
        train(model, optimizer, 1, sparsifier, first=step)
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                assert name not in gone or not weight[gone[name]].any(), f"{name} at step {step}"
                gone[name] = weight.detach() == 0
    assert sparsifier.reached == pytest.approx(0.5 if "nm" in options else 0.8, abs=0.01)


def test_zeros_stay_zero_among_weights_that_begin_at_zero() -> None:
    """All of one value: an update must not exchange those that are masked for others."""
    model = small()
    nn.init.zeros_(model[6].weight)
    sparsifier = Sparsifier(model, schedule=Schedule.polynomial(0.8, initial=0.5, begin=0, end=4))
    gone = sparsifier.state()[0]["mask/6.weight"]
    with torch.no_grad():
        model[6].weight[:, ::2] = 1.0  # some that are kept learn, the others have no gradient
    sparsifier.step()
    assert not (gone & ~sparsifier.state()[0]["mask/6.weight"]).any()


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_masks_follow_the_network_to_another_precision(kind: torch.dtype) -> None:
    model = small()
    sparsifier = Sparsifier(model, schedule=Schedule.constant(0.5))
    model.to(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.full_like(parameter, -1.0))
    sparsifier.step()
    assert zeros(model[3].weight) == 0.5
    assert not torch.signbit(model[3].weight[model[3].weight == 0]).any()  # -0.0 would not compress


def test_what_is_not_finite_under_a_mask_becomes_zero_too() -> None:
    """Gradients that overflowed leave no NaN behind in weights that are not there."""
    model = small()
    sparsifier = Sparsifier(model, schedule=Schedule.constant(0.5))
    gone = model[3].weight == 0
    with torch.no_grad():
        model[3].weight[gone] = torch.inf
    sparsifier.step()
    assert torch.equal(model[3].weight == 0, gone)
