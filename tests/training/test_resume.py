"""A resumed training equals an uninterrupted one, to the bit, wherever it was interrupted."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_fakes import fake_data, tiny_net

from morphsearch.errors import InputError, UsageError
from morphsearch.training import EpochStats, Recipe, Trainer, load_checkpoint, save_checkpoint

DATA: Any = fake_data(44)  # batches of 6: 7 full ones and 2 images left, so that the last optimizer step is smaller
BASE = Recipe(epochs=2.5, batch_size=6, lr=0.05, precision="fp32", channels_last=False)


class Interrupted(Exception):
    pass


def figures(stats: EpochStats) -> tuple[float, ...]:
    return stats.loss, stats.accuracy, stats.images, stats.penalty


def trainer_of(recipe: Recipe, seed: int) -> Trainer:
    model = tiny_net(seed)
    return Trainer(model, DATA, recipe, seed=3, penalty=lambda: 1e-3 * model.norm.weight.abs().sum())


def run(trainer: Trainer, stop_at: int | None = None) -> list[tuple[float, ...]]:
    """Train to the end; with `stop_at`, until so many batches were trained altogether, then break off."""
    stats = []

    def on_batch(t: Trainer) -> None:
        if stop_at is not None and t.epoch * t.batches_per_epoch + t.batch == stop_at:
            raise Interrupted

    while not trainer.finished:
        stats.append(figures(trainer.train_epoch(on_batch=on_batch)))
    return stats


def assert_same_state(left: Trainer, right: Trainer) -> None:
    left_tensors, left_state = left.state()
    right_tensors, right_state = right.state()
    assert left_tensors.keys() == right_tensors.keys()
    for name, value in left_tensors.items():
        assert torch.equal(value, right_tensors[name]), name
    assert {**left_state, "seconds": 0} == {**right_state, "seconds": 0}


@settings(max_examples=15)
@given(
    st.integers(1, 19),
    st.sampled_from(["sgd", "adamw"]),
    st.sampled_from(["cosine", "onecycle"]),
    st.integers(1, 3),
    st.sampled_from([("fp32", False), ("fp32", True), ("bf16", True)]),
    st.sampled_from([None, 0.5]),
)
def test_resumed_equals_uninterrupted(
    stop_at: int, optimizer: str, schedule: str, accumulate: int, kind: tuple[str, bool], clip: float | None
) -> None:
    recipe = BASE.replace(
        optimizer=optimizer,
        lr=0.05 if optimizer == "sgd" else 0.005,
        schedule=schedule,
        accumulate=accumulate,
        precision=kind[0],
        channels_last=kind[1],
        clip_norm=clip,
    )
    whole = trainer_of(recipe, seed=0)
    expected = run(whole)

    broken = trainer_of(recipe, seed=0)
    with pytest.raises(Interrupted):
        run(broken, stop_at)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), *broken.state())
        saved = load_checkpoint(Path(folder))
    assert saved is not None
    torch.manual_seed(stop_at)  # whatever else happens to torch's random state does not matter
    resumed = trainer_of(recipe, seed=99)  # other weights, all replaced
    resumed.load_state(*saved)
    rest = run(resumed)
    assert rest == expected[len(expected) - len(rest) :]
    assert_same_state(whole, resumed)


def test_saving_and_evaluating_change_nothing() -> None:
    plain, watched = trainer_of(BASE, 0), trainer_of(BASE, 0)
    expected = run(plain)

    def on_batch(t: Trainer) -> None:
        t.state()
        t.evaluate(DATA.val)

    found = []
    while not watched.finished:
        found.append(figures(watched.train_epoch(on_batch=on_batch)))
        torch.rand(3)
    assert found == expected
    assert_same_state(plain, watched)


def test_stop_pauses_within_an_epoch() -> None:
    plain, paused = trainer_of(BASE, 0), trainer_of(BASE, 0)
    expected = run(plain)
    part = paused.train_epoch(on_batch=lambda t: t.stop() if t.batch == 3 else None)
    assert (paused.epoch, paused.batch, part.images) == (0, 3, 18)
    assert run(paused) == expected
    assert_same_state(plain, paused)


def test_state_of_half_a_batch_is_refused() -> None:
    model = tiny_net()

    def penalty() -> torch.Tensor:
        raise Interrupted

    trainer = Trainer(model, DATA, BASE, penalty=penalty)
    with pytest.raises(Interrupted):
        trainer.train_epoch()
    assert not trainer.between_batches
    with pytest.raises(UsageError):
        trainer.state()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, s: (t, {**s, "seed": 4}), "seed=4 instead of 3"),
        (lambda t, s: (t, {**s, "recipe": {**s["recipe"], "lr": 1}}), "lr=1 instead of 0.05"),
        (lambda t, s: (t, {**s, "train_images": 7}), "7 images"),
        (lambda t, s: (t, {k: v for k, v in s.items() if k != "batch"}), "'batch'"),
        (lambda t, s: ({k: v for k, v in t.items() if k != "rng/cpu"}, s), "rng/cpu"),
        (lambda t, s: ({**t, "model/conv.weight": torch.zeros(4, 3, 3, 3)}, s), "[4, 3, 3, 3] instead of [8, 3, 3, 3]"),
        (lambda t, s: ({k: v for k, v in t.items() if "head.bias" not in k}, s), "head.bias is missing"),
        (lambda t, s: ({**t, "model/other": torch.zeros(1)}, s), "other is not in this network"),
        (lambda t, s: ({**t, "optimizer/other/step": torch.zeros(1)}, s), "'other'"),
        (lambda t, s: (t, {**s, "choice": {"speed": 3}}), "cannot be used"),
    ],
)
def test_state_of_another_training_is_refused(change: Any, words: str) -> None:
    trainer = trainer_of(BASE, 0)
    trainer.train_epoch()
    tensors, state = change(*trainer.state())
    with pytest.raises(InputError) as caught:
        trainer_of(BASE, 0).load_state(tensors, state)
    assert words in caught.value.arrived
    assert caught.value.repair
