"""``ms.Search`` in the user's own training loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loop_fakes import counted, example, images, network, train
from torch import nn

import morphsearch as ms
from morphsearch.errors import UsageError
from morphsearch.loop import live


def sgd(search: ms.Search) -> torch.optim.Optimizer:
    return torch.optim.SGD(search.model.parameters(), lr=0.05, momentum=0.9)


def adamw(search: ms.Search) -> torch.optim.Optimizer:
    return torch.optim.AdamW(search.model.parameters(), lr=5e-3)


@pytest.mark.parametrize("make", [sgd, adamw])
def test_the_optimizer_goes_on_through_two_morphs(make: Any) -> None:
    search = ms.Search(network(), example(), budget="flops=50%", steps=60)
    optimizer = make(search)
    search.follow(optimizer)
    seed = counted(network())["flops"]
    names = {name for name, _ in search.model.named_parameters()}
    first = train(search, optimizer, 1)[0]
    for morph in (1, 2):
        train(search, optimizer, 30)
        architecture = search.morph()
        assert architecture.name == f"{morph:03d}"
        assert counted(search.model.train())["flops"] <= seed / 2
        search.model.train()
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        parameters = dict(search.model.named_parameters())
        assert held == {id(p) for p in parameters.values()}
        assert parameters.keys() == names
        for parameter in parameters.values():
            state = optimizer.state[parameter]
            assert state
            assert all(v.shape in (parameter.shape, ()) for v in state.values() if isinstance(v, torch.Tensor))
        after = train(search, optimizer, 30, seed=morph)
        assert torch.tensor(after).isfinite().all()
        assert min(after) < first
    assert [a.parent for a in search.architectures] == [None, "001"]


def test_momentum_of_a_unit_goes_with_it() -> None:
    search = ms.Search(network("plain"), example(), budget="flops=50%", expand=False)
    optimizer = sgd(search)
    search.follow(optimizer)
    train(search, optimizer, 12)
    name = "body.0.0.weight"
    before = optimizer.state[dict(search.model.named_parameters())[name]]["momentum_buffer"].clone()
    kept = search.morph().kept["body.0.0"]
    after = optimizer.state[dict(search.model.named_parameters())[name]]["momentum_buffer"]
    assert 0 < len(kept) < before.shape[0]
    assert torch.equal(after, before[kept])


def test_without_follow_a_new_optimizer_is_made() -> None:
    search = ms.Search(network(), example(), budget="params=60%", steps=20)
    train(search, sgd(search), 20)
    search.morph()
    losses = train(search, sgd(search), 20)
    assert search.morph().parent == "001"
    assert torch.tensor(losses).isfinite().all()


def test_without_steps_the_controller_paces_itself() -> None:
    search = ms.Search(network(), example(), budget="flops=50%", warmup=0)
    search.follow(optimizer := sgd(search))
    train(search, optimizer, 40)
    assert 0 < search.strength < float("inf")
    assert search.morph().costs["flops"]["total"] <= counted(network())["flops"] / 2


def test_a_fixed_strength_is_not_steered() -> None:
    search = ms.Search(network(), example(), budget="flops=50%", strength=0.3)
    search.follow(optimizer := sgd(search))
    for _ in range(2):
        train(search, optimizer, 15)
        assert search.strength == 0.3
        assert float(search.penalty()) > 0
        assert search.morph().strength == 0.3


def test_a_fixed_strength_of_zero_presses_nothing() -> None:
    search = ms.Search(network(), example(), budget="flops=50%", strength=0.0)
    train(search, sgd(search), 15)
    found = search.morph()
    assert any("No unit died" in note for note in found.notes)


def test_the_penalty_can_be_added_to_any_loss() -> None:
    search = ms.Search(network(), example(), budget="flops=50%", strength=0.5)
    x, y = images(16)
    plain = nn.functional.cross_entropy(search.model(x), y)
    total = plain + search.penalty()
    assert total.shape == ()
    total.backward()
    assert all(p.grad is not None for p in search.model.parameters())


def test_what_is_regularized_can_be_kept_out_of_weight_decay() -> None:
    search = ms.Search(network(), example(), budget="flops=50%")
    scales = {f"{n}.weight" for n, m in search.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert search.regularized() == scales


def test_mode_and_dtype_of_the_network_stay() -> None:
    model = network().double()
    model.first[1].eval()  # a batch norm that the user froze
    search = ms.Search(model, example(), budget="flops=50%")
    search.morph()
    assert search.model.training
    assert not search.model.first[1].training
    assert search.model.second[1].training
    assert {p.dtype for p in search.model.parameters()} == {torch.float64}
    search.model.eval()
    search.morph()
    assert not search.model.training


def test_an_optimizer_of_another_network_is_refused() -> None:
    search = ms.Search(network(), example(), budget="flops=50%")
    with pytest.raises(UsageError, match=r"no parameter of search\.model"):
        search.follow(torch.optim.SGD(network().parameters(), lr=0.1))


def in_two(search: ms.Search) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """An optimizer of the body and one of the head."""
    head = dict(search.model.head.named_parameters())
    body = [p for name, p in search.model.named_parameters() if not name.startswith("head")]
    return torch.optim.SGD(body, lr=0.05, momentum=0.9), torch.optim.Adam(head.values(), lr=0.01)


class Both:
    """Two optimizers in one loop."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers

    def step(self) -> None:
        for one in self.optimizers:
            one.step()

    def zero_grad(self) -> None:
        for one in self.optimizers:
            one.zero_grad()


@pytest.mark.parametrize("at_once", [True, False])
def test_two_optimizers_both_go_on_with_what_is_left(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LEAST_SHARE", 0.02)
    monkeypatch.setattr(live, "LEAST_STEPS", 0)
    search = ms.Search(network(), example(), "flops=30%", strategy="magnitude", steps=60, shrink_to=1.0)
    body, head = in_two(search)
    scheduler = torch.optim.lr_scheduler.StepLR(head, 1000)
    if at_once:
        search.follow([body, head], scheduler=scheduler)
    else:
        search.follow(body)
        search.follow(head, scheduler=scheduler)
    assert search.lr == 0.05
    train(search, Both(body, head), 60)
    assert search.leaving.gone
    search.morph()
    search.model.train()
    before = {name: p.detach().clone() for name, p in search.model.named_parameters()}
    held = [id(p) for one in (body, head) for group in one.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in search.model.parameters())
    assert head.state[search.model.head.weight]["exp_avg"].shape == search.model.head.weight.shape
    train(search, Both(body, head), 3)
    assert all(not torch.equal(p, before[name]) for name, p in search.model.named_parameters())


def test_an_optimizer_that_is_not_followed_is_found_before_it_trains_what_nobody_reads() -> None:
    search = ms.Search(network(), example(), "flops=30%", strategy="magnitude", steps=60, live=True)
    body, head = in_two(search)
    search.follow(body)
    with pytest.raises(UsageError, match=r"head\.weight and 1 other .* not followed") as caught:
        train(search, Both(body, head), 60)
    assert "search.follow([optimizer, other])" in caught.value.repair
    assert search.total_steps < 3
    search.follow(head)
    train(search, Both(body, head), 5)


def test_units_stay_masked_for_parameters_that_may_be_trained_by_nobody_knows_whom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "LEAST_SHARE", 0.02)
    monkeypatch.setattr(live, "LEAST_STEPS", 0)
    search = ms.Search(network(), example(), "flops=30%", strategy="magnitude", steps=60)
    body, _ = in_two(search)
    search.follow(body)
    train(search, body, 60)
    assert search.leaving.gone == 0 < search.leaving.left
    assert any("head.weight and 1 other" in note and "masked" in note for note in search.notes)
    assert any("head.weight" in note and "built anew" in note for note in search.morph().notes)
    frozen = ms.Search(network(), example(), "flops=30%", strategy="magnitude", steps=60)
    frozen.model.head.requires_grad_(False)
    body, _ = in_two(frozen)
    frozen.follow(body)
    train(frozen, body, 60)
    assert frozen.leaving.gone


def test_an_optimizer_built_anew_takes_the_place_of_the_former() -> None:
    search = ms.Search(network(), example(), "flops=50%", steps=20)
    search.follow(sgd(search))
    search.follow(optimizer := adamw(search))
    assert search.optimizer is optimizer
    train(search, optimizer, 20)
    search.morph()


@pytest.mark.parametrize("follows", [True, False])
def test_parameters_that_were_exchanged_are_found(follows: bool) -> None:
    """load_state_dict(assign=True) puts other objects in their places; the strategy would go on to judge the former."""
    search = ms.Search(network(), example(), "flops=50%", steps=60)
    optimizer = sgd(search)
    if follows:
        search.follow(optimizer)
    train(search, optimizer, 3)
    search.model.load_state_dict(network().state_dict(), assign=True)
    with pytest.raises(UsageError, match="another object") as caught:
        train(search, sgd(search), 60)
    assert "assign=True" in caught.value.repair
    with pytest.raises(UsageError, match="another object"):
        search.morph()
    with pytest.raises(UsageError, match="another object"):
        search.follow(sgd(search))
    assert not search.architectures


def test_an_optimizer_that_holds_more_is_named_at_the_morph_and_nothing_changes() -> None:
    search = ms.Search(network(), example(), budget="flops=50%")
    temperature = nn.Parameter(torch.ones(()))
    search.follow(torch.optim.SGD([*search.model.parameters(), temperature], lr=0.1))
    before = search.model
    with pytest.raises(UsageError, match="not the searched network's"):
        search.morph()
    assert search.model is before
    assert not search.architectures


def test_a_run_of_the_users_own_loop_is_saved_and_resumed(tmp_path: Any) -> None:
    search = ms.Search(network(), example(), "flops=50%", run_dir=tmp_path / "a", steps=20)
    train(search, sgd(search), 60)
    found = search.morph(lambda model: {"val_accuracy": 0.5, "val_loss": float("nan")})
    assert found.metrics == {"val_accuracy": 0.5, "val_loss": None}
    events = [line["event"] for line in search.run.events()]
    assert events == ["step", "iteration"]
    again = ms.Search(network(), example(), "flops=50%", run_dir=tmp_path / "a", steps=20, resume=True)
    assert again.architectures == search.architectures
    assert again.total_steps == 60
    for name, value in search.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    with pytest.raises(UsageError, match="already holds a run"):
        ms.Search(network(), example(), "flops=50%", run_dir=tmp_path / "a", steps=20)
    with pytest.raises(UsageError, match="other arguments; budgets"):
        ms.Search(network(), example(), "flops=40%", run_dir=tmp_path / "a", steps=20, resume=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 1.5),
        ("strength", -1),
        ("strength", float("nan")),
        ("threshold", -0.1),
        ("shrink_to", 0),
        ("shrink_to", 1.1),
        ("limit", 0.5),
        ("limit", float("inf")),
        ("round_to", 0),
        ("round_to", True),
        ("warmup", 1.0),
        ("seed", -1),
        ("seed", 2**32),
        ("seed", 2**64),
        ("seed", 0.5),
        ("steps", 10**400),
    ],
)
def test_arguments_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        ms.Search(network(), example(), "flops=50%", **{name: value})
    assert caught.value.repair
