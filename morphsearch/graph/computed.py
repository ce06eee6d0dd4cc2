"""Weights that are computed from others: weight and spectral normalisation, and any other parametrization.

A layer's own initialisation writes to its weight. Where that is computed anew before every call, from parameters that
the layer does not know, what was written is lost; here it is handed on to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

POWER_ITERATIONS = 15  # as when spectral normalisation is put on a layer


@contextmanager
def computed_weights(module: nn.Module) -> Iterator[None]:
    """While this lasts, what is written to the computed weights of `module` itself stays; afterwards the parameters
    behind them have the values that give it."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, (WeightNorm, SpectralNorm))]
    names = list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[arg-type]
    if not hooks and not names:
        yield
        return
    for hook in hooks:
        hook(module, ())  # its weight, at the size that it has by now
    with parametrize.cached():
        yield
        written = {name: getattr(module, name).detach().clone() for name in names}
    for name, value in written.items():
        setattr(module, name, value)
    with torch.no_grad():
        for hook in hooks:
            _hand_on(module, hook)
    _settle(module, hooks, names)


def _hand_on(module: nn.Module, hook: Any) -> None:
    weight: Tensor = getattr(module, hook.name)
    if isinstance(hook, WeightNorm):
        getattr(module, f"{hook.name}_g").copy_(torch.norm_except_dim(weight, 2, hook.dim))
        getattr(module, f"{hook.name}_v").copy_(weight)
    else:
        getattr(module, f"{hook.name}_orig").copy_(weight)


def _settle(module: nn.Module, hooks: list[Any], names: list[str]) -> None:
    """Let estimates that follow a weight from step to step (its largest singular value) catch up."""
    holders = [module, *(part for name in names for part in module.parametrizations[name].modules())]  # type: ignore
    modes = [holder.training for holder in holders]
    try:
        for holder in holders:
            holder.training = True
        with torch.no_grad():
            for _ in range(POWER_ITERATIONS):
                for name in names:
                    getattr(module, name)
                for hook in hooks:
                    hook(module, ())
    finally:
        for holder, mode in zip(holders, modes, strict=True):
            holder.training = mode


__all__ = ["computed_weights"]
