"""A graph written by hand, for tests of what strategies and widths do with the facts that they are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np


@dataclass
class FakeGraph:
    """Groups and bindings; `bindings` are (parameter name, role, units)."""

    groups: dict[str, Any]
    bindings: list[Any] = field(default_factory=list)

    @property
    def widths(self) -> dict[str, int]:
        return {name: group.width for name, group in self.groups.items()}

    @property
    def unit_group(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.groups)), [group.width for group in self.groups.values()])

    @property
    def num_units(self) -> int:
        return int(self.unit_group.size)


def group(
    name: str, width: int, *, floor: int = 1, multiple: int = 1, frozen: str | None = None
) -> tuple[str, SimpleNamespace]:
    """A pair for the dict of groups."""
    return name, SimpleNamespace(name=name, width=width, floor=floor, multiple=multiple, frozen=frozen)


def binding(tensor: str, units: list[int], role: str = "norm") -> SimpleNamespace:
    """The elements of a 1-D parameter and their units."""
    return SimpleNamespace(tensor=tensor, dim=0, units=np.array(units), role=role, module=tensor.rpartition(".")[0])
