"""What ``inspect`` shows, as a record: layers, groups, totals, at the seed's widths and at an architecture's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from morphsearch.costs import cost as price

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph, Operation


@dataclass
class LayerRow:
    """One module that did something. Costs are its own, so that a column adds up to the total.

    `channels` are the rows of its weight (its output channels) before and after; None where it has none. `details` say
    for some costs what they are made of: computing, moving data and launches, and which of them binds.
    """

    path: str
    kind: str
    input: list[int] | None
    output: list[int] | None
    channels: tuple[int, int] | None
    costs: dict[str, float]
    costs_before: dict[str, float]
    details: dict[str, dict[str, float | str]] = field(default_factory=dict)


@dataclass
class GroupRow:
    """One group of units; `before` is its width in the seed."""

    name: str
    before: int
    width: int
    floor: int
    multiple: int
    frozen: str | None
    mixes: list[str]
    layers: list[str]


@dataclass
class Inspection:
    """A network's layers, groups and totals.

    `modules` gives the class of every module on the way to a layer, in network order. `changed` says whether the widths
    differ from the seed's.
    """

    name: str
    changed: bool
    units: dict[str, str]
    modules: dict[str, str]
    layers: list[LayerRow]
    groups: list[GroupRow]
    totals: dict[str, float]
    totals_before: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        data = asdict(self)
        del data["modules"]
        return data


def inspect(
    graph: ConvGraph,
    costs: Sequence[str],
    *,
    name: str = "",
    widths: Mapping[str, int] | None = None,
    hardware: Any = None,
) -> Inspection:
    """Describe a recorded network at `widths` (default: the seed's own); `hardware` is that of the cost ``latency``."""
    before = {metric: price(graph, metric, hardware=hardware) for metric in costs}
    after = before
    if widths is not None:
        after = {metric: price(graph, metric, dict(widths), hardware=hardware) for metric in costs}
    new = dict(graph.widths if widths is None else widths)
    old_vector = [float(graph.widths[group]) for group in graph.groups]
    new_vector = [float(new[group]) for group in graph.groups]
    modules = dict(graph.model.named_modules())
    operations: dict[str, list[Operation]] = {}
    for operation in graph.operations:
        operations.setdefault(operation.module, []).append(operation)
    priced = {path for found in after.values() for path in found.per_layer}
    order = [path for path in modules if path in operations or path in priced]
    order += [path for path in [*operations, *priced] if path not in modules]
    layers = []
    for path in dict.fromkeys(order):
        ran = operations.get(path, [])
        weighted = [operation for operation in ran if operation.rows is not None]
        channels = None
        if weighted and weighted[-1].rows is not None:
            rows = weighted[-1].rows
            channels = (round(float(rows.at(old_vector))), round(float(rows.at(new_vector))))
        own = {metric: found.per_layer.get(path, 0) for metric, found in after.items()}
        module = modules.get(path)
        leaf = module is not None and not any(True for _ in module.children())
        if not leaf and not any(own.values()):
            continue
        layers.append(
            LayerRow(
                path=path,
                kind=type(module).__name__ if module is not None else "(function)",
                input=list(ran[0].inputs[0].shape) if ran and ran[0].inputs else None,
                output=list(ran[-1].outputs[0].shape) if ran and ran[-1].outputs else None,
                channels=channels,
                costs=own,
                costs_before={metric: found.per_layer.get(path, 0) for metric, found in before.items()},
                details={metric: found.details[path] for metric, found in after.items() if path in found.details},
            )
        )
    groups = [
        GroupRow(
            group.name,
            graph.widths[key],
            new[key],
            group.floor,
            group.multiple,
            group.frozen,
            list(group.mixes),
            list(group.layers),
        )
        for key, group in graph.groups.items()
    ]
    return Inspection(
        name=name or type(graph.model).__name__,
        changed=new != dict(graph.widths),
        units={metric: found.unit for metric, found in after.items()},
        modules={path: type(module).__name__ for path, module in modules.items()},
        layers=layers,
        groups=groups,
        totals={metric: found.total for metric, found in after.items()},
        totals_before={metric: found.total for metric, found in before.items()},
        notes=_notes(after),
    )


def _notes(costs: Mapping[str, Any]) -> list[str]:
    notes = []
    for metric, found in costs.items():
        names = sorted(set(getattr(found, "uncounted", ())))
        if names:
            notes.append(f"{metric}: not counted: {', '.join(names)}")
        notes += [f"{metric}: {note}" for note in getattr(found, "notes", ())]
    return notes
