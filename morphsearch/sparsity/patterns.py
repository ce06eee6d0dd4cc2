"""What leaves together: single weights, blocks, or M - N of every M neighbours.

A weight of any layer is seen as `k` matrices of `o` outputs by `i` inputs, one a kernel position (`k` = 1 for linear).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from morphsearch.errors import UnknownName, UsageError
from morphsearch.sparsity.targets import Weight

POOLS = ("mean", "max")


def matrices(tensor: Tensor, weight: Weight) -> Tensor:
    """`tensor`, of the weight's shape, as `k o i`."""
    rest = [dim for dim in range(tensor.ndim) if dim not in (weight.outputs, weight.inputs)]
    moved = tensor.permute(*rest, weight.outputs, weight.inputs)
    return moved.reshape(-1, *moved.shape[-2:])


def unmatrices(tensor: Tensor, weight: Weight) -> Tensor:
    """`k o i` back in the weight's shape."""
    shape = weight.parameter.shape
    order = [dim for dim in range(len(shape)) if dim not in (weight.outputs, weight.inputs)]
    order += [weight.outputs, weight.inputs]
    moved = tensor.reshape([shape[dim] for dim in order])
    return moved.permute([order.index(dim) for dim in range(len(shape))])


class Pattern(ABC):
    """Pools the saliency of weights into that of the units that leave together, and spreads decisions back."""

    def check(self, weights: Sequence[Weight]) -> None:  # noqa: B027
        """Raise UsageError where a weight does not take this pattern."""

    @abstractmethod
    def pool(self, saliency: Tensor, weight: Weight) -> Tensor:
        """Saliency of every unit, in any shape."""

    @abstractmethod
    def spread(self, units: Tensor, weight: Weight) -> Tensor:
        """Bool units in the shape that :meth:`pool` gave, as bools in the weight's shape."""


class Single(Pattern):
    """Every weight by itself."""

    def pool(self, saliency: Tensor, weight: Weight) -> Tensor:
        """As it is."""
        return saliency

    def spread(self, units: Tensor, weight: Weight) -> Tensor:
        """As it is."""
        return units


@dataclass(frozen=True)
class Block(Pattern):
    """Blocks of `rows` outputs by `columns` inputs at one kernel position; smaller ones at the edges.

    Their saliency is the mean or the maximum of their weights', as in Keras' pruning (which takes 2-D weights only).
    """

    rows: int
    columns: int
    how: str = "mean"

    def __post_init__(self) -> None:
        if self.how not in POOLS:
            raise UnknownName.of("pool", str(self.how), POOLS)

    def check(self, weights: Sequence[Weight]) -> None:
        """A block larger than a whole matrix is refused."""
        for weight in weights:
            outputs, inputs = weight.parameter.shape[weight.outputs], weight.parameter.shape[weight.inputs]
            if self.rows > outputs or self.columns > inputs:
                raise UsageError(
                    f"blocks of {self.rows} x {self.columns} in {weight.name}, {outputs} outputs by {inputs} inputs",
                    "a block fits into the layer",
                    f"take smaller blocks, or exclude the layer (--exclude {weight.layer or weight.name})",
                )

    def pool(self, saliency: Tensor, weight: Weight) -> Tensor:
        """`k o/rows i/columns`."""
        found = matrices(saliency, weight).unsqueeze(1)
        size = (self.rows, self.columns)
        if self.how == "max":
            return F.max_pool2d(found, size, ceil_mode=True).squeeze(1)
        return F.avg_pool2d(found, size, ceil_mode=True, count_include_pad=False).squeeze(1)

    def spread(self, units: Tensor, weight: Weight) -> Tensor:
        """Every block as its weights."""
        outputs, inputs = weight.parameter.shape[weight.outputs], weight.parameter.shape[weight.inputs]
        full = units.repeat_interleave(self.rows, 1).repeat_interleave(self.columns, 2)
        return unmatrices(full[:, :outputs, :inputs], weight)


@dataclass(frozen=True)
class NofM:
    """At most `n` of every `m` weights along the input channels are not zero (2:4: what sparse tensor cores take).

    On its way there a schedule keeps m - 1, m - 2, ... of them, the same number in every group of m.
    """

    n: int
    m: int

    @property
    def sparsity(self) -> float:
        """The final one."""
        return 1 - self.n / self.m

    def check(self, weights: Sequence[Weight]) -> None:
        """Refuse layers whose input channels are no multiple of m."""
        bad = [weight for weight in weights if weight.group_inputs % self.m]
        if bad:
            shown = ", ".join(f"{one.layer or one.name} ({one.group_inputs})" for one in bad[:4])
            more = f" and {len(bad) - 4} more" if len(bad) > 4 else ""
            layers = " ".join(f"--exclude {one.layer or one.name}" for one in bad[:4])
            raise UsageError(
                f"{self.n}:{self.m} does not divide the input channels of {shown}{more}",
                f"N:M needs layers whose input channels (of a group) are a multiple of {self.m}",
                f"leave them dense: {layers}{' ...' if more else ''}",
            )

    def mask(self, saliency: Tensor, weight: Weight, sparsity: float) -> Tensor:
        """Bool in the weight's shape, True where a weight leaves."""
        keep = max(self.n, self.m - int(sparsity * self.m + 1e-9))
        grouped = matrices(saliency, weight)
        grouped = grouped.reshape(*grouped.shape[:-1], -1, self.m)
        order = grouped.sort(dim=-1, descending=True, stable=True).indices
        leaves = torch.ones_like(grouped, dtype=torch.bool).scatter_(-1, order[..., :keep], False)
        return unmatrices(leaves.flatten(-2), weight)
