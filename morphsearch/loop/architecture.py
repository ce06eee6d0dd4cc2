"""An architecture: a width for every group and where it came from, in a file that anyone can check."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphsearch.arguments import named_arguments, require_path
from morphsearch.errors import InputError, UsageError
from morphsearch.files import read_tensors, write_json
from morphsearch.loop.schema import REPAIR, read_checked, wrong_field

if TYPE_CHECKING:
    from torch import nn

    from morphsearch.graph import ConvGraph

SCHEMA_VERSION = 1
FORMAT = "morphsearch-architecture"
FILE = "architecture.json"

MOST_UNITS = 2**20
MOST_ELEMENTS = 2**31
DTYPES = tuple("float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64".split())

_WIDTHS = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"type": "integer", "minimum": 0, "maximum": MOST_UNITS},
}
_NUMBERS = {"type": "object", "additionalProperties": {"type": ["number", "null"]}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["format", "schema_version", "name", "seed", "widths", "seed_widths", "costs"],
    "properties": {
        "format": {"const": FORMAT},
        "schema_version": {"type": "integer", "minimum": 1},
        # Folders are named after it.
        "name": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z"},
        "seed": {
            "type": "object",
            "required": ["spec", "inputs"],
            "properties": {
                "spec": {"type": ["string", "null"]},
                "inputs": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["shape"],
                        "properties": {
                            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 8},
                            "dtype": {"enum": DTYPES},
                            "name": {"type": ["string", "null"]},
                        },
                    },
                },
            },
        },
        "widths": _WIDTHS,
        "seed_widths": _WIDTHS,
        "floors": {key: value for key, value in _WIDTHS.items() if key != "minProperties"},
        "kept": {
            "type": "object",
            "additionalProperties": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0, "maximum": MOST_UNITS},
            },
        },
        "costs": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["total", "unit"],
                "properties": {"total": {"type": "number"}, "unit": {"type": "string"}},
            },
        },
        "budgets": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["text", "metric", "limit"],
                "properties": {
                    "text": {"type": "string"},
                    "metric": {"type": "string"},
                    "limit": {"type": "number"},
                    "unit": {"type": "string"},
                },
            },
        },
        "strategy": {"type": ["string", "null"]},
        "strength": {"type": ["number", "null"]},
        "threshold": {"type": ["number", "null"]},
        "multiplier": {"type": ["number", "null"]},
        "parent": {"type": ["string", "null"]},
        "metrics": _NUMBERS,
        "decisions": {"type": "object", "additionalProperties": {"type": "string"}},
        "notes": {"type": "array", "items": {"type": "string"}},
        "record": {"type": "object"},
    },
}


@dataclass
class Architecture:
    """Widths for every group of a seed. No weights.

    Attributes:
        name: ``"001"`` for the first morph, or ``"uniform"`` and the like for baselines.
        seed_spec: how the seed is built (``"resnet20?num_classes=10"``), or None where only the user's code knows.
        inputs: shape and dtype (and name, for keyword arguments) of each example input.
        widths, seed_widths, floors: units per group; a width of 0: its branch is left out.
        kept: for each group the positions of its units in the parent that stayed, repeated where they were widened.
        costs: metric to ``{"total": ..., "unit": ...}``.
        strength, threshold, multiplier: what the morph was made with; None where it does not apply.
        parent: name of the architecture that this one was made from, None for the seed.
        metrics: accuracy and loss as judged on the validation part.
        record: versions, random seed, and whatever else repeats the run.
    """

    name: str
    seed_spec: str | None
    inputs: list[dict[str, Any]]
    widths: dict[str, int]
    seed_widths: dict[str, int]
    costs: dict[str, dict[str, Any]]
    floors: dict[str, int] = field(default_factory=dict)
    kept: dict[str, list[int]] = field(default_factory=dict)
    budgets: list[dict[str, Any]] = field(default_factory=list)
    strategy: str | None = None
    strength: float | None = None
    threshold: float | None = None
    multiplier: float | None = None
    parent: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    decisions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    path: Path | None = field(default=None, repr=False, compare=False)

    # -- files ---------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """What the file holds."""
        data = {key: value for key, value in self.__dict__.items() if key not in ("path", "seed_spec", "inputs")}
        head = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "name": data.pop("name")}
        return {**head, "seed": {"spec": self.seed_spec, "inputs": self.inputs}, **data}

    def save(self, path: str | Path) -> Path:
        """Write the architecture, atomically. `path` is the file, or a folder that gets an ``architecture.json``."""
        require_path(path, "path")
        target = Path(path)
        target = target if target.suffix == ".json" else target / FILE
        write_json(target, self.to_dict())
        self.path = target
        return target

    @classmethod
    @named_arguments
    def load(cls, path: str | Path) -> Architecture:
        """Read and check a file.

        Raises:
            InputError: missing, damaged, foreign, or written by a newer version; the message names field and line.
            UsageError: `path` is no path.
        """
        require_path(path, "path")
        source = Path(path)
        source = source / FILE if source.is_dir() else source
        data = read_checked(source, SCHEMA, form=FORMAT, version=SCHEMA_VERSION, what="an architecture")
        for key in ("widths", "seed_widths", "floors"):  # JSON schema takes 24.0 for an integer
            data[key] = {name: int(width) for name, width in data.get(key, {}).items()}
        data["kept"] = {name: [int(unit) for unit in units] for name, units in data.get("kept", {}).items()}
        _check_groups(data, source)
        seed = data["seed"]
        for entry in seed["inputs"]:
            entry["shape"] = [int(size) for size in entry["shape"]]
        known = {key: data[key] for key in cls.__dataclass_fields__ if key in data and key not in ("path", "inputs")}
        return cls(seed_spec=seed["spec"], inputs=seed["inputs"], path=source, **known)

    # -- networks ------------------------------------------------------------------------------------------------

    def seed(self, *, allow_code: bool = False) -> nn.Module:
        """The seed, with fresh weights.

        Raises:
            UsageError: it is not named, or naming it runs foreign code and `allow_code` is false.
        """
        from morphsearch.models import build_seed

        if self.seed_spec is None:
            raise UsageError(
                f"architecture {self.name!r} does not say how its seed is built",
                "it came from a network that was handed over as an object",
                "build that network yourself and call architecture.apply(network)",
            )
        return build_seed(self.seed_spec, allow_code=allow_code).model

    def example_inputs(self) -> Any:
        """Zeros of the shapes that the seed was recorded with, as a tuple or, with names, a dict."""
        import torch

        tensors = []
        for entry in self.inputs:
            if math.prod(entry["shape"]) > MOST_ELEMENTS:
                raise InputError(
                    f"an example input of shape {entry['shape']}",
                    "example inputs are small",
                    "repair the architecture file",
                )
            tensors.append(torch.zeros(entry["shape"], dtype=getattr(torch, entry.get("dtype") or "float32")))
        names = [entry.get("name") for entry in self.inputs]
        if all(names):
            return dict(zip(names, tensors, strict=True))
        return tuple(tensors)

    def build(self, *, allow_code: bool = False) -> nn.Module:
        """A fresh plain ``nn.Module`` at these widths."""
        return self.apply(self.seed(allow_code=allow_code))

    def apply(self, model: nn.Module) -> nn.Module:
        """`model`, a network built like the seed, at these widths and with fresh weights.

        Raises:
            InputError: `model` has other groups or widths than the seed had.
        """
        graph = self.graph(model)
        self._check_counts(graph)
        return graph.resize({k: v for k, v in self.widths.items() if v != self.seed_widths[k]})

    def _check_counts(self, graph: ConvGraph) -> None:
        """Widths and the number of parameters that the file tells belong together: else one was edited."""
        from morphsearch.costs import cost

        told = self.costs.get("params", {}).get("total")
        counted = cost(graph, "params", self.widths).total
        if told is not None and told != counted:
            raise InputError(
                f"architecture {self.name!r} says that it has {told:,} parameters; its widths make {counted:,}",
                "costs are those of the widths",
                REPAIR,
            )
        if counted > MOST_ELEMENTS:
            raise InputError(
                f"architecture {self.name!r} has {counted:,} parameters",
                f"networks of up to {MOST_ELEMENTS:,} are built",
                REPAIR,
            )

    def graph(self, model: nn.Module) -> ConvGraph:
        """Record `model` and check that it is the seed of this architecture."""
        from morphsearch.graph import record

        graph = record(model, self.example_inputs(), decisions=self.decisions or None)
        if graph.widths != self.seed_widths:
            differing = [
                n for n in {**graph.widths, **self.seed_widths} if graph.widths.get(n) != self.seed_widths.get(n)
            ]
            name = sorted(differing)[0]
            here, there = graph.widths.get(name), self.seed_widths.get(name)
            raise InputError(
                f"group {name!r} has width {here} in this network and {there} in the seed",
                f"architecture {str(self.path or self.name)!r} applies to the network that it was found for",
                "build the network with the arguments of the search (number of classes, width, input shape)",
            )
        return graph

    def weights(self) -> dict[str, Any]:
        """The inherited weights that lie beside the file.

        They fit what :meth:`build` gives, which computes with them what the network of the search did, unless forward
        code takes channels by their place (see :mod:`~morphsearch.loop.inherited`; `ms.export` follows that).

        Raises:
            InputError: there are none.
        """
        if self.path is None:
            raise InputError(
                "this architecture has no file", "weights lie beside architecture.json", "load it from a run"
            )
        return read_tensors(self.path.with_name("weights.safetensors"))

    @property
    def totals(self) -> dict[str, Any]:
        """Every cost without its unit."""
        return {name: entry["total"] for name, entry in self.costs.items()}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first example input, batch included."""
        return tuple(self.inputs[0]["shape"])


def _check_groups(data: Mapping[str, Any], source: Path) -> None:
    """What a schema cannot say: which groups there are, and that kept units fit the widths."""
    widths, seed_widths = data["widths"], data["seed_widths"]
    for key in ("seed_widths", "floors", "kept"):
        unknown = [name for name in data[key] if name not in widths]
        if unknown:
            raise wrong_field(source, [key], f"names the group {unknown[0]!r}, which is not among the widths")
    for name, width in widths.items():
        least = data["floors"].get(name, 1)
        if width < least:
            raise wrong_field(source, ["widths", name], f"{width} units, and its floor is {least}")
    empty = [name for name, width in seed_widths.items() if not width]
    if empty:
        raise wrong_field(source, ["seed_widths", empty[0]], "a seed has no group without units")
    missing = [name for name in widths if name not in seed_widths]
    if missing:
        raise wrong_field(source, ["seed_widths"], f"does not name the group {missing[0]!r}")
    for name, units in data["kept"].items():
        if len(units) != widths[name]:
            raise wrong_field(source, ["kept", name], f"{len(units)} units for a width of {widths[name]}")
        if data.get("parent") is None and units and max(units) >= seed_widths[name]:
            raise wrong_field(source, ["kept", name], f"unit {max(units)} of a parent with {seed_widths[name]}")


def describe_inputs(example_inputs: Any) -> list[dict[str, Any]]:
    """Shapes, dtypes and names of example inputs, for the file.

    Raises:
        UsageError: an argument that is not a tensor, which a file cannot hold.
    """
    from torch import Tensor

    from morphsearch.graph.recording import as_arguments

    args, kwargs = as_arguments(example_inputs)
    named: list[tuple[str | None, Any]] = [*((None, value) for value in args), *kwargs.items()]
    for place, (name, value) in enumerate(named, 1):
        if not isinstance(value, Tensor):
            raise UsageError(
                f"example input {name or place} is a {type(value).__name__}",
                "the inputs of a search are tensors, so that its files can say how to record the seed again",
                "wrap the network in a module that takes tensors",
            )
    return [
        {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch."), "name": name}
        for name, value in named
    ]
