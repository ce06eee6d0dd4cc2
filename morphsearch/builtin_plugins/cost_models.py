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


def _activations() -> Any:
    from morphsearch.costs.activations import ActivationsCost

    return ActivationsCost()


def _memory() -> Any:
    from morphsearch.costs.memory import MemoryCost

    return MemoryCost()


def _training_memory() -> Any:
    from morphsearch.costs.memory import TrainingMemoryCost

    return TrainingMemoryCost()


def _latency(hardware: Any = None) -> Any:
    from morphsearch.hardware.latency import Latency

    return Latency(hardware)


@hookimpl
def morphsearch_cost_models() -> list[CostModelRecord]:
    """``flops``, ``params``, ``activations``, ``memory``, ``memory-training`` and ``latency``."""
    return [
        CostModelRecord("flops", "FLOPs of one image, one per multiply-add, as fvcore counts them", _flops),
        CostModelRecord("params", "Parameters, trained or not", _params),
        CostModelRecord("activations", "Elements that the operations write for one image", _activations),
        CostModelRecord("memory", "Peak memory of inference, at the batch size of --input", _memory),
        CostModelRecord(
            "memory-training", "Peak memory of a training step, at the batch size of --input", _training_memory
        ),
        CostModelRecord("latency", "Time of one forward pass on the hardware of a profile (--hardware)", _latency),
    ]
