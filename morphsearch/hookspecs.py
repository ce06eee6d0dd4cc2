"""Every hook of morphsearch, each with a complete plugin that works. Imports types only, so that it costs nothing.

A plugin is a module with functions of these names, marked with ``@morphsearch.hookimpl``, and an entry point of the
group ``morphsearch`` that names the module. The hooks that return records are called once, when the first name of their
kind is looked up; the factories in the records only when a name is used, so import torch inside them. Events are called
as they happen; an implementation leaves out the arguments that it does not need.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from morphsearch.types import (
        CommandRecord,
        CostModelRecord,
        DataRecord,
        ExecutorRecord,
        ExporterRecord,
        ModelRecord,
        OperationRecord,
        StrategyRecord,
    )

hookspec = pluggy.HookspecMarker("morphsearch")
hookimpl = pluggy.HookimplMarker("morphsearch")


@hookspec
def morphsearch_cost_models() -> Iterable[CostModelRecord]:
    """What a network costs, as a function of its widths.

    Called when a cost is first named, as in ``--budget weight-bytes=50%``. Return one
    :class:`~morphsearch.types.CostModelRecord` a cost.

    Example::

        import morphsearch
        from morphsearch.types import CostModelRecord

        @morphsearch.hookimpl
        def morphsearch_cost_models():
            def weight_bytes():
                from morphsearch.costs import LayerwiseCost, Polynomial

                class WeightBytes(LayerwiseCost):
                    name, unit = "weight-bytes", "bytes"

                    def price(self, op, graph):
                        weight = graph.parameter_shapes.get(op.parameters.get("weight"))
                        return 2 * Polynomial.product(*weight) if weight else None

                return WeightBytes()

            return [CostModelRecord("weight-bytes", "Bytes of all weights in half precision", weight_bytes)]
    """
    raise NotImplementedError


@hookspec
def morphsearch_strategies() -> Iterable[StrategyRecord]:
    """How units are chosen to leave: what is added to the training, and a score for every unit.

    Called when a strategy is first named, as in ``--strategy smallest-norm``. Return one
    :class:`~morphsearch.types.StrategyRecord` a strategy.
    """
    raise NotImplementedError


@hookspec
def morphsearch_operations() -> Iterable[OperationRecord]:
    """How channels flow through an operation or module type that morphsearch does not know."""
    raise NotImplementedError


@hookspec
def morphsearch_models() -> Iterable[ModelRecord]:
    """Seeds by name, or with ``source=True`` a scheme that builds any name of a library."""
    raise NotImplementedError


@hookspec
def morphsearch_data() -> Iterable[DataRecord]:
    """Data sets by name, as in ``--data NAME`` or ``--data NAME:ARGUMENT``."""
    raise NotImplementedError


@hookspec
def morphsearch_exporters() -> Iterable[ExporterRecord]:
    """File formats that an architecture can be written in."""
    raise NotImplementedError


@hookspec
def morphsearch_executors() -> Iterable[ExecutorRecord]:
    """Where independent retrainings run: one after another here, on several devices, on a cluster."""
    raise NotImplementedError


@hookspec
def morphsearch_commands() -> Iterable[CommandRecord]:
    """Commands added to the ``morphsearch`` command line."""
    raise NotImplementedError


@hookspec
def morphsearch_iteration_end(architecture: Any, run_dir: Path, iteration: int) -> None:
    """A morph has ended and its architecture is saved."""


@hookspec
def morphsearch_search_end(result: Any, run_dir: Path) -> None:
    """A search has ended, with all its iterations."""
