"""The last training pass of a network once more, with other gates, held to what it gave the first time.

A strategy that trains several networks in one has only the loop's own pass to begin with: it sees neither the labels
nor the loss. What it can do is to keep the inputs and what came out, and to run the network again on the same inputs so
that the outputs match: distillation in place (Yu and Huang, arXiv 1903.05134, section 3.2), which needs no labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from morphsearch.errors import UsageError

#: What the outputs are: scores of classes along dimension 1, or numbers.
MATCHES = ("classes", "numbers")


class LastPass:
    """Keeps the last pass with gradient in training mode, and repeats it.

    Args:
        model: the network. match: how outputs are compared, one of :data:`MATCHES`.
        examples: the share of a batch that is repeated, its first ones.
    """

    def __init__(self, model: nn.Module, match: str, examples: float = 1.0) -> None:
        self.model, self.match, self.examples = model, match, examples
        self._kept: tuple[tuple[Any, ...], dict[str, Any], list[Tensor], tuple[str, bool, torch.dtype]] | None = None
        self._repeating = False
        self._hook: RemovableHandle | None = None

    def install(self) -> None:
        """Keep passes from now on."""
        if self._hook is None:
            self._hook = self.model.register_forward_hook(self._keep, with_kwargs=True)

    def remove(self) -> None:
        """Keep nothing any more."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._kept = None

    def forget(self) -> None:
        """Let go of the inputs."""
        self._kept = None

    @property
    def kept(self) -> bool:
        """Whether there is a pass to repeat."""
        return self._kept is not None

    @property
    def repeating(self) -> bool:
        """Whether the pass under way is one of :meth:`again`."""
        return self._repeating

    def again(self) -> Tensor:
        """Scalar: how far what the network gives now is from what it gave; with gradient for the pass of now.

        For classes the cross-entropy with the former outputs' softmax, a mean over examples and places; for numbers the
        mean squared difference. Running statistics of batch norms stay as they are.

        Raises:
            UsageError: no output has classes, or numbers.
        """
        assert self._kept is not None
        args, kwargs, wanted, (device, enabled, dtype) = self._kept
        self._repeating = True
        try:
            with _norms_kept(self.model), torch.autocast(device, dtype=dtype, enabled=enabled):
                given = _tensors(self.model(*args, **kwargs))
        finally:
            self._repeating = False
        pairs = zip(given, wanted, strict=False)
        parts = [self._apart(now, then) for now, then in pairs if self._says_something(now, then)]
        if not parts:
            raise UsageError(
                f"outputs of the shapes {', '.join(str(tuple(one.shape)) for one in given) or '(no tensor)'}",
                "narrow networks learn from scores of classes along dimension 1 of an output",
                "give the strategy the option match='numbers', or use another strategy",
            )
        return torch.stack(parts).sum()

    def _says_something(self, now: Tensor, then: Tensor) -> bool:
        return now.shape == then.shape and (self.match != "classes" or (now.dim() > 1 and now.shape[1] > 1))

    def _apart(self, now: Tensor, then: Tensor) -> Tensor:
        if self.match == "classes":
            return F.cross_entropy(now.float(), then.float().softmax(1))
        return F.mse_loss(now.float(), then.float())

    def _keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._repeating or not (module.training and torch.is_grad_enabled()):
            return
        outputs = [tensor.detach() for tensor in _tensors(output)]
        device = outputs[0].device.type if outputs else "cpu"
        cast = (device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        args, kwargs, outputs = _first((args, kwargs, outputs), self.examples)
        self._kept = (args, kwargs, outputs, cast)


def _first(passed: Any, share: float) -> Any:
    """A pass of a share of its examples, two at least; all of it where the outputs do not say how many there are."""
    _, _, outputs = passed
    counts = {tensor.shape[:1] for tensor in outputs}
    if share >= 1 or len(counts) != 1 or counts == {()}:
        return passed
    (size,) = counts.pop()
    part = min(size, max(2, round(share * size)))
    return tree_map_only(Tensor, lambda one: one[:part] if one.shape[:1] == (size,) else one, passed)


def _tensors(output: Any) -> list[Tensor]:
    """The tensors of real numbers in an output, nested or not, in order."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        return [tensor for value in output.values() for tensor in _tensors(value)]
    if isinstance(output, tuple | list):
        return [tensor for value in output for tensor in _tensors(value)]
    return []


@contextmanager
def _norms_kept(model: nn.Module) -> Iterator[None]:
    """Batch norms take the statistics of the batch and do not remember them."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    before = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, momentum, count in zip(norms, before, counts, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
