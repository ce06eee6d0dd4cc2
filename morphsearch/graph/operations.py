"""Operations of a recording, with sizes as functions of the widths."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from morphsearch.graph.extent import Extent
from morphsearch.graph.labels import Labels, fraction
from morphsearch.graph.resolve import Resolution
from morphsearch.graph.tape import RawOperation


class TensorShape:
    """A tensor of the recording: its `shape`, and `numel` as a function of the widths."""

    def __init__(self, labels: Labels, resolution: Resolution) -> None:
        self.shape = labels.shape
        self._labels, self._resolution = labels, resolution

    @cached_property
    def numel(self) -> Extent:
        """Number of elements; of an outer product as far as the units of its first side say."""
        return self._counted(self._labels)

    @cached_property
    def other_numel(self) -> Extent | None:
        """The same of the second side of an outer product; None for other tensors."""
        labels = self._labels
        return None if labels.second is None else self._counted(Labels(labels.second, labels.shape))

    def _counted(self, labels: Labels) -> Extent:
        ids = np.asarray(labels.ids).reshape(-1)
        units = np.where(ids > 0, self._resolution.unit_of[np.maximum(ids, 0)], -1)
        return extent_of(units, self._resolution, fraction(labels))

    @property
    def outer(self) -> bool:
        """An outer product of channels: every element belongs to two units, and :attr:`numel` knows one of them."""
        return self._labels.second is not None

    def size(self, dim: int) -> Extent:
        """Size of dimension `dim`."""
        for ids in (self._labels.ids, self._labels.second):
            if ids is not None and ids.shape[dim] > 1:
                line = ids.movedim(dim, 0).flatten(1)[:, 0].numpy()
                units = np.where(line > 0, self._resolution.unit_of[np.maximum(line, 0)], -1)
                return extent_of(units, self._resolution)
        return Extent(float(self.shape[dim]))


@dataclass
class Operation:
    """One operation of the network in evaluation mode, in the order of execution.

    Args:
        name: unique; the module path and what it does.
        kind: "conv", "linear", "batch_norm", ... or the plain ATen name.
        module: path of the module that ran it.
        parameters: role ("weight", "bias", ...) to parameter name.
        attrs: facts such as kernel, stride, groups, spatial sizes.
        inputs, outputs: activations.
        rows, columns: size of the weight's output and input dimension (per convolution group), where there is a weight.
    """

    name: str
    kind: str
    module: str
    parameters: dict[str, str]
    attrs: dict[str, Any]
    inputs: tuple[TensorShape, ...]
    outputs: tuple[TensorShape, ...]
    raw: RawOperation = field(repr=False)
    _resolution: Resolution = field(repr=False)

    @cached_property
    def rows(self) -> Extent | None:
        """Rows of the weight."""
        return self._size(self.raw.rows)

    @cached_property
    def columns(self) -> Extent | None:
        """Columns of the weight (for a grouped convolution, of each group)."""
        return self._size(self.raw.columns)

    def _size(self, ids: np.ndarray | None) -> Extent | None:
        return None if ids is None else extent_of(self._resolution.unit_of[ids], self._resolution)


def extent_of(units: np.ndarray, resolution: Resolution, times: float = 1.0) -> Extent:
    widths = np.array([group.width for group in resolution.groups.values()], np.float64)
    return Extent.count(widths, units, resolution.unit_group, times)
