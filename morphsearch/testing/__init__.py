"""Conformance cases for plugin authors, and tiny networks to run them on. Only the cases need pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from morphsearch.testing.networks import NETWORKS, example_inputs

if TYPE_CHECKING:
    from morphsearch.testing.commands import CommandConformance
    from morphsearch.testing.cost_models import CostModelConformance
    from morphsearch.testing.data import DataConformance
    from morphsearch.testing.executors import ExecutorConformance
    from morphsearch.testing.exporters import ExporterConformance
    from morphsearch.testing.latency_backends import LatencyBackendConformance
    from morphsearch.testing.models import ModelConformance
    from morphsearch.testing.operations import OperationConformance
    from morphsearch.testing.strategies import StrategyConformance

__all__ = [
    "NETWORKS",
    "CommandConformance",
    "CostModelConformance",
    "DataConformance",
    "ExecutorConformance",
    "ExporterConformance",
    "LatencyBackendConformance",
    "ModelConformance",
    "OperationConformance",
    "StrategyConformance",
    "example_inputs",
]

_LATE = {
    "CommandConformance": "morphsearch.testing.commands",
    "CostModelConformance": "morphsearch.testing.cost_models",
    "DataConformance": "morphsearch.testing.data",
    "ExecutorConformance": "morphsearch.testing.executors",
    "ExporterConformance": "morphsearch.testing.exporters",
    "LatencyBackendConformance": "morphsearch.testing.latency_backends",
    "ModelConformance": "morphsearch.testing.models",
    "OperationConformance": "morphsearch.testing.operations",
    "StrategyConformance": "morphsearch.testing.strategies",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LATE[name]), name)
