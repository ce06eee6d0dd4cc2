"""An optimizer under masks: neither its gradients nor its state move a weight that is zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch.errors import UsageError
from morphsearch.sparsity.bits import clear

REPAIR = "use SGD, Adam, AdamW or another optimizer that keeps its state for each weight"


class Followed:
    """One optimizer.

    Args:
        optimizer: holds all or some of the weights.
        weights: those that are pruned, by name.
        bits: the mask of a name, see :mod:`morphsearch.sparsity.bits`; None for a weight without.

    Raises:
        UsageError: it holds none of the weights, or keeps no state for single weights.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        weights: Mapping[str, nn.Parameter],
        bits: Callable[[str], Tensor | None],
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UsageError(
                f"follow() got a {type(optimizer).__name__}", "it follows a torch.optim.Optimizer", "pass the optimizer"
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise UsageError(
                "LBFGS cannot be followed",
                "its state is one history over all weights, of which masked ones cannot be taken out",
                REPAIR,
            )
        held = {id(one) for group in optimizer.param_groups for one in group["params"]}
        self.optimizer, self._bits = optimizer, bits
        self.weights = {name: one for name, one in weights.items() if id(one) in held}
        if not self.weights:
            raise UsageError(
                "the optimizer holds none of the weights that are pruned",
                "follow() takes an optimizer of this network's parameters",
                "build it over model.parameters(), of the model that was passed to Sparsifier",
            )
        self._checked = False
        self._handle = optimizer.register_step_pre_hook(self._before_step)

    def check(self) -> None:
        """Once there is a state: refuse one that is not a value for each weight.

        Raises:
            UsageError: a state tensor is neither a number nor of the weight's shape.
        """
        if self._checked:
            return
        for name, weight in self.weights.items():
            for key, value in self._state(weight).items():
                if isinstance(value, Tensor) and value.numel() > 1 and value.shape != weight.shape:
                    kind = type(self.optimizer).__name__
                    raise UsageError(
                        f"{kind} cannot be followed: its state {key!r} of {name} has the shape {list(value.shape)}, "
                        f"the weight {list(weight.shape)}",
                        "masked weights leave the state too, so it must have a value for each weight",
                        f"{REPAIR}; or don't follow it: weights stay zero all the same, its state is left alone",
                    )
                self._checked = True

    @torch.no_grad()
    def mask_state(self) -> None:
        """Zero the state (momentum, moments) of every masked weight. It stays zero, since gradients are masked."""
        for name, weight in self.weights.items():
            bits = self._bits(name)
            if bits is None:
                continue
            for value in self._state(weight).values():
                if isinstance(value, Tensor) and value.shape == weight.shape and value.layout is torch.strided:
                    clear(value, bits)

    def release(self) -> None:
        """Let the optimizer go."""
        self._handle.remove()

    def _state(self, weight: nn.Parameter) -> dict[str, Any]:
        found: dict[str, Any] = self.optimizer.state.get(weight, {})
        return found

    @torch.no_grad()
    def _before_step(self, *arguments: Any) -> None:
        for name, weight in self.weights.items():
            bits = self._bits(name)
            if bits is not None and weight.grad is not None and weight.grad.layout is torch.strided:
                clear(weight.grad, bits)
