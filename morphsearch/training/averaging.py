"""A moving average of the weights, which is judged and kept instead of the last ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from morphsearch.errors import InputError

PREFIX = "average/"


class MovingAverage:
    """Exponential moving average of all real and complex parameters and buffers (batch-norm statistics included).

    After step `t` the average moves by ``1 - min(decay, (1 + t) / (10 + t))`` towards the weights, so that it does not
    hang on to those of the first steps; as ``tf.train.ExponentialMovingAverage`` does with `num_updates`.

    Args:
        model: whose weights are averaged; the average begins with what they are now.
        decay: in (0, 1); 0.999 looks back over a thousand steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self._kept = {name: value.detach().clone() for name, value in self._present().items()}

    def _present(self) -> dict[str, Tensor]:
        state = self.model.state_dict()
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        return {name: value for name, value in tensors.items() if value.is_floating_point() or value.is_complex()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step number `step` (1 for the first)."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._kept.values()), list(self._present().values()), share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights, and afterwards its own again."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for own, kept in zip(self._present().values(), self._kept.values(), strict=True):
            before = own.clone()
            own.copy_(kept)
            kept.copy_(before)

    def tensors(self) -> dict[str, Tensor]:
        """Copies, ``average/<name>``."""
        return {PREFIX + name: value.clone() for name, value in self._kept.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`tensors`.

        Raises:
            InputError: they are of another network, or there are none.
        """
        for name, value in self._kept.items():
            found = tensors.get(PREFIX + name)
            if found is None or found.shape != value.shape:
                arrived = "missing" if found is None else f"of shape {tuple(found.shape)}"
                raise InputError(
                    f"the saved average of {name} is {arrived}",
                    f"it has shape {tuple(value.shape)}",
                    "take a checkpoint that is whole, or start again without it",
                )
            value.copy_(found)


__all__ = ["PREFIX", "MovingAverage"]
