"""What is exported: an architecture, or a network that was handed over."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from morphsearch.costs import cost
from morphsearch.errors import InputError, UsageError, nearest
from morphsearch.files import load_into, prefixed, require_values
from morphsearch.graph import record
from morphsearch.loop.architecture import Architecture, describe_inputs

Weights = Mapping[str, Tensor]


@dataclass
class Source(Architecture):
    """An architecture as exporters get it.

    Args:
        model: the network itself, where one was handed over; None builds it from the seed's spec.
        export_inputs: descriptions of the inputs that the exported network is checked on, where they differ.
    """

    model: nn.Module | None = field(default=None, repr=False, compare=False)
    export_inputs: list[dict[str, Any]] | None = None

    @classmethod
    def of(cls, architecture: Architecture, model: nn.Module | None = None) -> Source:
        """An architecture; `model` is the network built like its seed, where no spec can name it."""
        fields = {name: getattr(architecture, name) for name in Architecture.__dataclass_fields__}
        return cls(**fields, model=architecture.apply(model) if model is not None else None)

    @classmethod
    def given(cls, model: nn.Module, example_inputs: Any, name: str = "network") -> Source:
        """A network with its weights."""
        graph = record(model, example_inputs, check=False)
        costs = {
            metric: {"total": found.total, "unit": found.unit}
            for metric in ("flops", "params")
            if (found := cost(graph, metric))
        }
        return cls(name, None, describe_inputs(example_inputs), graph.widths, graph.widths, costs, model=model)

    def build(self, *, allow_code: bool = False) -> nn.Module:
        """The network: a copy of the one that was handed over, or a fresh one."""
        return copy.deepcopy(self.model) if self.model is not None else super().build(allow_code=allow_code)

    def with_shape(self, shape: tuple[int, ...]) -> Source:
        """The same, exported for an input of `shape`.

        Raises:
            UsageError: it has several inputs, or one with another number of dimensions or channels.
        """
        first = self.inputs[0]
        if len(self.inputs) > 1 or len(shape) != len(first["shape"]) or shape[1:2] != tuple(first["shape"][1:2]):
            known = "; ".join(",".join(map(str, entry["shape"])) for entry in self.inputs)
            raise UsageError(
                f"--input {','.join(map(str, shape))} does not fit this network",
                f"it was recorded with {known}; height, width and batch may be others",
                "leave --input out, or change height and width only",
            )
        return copy.copy(self)._set(export_inputs=[{**first, "shape": list(shape)}])

    def _set(self, **values: Any) -> Source:
        for name, value in values.items():
            setattr(self, name, value)
        return self


def inputs_of(architecture: Any) -> list[dict[str, Any]]:
    """Descriptions of the inputs that an exported network is checked on."""
    return getattr(architecture, "export_inputs", None) or list(architecture.inputs)


def load(model: nn.Module, weights: Weights, origin: str = "the weights") -> None:
    """Load weights, strictly.

    Raises:
        InputError: names or shapes are not the network's, or a value is not finite.
    """
    own = model.state_dict()
    missing, extra = [n for n in own if n not in weights], [n for n in weights if n not in own]
    if missing or extra:
        name = (missing or extra)[0]
        close = nearest(name, list(weights) if missing else list(own))
        raise InputError(
            f"{origin} {'lack' if missing else 'hold'} {name!r}"
            + (f" and {len(missing) + len(extra) - 1} more differ" if len(missing) + len(extra) > 1 else ""),
            "weights hold every parameter and buffer of the network, and nothing else",
            prefixed(own, weights)
            or f"take the weights of this very architecture{f' (nearest name: {close[0]})' if close else ''}",
        )
    for name, value in weights.items():
        if value.shape != own[name].shape:
            raise InputError(
                f"{name!r} has shape {tuple(value.shape)} in {origin} and {tuple(own[name].shape)} in the network",
                "weights belong to one architecture",
                "take the weights of this very architecture: retrained/NAME-seedN/weights.safetensors",
            )
    require_values({name: value for name, value in own.items() if isinstance(value, Tensor)}, weights, origin)
    load_into(model, weights)
