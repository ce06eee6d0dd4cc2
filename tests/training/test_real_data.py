"""The trainer on what the data package gives."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from morphsearch.data import as_splits, load
from morphsearch.training import Recipe, Trainer, reestimate_batchnorm

RECIPE = Recipe(epochs=1.5, batch_size=64, precision="fp32", channels_last=False)


def small_net() -> nn.Module:
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(512, 10))


def assert_resumes_exactly(data: object, recipe: Recipe, at: int) -> None:
    torch.manual_seed(0)
    whole, resumed = (Trainer(small_net(), data, recipe) for _ in range(2))  # type: ignore[arg-type]
    saved = []
    while not whole.finished:
        whole.train_epoch(on_batch=lambda t: saved.append(t.state()) if t.batch == at and not saved else None)
    resumed.load_state(*saved[0])
    while not resumed.finished:
        resumed.train_epoch()
    found = resumed.state()[0]
    assert all(torch.equal(value, found[name]) for name, value in whole.state()[0].items())


def test_digits_with_augmentation_resume_within_an_epoch() -> None:
    data = load("digits", seed=0)
    assert_resumes_exactly(data, RECIPE, at=7)
    trainer = Trainer(small_net(), data, RECIPE.replace(epochs=3, lr=0.05))
    for _ in range(3):
        trainer.train_epoch()
    reestimate_batchnorm(trainer.model, data.train)
    assert trainer.evaluate(data.val).accuracy > 0.8


def test_a_loader_keeps_its_own_batch_size() -> None:
    digits = load("digits", seed=0)
    images, labels = next(iter(digits.train.batches(200)))
    loader = DataLoader(TensorDataset(images, labels), batch_size=30, shuffle=True)
    data = as_splits(loader, loader, classes=digits.classes)
    trainer = Trainer(small_net(), data, RECIPE)
    assert trainer.batches_per_epoch == 7
    assert trainer.train_epoch().images == 200
    assert_resumes_exactly(data, RECIPE, at=3)
