"""What the built-in records promise is there."""

from __future__ import annotations

from typing import Any

import pytest

from morphsearch import plugins
from morphsearch.types import CostModel, ModelRecord

SIMPLE = ["cost_models", "strategies", "exporters", "executors", "latency_backends", "commands"]


def _builtin(kind: str) -> list[Any]:
    return [record for record in plugins.registry(kind).values() if record.origin == plugins.BUILTIN]


@pytest.mark.parametrize(("kind", "name"), [(kind, record.name) for kind in SIMPLE for record in _builtin(kind)])
def test_every_builtin_can_be_made(kind: str, name: str) -> None:
    made: Any = plugins.create(kind, name)
    if kind == "cost_models":
        assert isinstance(made, CostModel)
    if kind in ("cost_models", "strategies", "latency_backends", "commands"):
        assert made.name == name
    if kind == "exporters":
        assert made.suffix.startswith(".")


@pytest.mark.parametrize("name", [record.name for record in _builtin("models") if not record.source])
def test_every_seed_takes_the_input_that_its_record_names(name: str) -> None:
    import torch

    record = plugins.record("models", name)
    assert isinstance(record, ModelRecord)
    assert record.input_shape is not None
    with torch.device("meta"):  # shapes alone
        model = plugins.create("models", name).eval()
        output = model(torch.zeros(2, *record.input_shape))
    assert output.shape[0] == 2
    assert output.dim() == 2
