"""Optimizers and which parameters they decay."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from morphsearch.errors import InputError, UnknownName
from morphsearch.training.recipe import Recipe


def parameter_groups(model: nn.Module, weight_decay: float, no_decay: Collection[str] = ()) -> list[dict[str, Any]]:
    """Two groups: weights that decay, and those that do not.

    Out of weight decay stay: every parameter with fewer than two dimensions (norm scales and shifts, biases, layer
    scales), every parameter called ``bias`` whatever its shape, and everything in `no_decay` (the parameters that a
    strategy regularizes itself; decay would add an unpriced penalty). A tied parameter counts once; any of its names
    will do.

    Raises:
        UnknownName: a name in `no_decay` that the model does not have.
        InputError: no parameter is trainable.
    """
    by_name = dict(model.named_parameters(remove_duplicate=False))
    for name in no_decay:
        if name not in by_name:
            raise UnknownName.of("parameter", name, by_name)
    exempt = {id(by_name[name]) for name in no_decay}
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        keep_out = parameter.ndim < 2 or name.rpartition(".")[2] == "bias" or id(parameter) in exempt
        (others if keep_out else decayed).append(parameter)
    if not decayed and not others:
        raise InputError(
            f"{type(model).__name__} has no trainable parameter",
            "training changes parameters with requires_grad=True",
            "pass a network with layers, or unfreeze some of its parameters",
        )
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, recipe: Recipe, no_decay: Collection[str] = ()) -> torch.optim.Optimizer:
    """The recipe's optimizer over :func:`parameter_groups`."""
    groups = parameter_groups(model, recipe.weight_decay, no_decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
