"""``ms.cost``: what a graph costs at given widths."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from morphsearch import plugins
from morphsearch.arguments import named_arguments, require, shown
from morphsearch.errors import UsageError
from morphsearch.types import BoundCost, CostModel

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph


@dataclass(frozen=True)
class Cost:
    """A cost at one set of widths.

    Attributes:
        total: whole where the cost is (FLOPs, parameters).
        unit: what is counted.
        per_layer: by module path, in network order; adds up to `total`. Work that a module's own ``forward`` does
            stands under that module, the network's under ``""``.
        uncounted: kinds of operations without a price.
        metric: the name of the cost model.
        details: by module path what makes up its cost, for models that tell: a roofline's "compute", "memory" and
            "launch" in the cost's unit, and "bound", which of them binds.
        notes: what the figures rest on, a sentence each.
    """

    total: int | float
    unit: str
    per_layer: dict[str, int | float] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    metric: str = ""
    details: dict[str, dict[str, float | str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def get(name: str, hardware: Any = None) -> CostModel:
    """The cost model that was registered as `name`.

    Args:
        hardware: given to models that depend on it (whose factory has an argument of that name): a hardware profile,
            its file or its name.

    Raises:
        UnknownName: no such cost model; the message has the nearest names.
        PluginError: a plugin's factory failed.
    """
    takes = (
        hardware is not None and "hardware" in inspect.signature(plugins.record("cost_models", name).factory).parameters
    )
    model: CostModel = plugins.create("cost_models", name, **({"hardware": hardware} if takes else {}))
    return model


def bind(graph: ConvGraph, metric: str | CostModel, hardware: Any = None) -> BoundCost:
    """A cost model, or the name of one, bound to `graph`. Binding walks the graph: do it once and evaluate often."""
    return _bound(get(metric, hardware) if isinstance(metric, str) else metric, graph)


def _bound(model: CostModel, graph: ConvGraph) -> BoundCost:
    """A cost model bound to `graph`; what a plugin's answers at the graph's own widths is looked at once.

    Raises:
        PluginError: it answers something else than costs do.
    """
    bound, name = model.bind(graph), str(getattr(model, "name", type(model).__name__))
    known = plugins.registry("cost_models").get(name)
    if known is not None and known.origin == plugins.BUILTIN:
        return bound
    methods = ("total", "per_layer", "marginal")
    lacks = [method for method in methods if not callable(getattr(bound, method, None))]
    due = "bind() returns what has total(), per_layer() and marginal()"
    plugins.answered(not lacks, "cost_models", name, f"bind() returned {shown(bound)}", due)
    point = vector(graph, {})
    with torch.no_grad():
        answers: list[Any] = [bound.total(point), bound.per_layer(point), bound.marginal(point)]
    total, layers, marginal = answers
    due = "total() gives one number, finite and not below zero"
    plugins.answered(_is_cost(total), "cost_models", name, f"total() returned {shown(total)}", due)
    due = "per_layer() gives a cost by module path"
    plugins.answered(isinstance(layers, Mapping), "cost_models", name, f"per_layer() returned {shown(layers)}", due)
    due = f"marginal() gives the price of one more unit of each of the {len(graph.groups)} groups"
    good = isinstance(marginal, Tensor) and tuple(marginal.shape) == tuple(point.shape)
    plugins.answered(good, "cost_models", name, f"marginal() returned {shown(marginal)}", due)
    return bound


def _is_cost(total: Any) -> bool:
    """Whether it is one number, finite and not below zero."""
    try:
        return 0 <= float(total) < math.inf
    except (TypeError, ValueError, RuntimeError):
        return False


def vector(graph: ConvGraph, widths: Mapping[str, int | float]) -> Tensor:
    """`g` float64: widths by name in the order of the graph; groups that are not named keep theirs."""
    return torch.tensor([float(widths.get(name, width)) for name, width in graph.widths.items()], dtype=torch.float64)


def number(value: Tensor | float, whole: bool) -> int | float:
    """A Python number, an int where the cost is `whole` and the value is too (rounding errors of float64 aside)."""
    result = float(value)
    if whole and abs(result - round(result)) <= 1e-9 + 1e-13 * abs(result):
        return round(result)
    return result


@named_arguments
def cost(
    graph: ConvGraph,
    metric: str | CostModel = "flops",
    widths: Mapping[str, int] | None = None,
    *,
    hardware: Any = None,
) -> Cost:
    """What `graph` costs.

    Args:
        graph: a recorded network.
        metric: name of a cost model, or one.
        widths: by group, any legal ones; groups that are not named, and all by default, keep the seed's.
        hardware: for ``latency``: a hardware profile, its file or its name.

    Raises:
        UnknownName: no such cost model, or no such hardware.
        GraphError: the graph cannot take these widths.
        UsageError: an argument of the wrong type.
    """
    _check_types(graph, metric)
    model = get(metric, hardware) if isinstance(metric, str) else metric
    complete = graph.check_widths({} if widths is None else widths)
    bound = _bound(model, graph.left_at(complete))
    point = vector(graph, complete)
    whole = bool(getattr(bound, "whole", False))
    layers = {layer: number(value, whole) for layer, value in bound.per_layer(point).items()}
    uncounted = tuple(getattr(bound, "uncounted", ()))
    return Cost(
        number(bound.total(point), whole),
        bound.unit,
        layers,
        uncounted,
        model.name,
        details=dict(bound.details(point)) if hasattr(bound, "details") else {},
        notes=tuple(getattr(bound, "notes", ())),
    )


def _check_types(graph: object, metric: object) -> None:
    from morphsearch.graph import ConvGraph

    if not isinstance(graph, ConvGraph):
        raise UsageError(
            f"cost() got a {type(graph).__name__}: {shown(graph, 40)}",
            "it takes a recorded network",
            "record it first: ms.cost(ms.record(model, example_inputs), ...)",
        )
    priced = callable(getattr(metric, "bind", None)) and not isinstance(metric, type)
    rule = "the name of a cost model, or one"
    require(isinstance(metric, str) or priced, "metric", metric, rule, 'write for example metric="flops"')
