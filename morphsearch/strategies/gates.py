"""Gates on units, put on a network from outside: no module is exchanged and no parameter gets another name.

While the network's forward pass runs, the parameters through which units speak (:mod:`~morphsearch.strategies.places`)
are hidden behind themselves times the gates of their units. A module that reads ``self.weight`` reads the product,
whatever it then calls; coupled layers, depthwise ones and concatenations share a unit and so its gate. Between two
passes nothing is left: parameters, their names, their gradients and the optimizer are those of the plain network. Where
a unit speaks at several places one after another (a depthwise block has two norms) its gate counts at each; gates of 0
and 1 are not changed by that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from morphsearch.strategies.places import Place, owners

Source = Callable[[nn.Module], Tensor | None]


def gated(model: nn.Module) -> bool:
    """Whether gates are installed on `model`, or on a part of it."""
    hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
    return any(isinstance(getattr(hook, "__self__", None), Gates) for hook in hooks)


class Gates:
    """Multiplies what units say.

    Args:
        model: the network. places: where its units speak. count: `u`, how many units there are.
        source: called with the network at every forward pass; returns `u` gates, or None where all are open.
    """

    def __init__(self, model: nn.Module, places: Sequence[Place], count: int, source: Source) -> None:
        self.model, self.places, self.count, self.source = model, list(places), count, source
        self._flat = [place for place in self.places if place.tensor.dim() == 1]
        self._wide = [place for place in self.places if place.tensor.dim() != 1]
        found = list(owners(model, {place.name for place in self.places}))
        units = [place.units for place in [*self._flat, *self._wide]]
        joined = np.concatenate(units) if units else np.zeros(0, np.int64)
        self._index = torch.from_numpy(np.where(joined >= 0, joined, count))
        self._sizes = [part.size for part in units]
        self._flat_sizes, self._wide_sizes = self._sizes[: len(self._flat)], self._sizes[len(self._flat) :]
        self._dtypes = {place.tensor.dtype for place in self._flat}
        names = [place.name for place in self._flat] + list(dict.fromkeys(place.name for place in self._wide))
        numbers = {name: number for number, name in enumerate(names)}
        self._hiding = [(owner, attribute, numbers[name]) for name, owner, attribute in found]
        self._hidden = False
        self._hooks: list[RemovableHandle] = []

    @property
    def installed(self) -> bool:
        """Whether the network is gated."""
        return bool(self._hooks)

    def install(self) -> None:
        """Gate every forward pass from now on."""
        if not self._hooks:
            self._hooks = [
                self.model.register_forward_pre_hook(self._before),
                self.model.register_forward_hook(self._after, always_call=True),
            ]

    def remove(self) -> None:
        """Leave the network plain; parameters are as they were all the time."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._uncover()

    @torch.no_grad()
    def fold(self, gates: Tensor) -> None:
        """Multiply the parameters by `u` gates for good."""
        for place, factor in zip([*self._flat, *self._wide], self._joined(gates).split(self._sizes), strict=True):
            place.tensor.mul_(factor.view(place.shape()).to(place.tensor.dtype))

    def _joined(self, gates: Tensor) -> Tensor:
        """The gates of all places, one after another, flat ones first; 1 for slices that belong to no unit that may
        leave."""
        if self._index.device != gates.device:
            self._index = self._index.to(gates.device)
        return torch.cat([gates, gates.new_ones(1)]).index_select(0, self._index)

    def _products(self, gates: Tensor) -> list[Tensor]:
        """The product of every gated parameter. All 1-D parameters take one multiplication together."""
        joined, found = self._joined(gates), []
        flat = joined
        if self._wide:
            flat, wide = joined.split([sum(self._flat_sizes), sum(self._wide_sizes)])
        if self._flat:
            tensors: list[Tensor] = [place.tensor for place in self._flat]
            found += (torch.cat(tensors) * flat).split(self._flat_sizes)
            if self._dtypes != {found[0].dtype}:
                found = [product.to(tensor.dtype) for product, tensor in zip(found, tensors, strict=True)]
        if self._wide:
            products: dict[str, Tensor] = {}
            for place, factor in zip(self._wide, wide.split(self._wide_sizes), strict=True):
                tensor = products.get(place.name, place.tensor)
                products[place.name] = tensor * factor.view(place.shape()).to(tensor.dtype)
            found += products.values()
        return found

    def _before(self, module: nn.Module, args: Any) -> None:
        self._uncover()
        gates = self.source(module)
        if gates is None:
            return
        products = self._products(gates)
        self._hidden = True
        for owner, attribute, number in self._hiding:
            # Found before Module.__getattr__ is asked, which looks parameters up.
            owner.__dict__[attribute] = products[number]

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self._uncover()

    def _uncover(self) -> None:
        if self._hidden:
            for owner, attribute, _ in self._hiding:
                owner.__dict__.pop(attribute, None)
        self._hidden = False
