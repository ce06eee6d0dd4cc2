"""Conformance cases for plugin authors, and tiny networks to run them on. Only the cases need pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from morphsearch.testing.networks import NETWORKS, example_inputs

if TYPE_CHECKING:
    from morphsearch.testing.cost_models import CostModelConformance
    from morphsearch.testing.strategies import StrategyConformance

__all__ = ["NETWORKS", "CostModelConformance", "StrategyConformance", "example_inputs"]

_LATE = {
    "CostModelConformance": "morphsearch.testing.cost_models",
    "StrategyConformance": "morphsearch.testing.strategies",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LATE[name]), name)
