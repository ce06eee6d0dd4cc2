"""What masked weights would be worth: they go on learning out of sight, and may come back.

Dynamic pruning with feedback (Lin et al., ICLR 2020, arXiv 2006.07253, equation 3): the gradient is that of the network
with its zeros, and moves a dense copy of the weights; masks are chosen anew from that copy. Here the network holds the
weights that stay, and this holds the others: together they are the dense copy, and neither is kept twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from morphsearch.sparsity.bits import clear, fit, pruned_of


class Hidden:
    """The values of masked weights, by parameter name; zero where a weight stays.

    Args:
        parameters: those that are pruned. Their masked values are zero when an optimizer's step begins, so what it
            leaves there is how far that step moved them.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self.values: dict[str, Tensor] = {}

    @torch.no_grad()
    def absorb(self, bits: Mapping[str, Tensor]) -> None:
        """Take over what an optimizer's step did to masked weights; the caller clears them."""
        for name, mask in bits.items():
            parameter = self._parameters[name]
            hidden = self.values.get(name)
            if hidden is None or not fit(mask, hidden):
                hidden = self.values[name] = torch.zeros_like(parameter) if hidden is None else hidden.to(parameter)
            hidden.add_(torch.where(pruned_of(mask), parameter.detach(), 0))

    def dense(self, name: str) -> Tensor:
        """A weight with what is masked of it."""
        parameter, hidden = self._parameters[name].detach(), self.values.get(name)
        return parameter if hidden is None else parameter + hidden.to(parameter)

    @torch.no_grad()
    def show(self) -> None:
        """Put everything back into the network, before other weights are masked."""
        for name, hidden in self.values.items():
            self._parameters[name].add_(hidden.to(self._parameters[name]))
        self.values.clear()

    @torch.no_grad()
    def hide(self, bits: Mapping[str, Tensor]) -> None:
        """Keep what is about to be masked; the caller clears it."""
        for name, mask in bits.items():
            hidden = self._parameters[name].detach().clone()
            clear(hidden, ~mask)
            self.values[name] = hidden
