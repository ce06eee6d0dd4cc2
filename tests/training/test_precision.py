"""The choice of precision and memory format."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from training_fakes import fake_data, tiny_net

from morphsearch.training import Recipe, Trainer, precision
from morphsearch.training.precision import choose, pick

CPU = torch.device("cpu")


def test_bf16_and_channels_last_must_be_clearly_quicker() -> None:
    fp32, last, bf16 = ("fp32", False), ("fp32", True), ("bf16", True)
    assert pick({fp32: 1.0, last: 0.99, bf16: 0.95}) == fp32
    assert pick({fp32: 1.0, last: 0.8, bf16: 0.79}) == last
    assert pick({fp32: 1.0, last: 0.8, bf16: 0.5}) == bf16


def test_nothing_is_measured_when_nothing_is_open_or_the_training_is_short() -> None:
    model = tiny_net()
    fixed = choose(model, Recipe(precision="bf16", channels_last=True), (3, 8, 8), 3, CPU, 10**9)
    assert (fixed.precision, fixed.channels_last, fixed.measured) == ("bf16", True, {})
    short = choose(model, Recipe(), (3, 8, 8), 3, CPU, 100)
    assert (short.precision, short.channels_last, short.measured) == ("fp32", False, {})


def test_probe_touches_neither_model_nor_random_state_nor_hooks() -> None:
    model = tiny_net()
    seen: list[int] = []
    model.conv.register_forward_hook(lambda *_: seen.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.rand(3)
    state = torch.get_rng_state()
    choice = choose(model, Recipe(), (3, 8, 8), 3, CPU, 10**9)
    assert set(choice.measured) == {"fp32", "fp32 channels_last", "bf16", "bf16 channels_last"}
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert seen == []


def test_fixed_entries_stay_fixed() -> None:
    choice = choose(tiny_net(), Recipe(precision="fp32"), (3, 8, 8), 3, CPU, 10**9)
    assert choice.precision == "fp32"
    assert set(choice.measured) == {"fp32", "fp32 channels_last"}


class NoBf16(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = tiny_net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise NotImplementedError("no kernel")
        return self.net(x)


def test_what_does_not_run_is_not_chosen() -> None:
    assert choose(NoBf16(), Recipe(), (3, 8, 8), 3, CPU, 10**9).precision == "fp32"
    broken = nn.Conv2d(1, 1, 3)  # of the wrong input channels: training itself says so
    assert choose(broken, Recipe(), (3, 8, 8), 3, CPU, 10**9).precision == "fp32"


def test_a_resumed_run_keeps_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    data: Any = fake_data(40)
    recipe = Recipe(epochs=2, batch_size=8)
    monkeypatch.setattr(precision, "WORTH_PROBING_SECONDS", 0)
    monkeypatch.setattr(precision, "pick", lambda measured: ("bf16", True))
    first = Trainer(tiny_net(), data, recipe)
    first.train_epoch()
    monkeypatch.setattr(precision, "pick", lambda measured: ("fp32", False))
    second = Trainer(tiny_net(), data, recipe)
    second.load_state(*first.state())
    for trainer in (first, second):
        trainer.train_epoch()
        assert trainer.choice is not None
        assert (trainer.choice.precision, trainer.choice.channels_last) == ("bf16", True)
    tensors, other = first.state()[0], second.state()[0]
    assert all(torch.equal(value, other[name]) for name, value in tensors.items())
