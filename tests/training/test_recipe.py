"""Recipes: validated, and the same after JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from morphsearch.errors import UnknownName, UsageError
from morphsearch.training import Recipe


def test_survives_json() -> None:
    recipe = Recipe(epochs=2.5, optimizer="adamw", lr=1e-3, clip_norm=1.0, channels_last=True)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_missing_fields_keep_their_defaults() -> None:
    assert Recipe.from_dict({"lr": 0.05}) == Recipe(lr=0.05)


def test_unknown_field_names_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        Recipe.from_dict({"batchsize": 8})
    assert "batch_size" in caught.value.repair
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", math.nan),
        ("epochs", math.inf),
        ("epochs", 1e308),
        ("lr", 1e308),
        ("lr", 1e31),
        ("weight_decay", 1e40),
        ("batch_size", 10**20),
        ("accumulate", 10**400),
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("batch_size", True),
        ("accumulate", 0),
        ("lr", -0.1),
        ("ema", 1.0),
        ("ema", True),
        ("distill", 0),
        ("distill", 1.5),
        ("temperature", 0),
        ("lr", "0.1"),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("warmup", 1.0),
        ("label_smoothing", 1.0),
        ("clip_norm", 0),
        ("augment", "yes"),
        ("channels_last", "always"),
        ("device", ""),
        ("optimizer", "sdg"),
        ("schedule", "cosin"),
        ("precision", "fp16"),
    ],
)
def test_refuses_values_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Recipe.from_dict({field: value})
    assert field in caught.value.arrived
    assert repr(value) in caught.value.arrived
    assert caught.value.rule
    assert caught.value.repair


def test_replace_validates() -> None:
    assert Recipe().replace(lr=0.2).lr == 0.2
    with pytest.raises(UsageError):
        Recipe().replace(lr=0)
    with pytest.raises(UsageError):
        Recipe.from_dict([("lr", 0.1)])  # type: ignore[arg-type]
