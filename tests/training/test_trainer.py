"""The trainer does what the recipe says, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from training_fakes import FakeData, FakeSplit, TinyNet, fake_data, tiny_net

from morphsearch.errors import DivergedError, InputError, UsageError
from morphsearch.training import Recipe, Trainer
from morphsearch.training.schedules import factor

PLAIN = Recipe(epochs=2, batch_size=8, lr=0.05, precision="fp32", channels_last=False, augment=False)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_learns_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    data: Any = fake_data(96)
    trainer = Trainer(tiny_net(dropout=0.0), data, Recipe(epochs=8, batch_size=8, lr=0.1, optimizer="sgd"))
    stats = [trainer.train_epoch() for _ in range(8)]
    assert trainer.finished
    assert stats[-1].loss < stats[0].loss
    assert trainer.evaluate(data.test).accuracy > 0.9
    assert stats[0].images == 96
    assert stats[0].images_per_second > 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "constant"])
def test_every_step_has_the_rate_of_the_schedule(schedule: str) -> None:
    data: Any = fake_data(40)
    rates: list[float] = []
    trainer = Trainer(
        tiny_net(),
        data,
        PLAIN.replace(schedule=schedule, accumulate=2, warmup=0.3),
        after_step=lambda step: rates.append(trainer.lr),
    )
    while not trainer.finished:
        trainer.train_epoch()
    assert trainer.step == trainer.total_steps == 6
    assert rates == [0.05 * factor(schedule, step, 6, 0.3) for step in range(6)]
    assert trainer.optimizer.param_groups[0]["lr"] == rates[-1]


def test_step_is_plain_torch() -> None:
    """One epoch equals the same loop written by hand."""
    data: Any = fake_data(24)
    model, reference = tiny_net(dropout=0.0), tiny_net(dropout=0.0)
    recipe = PLAIN.replace(epochs=1, warmup=0.0, weight_decay=0.0, label_smoothing=0.1)
    trainer = Trainer(model, data, recipe)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    original = data.train.batches
    data.train.batches = lambda *a, **k: (seen.append(batch) or batch for batch in original(*a, **k))
    trainer.train_epoch()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for step, (images, labels) in enumerate(seen):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / 3))
        nn.functional.cross_entropy(reference(images), labels, label_smoothing=0.1).backward()
        optimizer.step()
        optimizer.zero_grad()
    for own, other in zip(weights(model), weights(reference), strict=True):
        torch.testing.assert_close(own, other)


def test_accumulated_batches_equal_one_large_batch() -> None:
    data: Any = fake_data(24)
    model, reference = (nn.Sequential(nn.Conv2d(3, 3, 8), nn.Flatten()) for _ in range(2))
    reference.load_state_dict(model.state_dict())
    small = Trainer(model, data, PLAIN.replace(accumulate=2))
    small.train_epoch()
    Trainer(reference, data, PLAIN.replace(batch_size=16)).train_epoch()
    assert small.step == 2  # of 2 and of 1 batches of 8, each a mean over its images
    for own, other in zip(weights(model), weights(reference), strict=True):
        torch.testing.assert_close(own, other)


def test_penalty_is_part_of_the_loss_but_not_of_the_figure() -> None:
    data: Any = fake_data(40)
    priced, plain = tiny_net(dropout=0.0), tiny_net(dropout=0.0)
    recipe = PLAIN.replace(weight_decay=0.0)
    stats = [
        Trainer(priced, data, recipe, penalty=lambda: 0.1 * priced.norm.weight.abs().sum()).train_epoch(),
        Trainer(plain, data, recipe).train_epoch(),
    ]
    assert priced.norm.weight.abs().sum() < plain.norm.weight.abs().sum() - 0.1
    assert stats[0].penalty > 0.5
    assert stats[1].penalty == 0
    assert stats[0].loss < 2


def test_no_decay_reaches_the_optimizer() -> None:
    data: Any = fake_data()
    trainer = Trainer(tiny_net(), data, PLAIN, no_decay=["conv.weight"])
    decayed = trainer.optimizer.param_groups[0]["params"]
    assert not any(parameter is trainer.model.conv.weight for parameter in decayed)  # type: ignore[union-attr]
    assert trainer.optimizer.param_groups[0]["weight_decay"] == PLAIN.weight_decay


def test_clipping_bounds_the_step() -> None:
    data: Any = fake_data(8)
    model = tiny_net()
    before = weights(model)
    recipe = PLAIN.replace(epochs=1, momentum=0.0, weight_decay=0.0, warmup=0.0, clip_norm=1e-3)
    Trainer(model, data, recipe).train_epoch()
    moved = torch.stack([(a - b).norm() for a, b in zip(before, weights(model), strict=True)]).norm()
    assert moved == pytest.approx(0.05 * 1e-3, rel=0.02)


def test_fraction_of_an_epoch() -> None:
    data: Any = fake_data(40)
    trainer = Trainer(tiny_net(), data, PLAIN.replace(epochs=1.4))
    images = [trainer.train_epoch().images for _ in range(2)]
    assert trainer.finished
    assert images == [40, 16]
    assert trainer.step == trainer.total_steps == 7
    trainer.train_epoch()
    assert trainer.lr == 0.05 * factor("cosine", 6, 7, 0.05)


@pytest.mark.parametrize("epochs", [1.0, 1.4])
def test_a_state_of_after_the_last_batch_has_only_the_end_left_to_do(epochs: float) -> None:
    data: Any = fake_data(40)
    whole = Trainer(tiny_net(), data, PLAIN.replace(epochs=epochs))
    states = []
    stats = []
    while not whole.finished:
        stats.append(whole.train_epoch(on_batch=lambda t: states.append(t.state())))
    resumed = Trainer(tiny_net(), data, PLAIN.replace(epochs=epochs))
    resumed.load_state(*states[-1])
    assert not resumed.finished
    rest = resumed.train_epoch()
    assert (rest.images, rest.loss, rest.accuracy) == (stats[-1].images, stats[-1].loss, stats[-1].accuracy)
    assert resumed.finished
    assert resumed.step == whole.step
    assert same(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize(("images", "expected"), [(20, 20), (17, 16), (70, 64), (3, 3)])
def test_incomplete_batches(images: int, expected: int) -> None:
    data: Any = fake_data(images)
    assert Trainer(tiny_net(), data, PLAIN).train_epoch().images == expected


def test_random_numbers_of_others_are_neither_used_nor_changed() -> None:
    data: Any = fake_data()
    results = []
    for outer_seed in (1, 2):
        torch.manual_seed(outer_seed)
        model = tiny_net()
        before = torch.get_rng_state()
        trainer = Trainer(model, data, PLAIN.replace(precision="auto", channels_last="auto"), seed=5)
        trainer.train_epoch()
        trainer.evaluate(data.val)
        assert torch.equal(before, torch.get_rng_state())
        results.append(weights(model))
    assert same(*results)
    other = tiny_net()
    Trainer(other, data, PLAIN, seed=6).train_epoch()
    assert not same(results[0], weights(other))


def test_progress_has_its_fields() -> None:
    data: Any = fake_data(40)
    events: list[tuple[str, dict[str, Any]]] = []
    trainer = Trainer(tiny_net(), data, PLAIN, progress=lambda *event: events.append(event), phase="probe")
    trainer.train_epoch()
    trainer.train_epoch()
    assert {kind for kind, _ in events} == {"progress"}
    assert events[-1][1].keys() == {"phase", "done", "total", "unit", "loss", "accuracy"}
    assert (events[-1][1]["done"], events[-1][1]["total"]) == (80, 80)
    assert events[-1][1]["phase"] == "probe"


def test_trainers_of_different_settings_and_a_users_accelerator_live_side_by_side() -> None:
    from accelerate import Accelerator

    data: Any = fake_data(40)
    own = Accelerator(cpu=True, gradient_accumulation_steps=7, mixed_precision="no")
    first = Trainer(tiny_net(), data, PLAIN.replace(accumulate=5, device="cpu"))
    second = Trainer(tiny_net(), data, PLAIN.replace(precision="bf16", device="cpu"))
    seen: list[torch.dtype] = []
    second.model.conv.register_forward_hook(lambda *a: seen.append(a[2].dtype))  # type: ignore[operator, union-attr]
    for _ in range(2):
        first.train_epoch()
        second.train_epoch()
    assert (first.step, second.step) == (2, 10)
    assert set(seen) == {torch.bfloat16}
    assert own.gradient_accumulation_steps == 7
    assert own.mixed_precision == "no"


def test_model_is_left_as_it_was_made() -> None:
    data: Any = fake_data()
    model = tiny_net()
    attributes = set(vars(model))
    parameters = [id(parameter) for parameter in model.parameters()]
    trainer = Trainer(model, data, PLAIN.replace(channels_last=True, precision="bf16"))
    trainer.train_epoch()
    assert trainer.model is model
    assert set(vars(model)) == attributes
    assert [id(parameter) for parameter in model.parameters()] == parameters
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_another_model_can_be_adopted_between_batches() -> None:
    data: Any = fake_data(40)
    other = tiny_net(1)
    trainer = Trainer(tiny_net(), data, PLAIN)

    def on_batch(t: Trainer) -> None:
        if t.batch == 2 and t.model is not other:
            t.adopt(other, torch.optim.SGD(other.parameters(), lr=0.1))

    before = weights(other)
    trainer.train_epoch(on_batch=on_batch)
    assert trainer.model is other
    assert not same(before, weights(other))
    assert "model/conv.weight" in trainer.state()[0]


class TestDivergence:
    def test_high_rate(self) -> None:
        data: Any = fake_data(200)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 3))
        with torch.no_grad():
            model[0].weight.mul_(1e3)
        trainer = Trainer(model, data, PLAIN.replace(lr=1e6, epochs=20, warmup=0.0, momentum=0.99))
        with pytest.raises(DivergedError) as caught:
            for _ in range(20):
                trainer.train_epoch()
        assert "not finite" in caught.value.arrived
        assert "warm-up" in caught.value.repair
        assert "clip" in caught.value.repair
        assert "fp32" not in caught.value.repair
        assert caught.value.exit_code == 5
        assert all(parameter.isfinite().all() for parameter in model.parameters())

    @pytest.mark.parametrize("poisoned", [3, 25, 60])
    def test_last_good_state_is_restored(self, poisoned: int) -> None:
        data: Any = fake_data(40 * 8)
        model = tiny_net()
        calls = 0

        def penalty() -> torch.Tensor:
            nonlocal calls
            calls += 1
            return torch.tensor(math.nan if calls == poisoned else 0.0) * model.norm.weight.sum()

        trainer = Trainer(model, data, PLAIN, penalty=penalty)
        states = [trainer.state()]
        with pytest.raises(DivergedError):
            while not trainer.finished:
                trainer.train_epoch()
                states.append(trainer.state())
        tensors, state = trainer.state()
        assert (trainer.epoch, trainer.batch) == (len(states) - 1, 0)
        assert all(torch.equal(value, tensors[name]) for name, value in states[-1][0].items())
        assert state["step"] == trainer.step == states[-1][1]["step"]
        calls = poisoned  # the cause is gone: training goes on
        assert math.isfinite(trainer.train_epoch().loss)

    def test_a_diverged_state_is_not_given_out(self) -> None:
        data: Any = fake_data(80)
        model = tiny_net()

        def on_batch(trainer: Trainer) -> None:
            with torch.no_grad():
                model.conv.bias.fill_(math.inf)
            trainer.state()

        with pytest.raises(DivergedError, match="a weight"):
            Trainer(model, data, PLAIN).train_epoch(on_batch=on_batch)
        assert model.conv.bias.isfinite().all()


def test_unusable_devices_and_data() -> None:
    data: Any = fake_data()
    for device in ("cuda:99", "gpu"):
        with pytest.raises(UsageError) as caught:
            Trainer(tiny_net(), data, PLAIN.replace(device=device))
        assert device in caught.value.arrived
    empty: Any = FakeData(FakeSplit(torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64), 3), data.val, None)
    with pytest.raises(InputError, match="no images"):
        Trainer(tiny_net(), empty, PLAIN)


def test_data_that_ends_early_is_named() -> None:
    data: Any = fake_data(40)
    data.train.batches = lambda *a, **k: iter([(data.train.images[:8], data.train.labels[:8])] * 2)
    with pytest.raises(InputError, match="after 2 of 5 batches"):
        Trainer(TinyNet(), data, PLAIN).train_epoch()
