"""Moving averages of weights, and teachers: what is judged, what is kept, and going on after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_fakes import TinyNet, fake_data, tiny_net

from morphsearch.errors import InputError, StoppedError
from morphsearch.files import read_tensors
from morphsearch.training import Recipe, Trainer, evaluate, retrain
from morphsearch.training.averaging import MovingAverage
from morphsearch.training.outputs import distillation_loss

PLAIN: dict[str, Any] = {"epochs": 3, "batch_size": 8, "lr": 0.1, "precision": "fp32", "channels_last": False}
AVERAGED = Recipe(**PLAIN, ema=0.9)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "weights.safetensors")


def test_the_average_follows_its_rule() -> None:
    model = nn.Linear(1, 1, bias=False).requires_grad_(False)
    average = MovingAverage(model, 0.5)
    expected = float(model.weight)
    for step, value in enumerate((1.0, -2.0, 4.0, 0.5), 1):
        nn.init.constant_(model.weight, value)
        average.update(step)
        expected += (1 - min(0.5, (1 + step) / (10 + step))) * (value - expected)
    with average.applied():
        assert float(model.weight) == pytest.approx(expected)
    assert float(model.weight) == 0.5


def test_what_is_judged_and_kept_is_the_average(tmp_path: Path) -> None:
    data: Any = fake_data(40)
    kept = retrain(TinyNet, data, AVERAGED, seed=1, folder=tmp_path / "average", label="a")
    retrain(TinyNet, data, Recipe(**PLAIN), seed=1, folder=tmp_path / "plain", label="a")
    model = TinyNet()
    model.load_state_dict(weights(tmp_path / "average"))
    assert evaluate(model, data.test).loss == pytest.approx(kept.loss)
    # The training itself is the same: only what is kept of it differs.
    trainer = Trainer(_seeded(), data, AVERAGED, seed=1)
    average = MovingAverage(trainer.model, 0.9)
    trainer.after_step = average.update
    while not trainer.finished:
        trainer.train_epoch()
    own = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert all(torch.equal(own[name], value) for name, value in weights(tmp_path / "plain").items())
    with average.applied():
        for name, value in trainer.model.state_dict().items():
            assert torch.equal(value, weights(tmp_path / "average")[name])
    assert any(not torch.equal(value, own[name]) for name, value in weights(tmp_path / "average").items())


def _seeded() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return TinyNet()


def test_an_average_goes_on_after_an_interruption(tmp_path: Path) -> None:
    def stop(kind: str, payload: dict[str, Any]) -> None:
        if kind == "epoch":
            raise KeyboardInterrupt

    whole = retrain(TinyNet, fake_data(40), AVERAGED, seed=1, folder=tmp_path / "whole", label="a")
    with pytest.raises(StoppedError):
        retrain(TinyNet, fake_data(40), AVERAGED, seed=1, folder=tmp_path / "broken", label="a", on_event=stop)
    again = retrain(lambda: tiny_net(7), fake_data(40), AVERAGED, seed=1, folder=tmp_path / "broken", label="a")
    assert again.loss == whole.loss
    before, after = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_saved_average_of_another_network_is_named() -> None:
    average = MovingAverage(nn.Linear(3, 2), 0.9)
    with pytest.raises(InputError, match="weight"):
        average.load(MovingAverage(nn.Linear(4, 2), 0.9).tensors())
    with pytest.raises(InputError, match="missing"):
        average.load({})


def test_a_teacher_is_followed_and_left_as_it_was(tmp_path: Path) -> None:
    data: Any = fake_data(40)

    class Stubborn(nn.Module):
        """Always of the same opinion."""

        def __init__(self) -> None:
            super().__init__()
            self.scores = nn.Parameter(torch.tensor([8.0, 0.0, 0.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """`n c h w` to `n 3`."""
            assert not self.training
            return self.scores.expand(len(x), 3)

    teacher = Stubborn().train()
    recipe = Recipe(**{**PLAIN, "epochs": 8}, distill=1.0)
    retrain(TinyNet, data, recipe, seed=1, folder=tmp_path / "a", label="a", teacher=lambda: teacher)
    student = TinyNet().eval()
    student.load_state_dict(weights(tmp_path / "a"))
    with torch.no_grad():
        assert (student(data.test.images).argmax(1) == 0).float().mean() > 0.9
    assert teacher.training
    assert teacher.scores.grad is None


def test_the_distance_to_a_teacher() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    p = (theirs / 2).softmax(1)
    by_hand = 4 * (p * (p.log() - (ours / 2).log_softmax(1))).sum(1).mean()
    assert torch.allclose(distillation_loss(ours, theirs, 2.0), by_hand)
    assert float(distillation_loss(theirs, theirs, 4.0)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(InputError, match="classes"):
        distillation_loss(ours, torch.randn(5, 4), 2.0)
