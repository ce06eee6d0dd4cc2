"""An optimizer that goes on after a rewrite: its parameters are exchanged, its state loses the same slices."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from morphsearch.errors import UsageError
from morphsearch.graph.rewrite import Plan, gathered


def rebind(optimizer: torch.optim.Optimizer, before: nn.Module, after: nn.Module, plan: Plan) -> None:
    """Make `optimizer`, which holds parameters of `before`, hold those of `after`.

    State tensors of a parameter's shape (momentum, moments) are gathered like the parameter; others are kept.

    Raises:
        UsageError: the optimizer holds a parameter that is not the network's.
    """
    names: dict[int, str] = {id(parameter): name for name, parameter in before.named_parameters()}
    fresh = dict(after.named_parameters())
    slots: dict[str, list[int]] = defaultdict(list)
    for name, dim in plan.gather:
        slots[name].append(dim)
    state: dict[Tensor, dict[str, object]] = {}
    for group in optimizer.param_groups:
        replaced = []
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise UsageError(
                    "the optimizer holds a parameter that is not the searched network's",
                    "follow() exchanges the network's parameters as units leave",
                    "give other parameters an optimizer of their own",
                )
            name = names[id(parameter)]
            new = fresh[name]
            replaced.append(new)
            old_state = optimizer.state.get(parameter)
            if old_state:
                dims = [(dim, plan.gather[name, dim]) for dim in slots[name]]
                state[new] = {
                    key: gathered(value, dims)
                    if isinstance(value, Tensor) and value.shape == parameter.shape
                    else value
                    for key, value in old_state.items()
                }
        group["params"] = replaced
    optimizer.state.clear()
    optimizer.state.update(state)
