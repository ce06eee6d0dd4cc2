"""The seed with parameters of units that leave at zero: what a network without them must compute."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from morphsearch.graph.cloning import clone

if TYPE_CHECKING:
    from morphsearch.graph.graph import ConvGraph


def with_zeros(graph: ConvGraph, dropped: np.ndarray, beside: Iterable[str] = ()) -> nn.Module:
    """A copy of the seed in which the parameters' slices of some units are zero, and whole parameters.

    Args:
        dropped: `u` bool, or more.
        beside: names of the whole parameters.
    """
    twin = clone(graph.model, {})
    parameters = dict(twin.named_parameters())
    with torch.no_grad():
        for binding in graph.bindings:
            if binding.tensor in parameters:
                index = np.nonzero((binding.units >= 0) & dropped[np.maximum(binding.units, 0)])[0]
                parameters[binding.tensor].index_fill_(binding.dim, torch.from_numpy(index), 0.0)
        for name in beside:
            if name in parameters:
                parameters[name].zero_()
    return twin
