"""Built-in cost models."""

from __future__ import annotations

from typing import Any

from morphsearch.hookspecs import hookimpl
from morphsearch.types import CostModelRecord


def _flops() -> Any:
    from morphsearch.costs.flops import FlopsCost

    return FlopsCost()


def _params() -> Any:
    from morphsearch.costs.params import ParamsCost

    return ParamsCost()


@hookimpl
def morphsearch_cost_models() -> list[CostModelRecord]:
    """``flops`` and ``params``."""
    return [
        CostModelRecord("flops", "FLOPs of one image, one per multiply-add, as fvcore counts them", _flops),
        CostModelRecord("params", "Trainable parameters", _params),
    ]
