"""Which parameters decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training_fakes import tiny_net

from morphsearch.errors import InputError, UnknownName
from morphsearch.training import Recipe
from morphsearch.training.optimizers import build_optimizer, parameter_groups


def names_without_decay(model: nn.Module, **arguments: object) -> set[str]:
    exempt = [id(p) for g in parameter_groups(model, 0.1, **arguments) if not g["weight_decay"] for p in g["params"]]
    return {name for name, parameter in model.named_parameters() if id(parameter) in exempt}


def test_biases_norms_and_named_parameters_stay_out() -> None:
    plain = {"conv.bias", "norm.weight", "norm.bias", "depthwise.bias", "head.bias"}
    assert names_without_decay(tiny_net()) == plain
    assert names_without_decay(tiny_net(), no_decay={"conv.weight"}) == plain | {"conv.weight"}


def test_every_parameter_is_in_one_group() -> None:
    model = tiny_net()
    grouped = [id(p) for group in parameter_groups(model, 0.1, ["head.weight"]) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_tied_parameter_by_either_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert "0.weight" in names_without_decay(model, no_decay=["1.weight"])


def test_unknown_name_and_nothing_to_train() -> None:
    with pytest.raises(UnknownName, match=r"conv\.weight"):
        parameter_groups(tiny_net(), 0.1, ["conv.weigth"])
    with pytest.raises(InputError):
        parameter_groups(tiny_net().requires_grad_(False), 0.1)


def test_frozen_parameters_are_left_alone() -> None:
    model = tiny_net()
    model.conv.requires_grad_(False)
    assert id(model.conv.weight) not in [id(p) for g in parameter_groups(model, 0.1) for p in g["params"]]


def test_optimizers() -> None:
    sgd = build_optimizer(tiny_net(), Recipe())
    assert isinstance(sgd, torch.optim.SGD)
    assert all(group["nesterov"] for group in sgd.param_groups)
    assert not build_optimizer(tiny_net(), Recipe(momentum=0.0)).param_groups[0]["nesterov"]
    adamw = build_optimizer(tiny_net(), Recipe(optimizer="adamw", lr=1e-3, momentum=0.8))
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["betas"] == (0.8, 0.999)
