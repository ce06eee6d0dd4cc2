"""The layer and the rule of the how-to page work as they stand there."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from morphsearch import plugins

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "teach-an-operation.md"


def _snippet(name: str) -> str:
    found = re.search(rf"<!-- test: {name} -->\n```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_rule_of_the_how_to_frees_the_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import nn

    from morphsearch.graph import record

    (tmp_path / "weighted_layer.py").write_text(_snippet("layer"))
    (tmp_path / "weighted_rule.py").write_text(_snippet("rule"))
    monkeypatch.syspath_prepend(str(tmp_path))
    layer = importlib.import_module("weighted_layer").Weighted
    model = nn.Sequential(nn.Conv2d(3, 8, 3), layer(8), nn.Conv2d(8, 4, 3)).eval()
    inputs = torch.randn(1, 3, 8, 8)
    try:
        plugins.reset()
        assert "morphsearch_operations" in str(record(model, inputs).groups["0"].frozen)
        monkeypatch.setenv("MORPHSEARCH_PLUGINS", "weighted_rule")
        monkeypatch.setenv("MORPHSEARCH_STRICT", "1")
        plugins.reset()
        graph = record(model, inputs)
        assert graph.groups["0"].frozen is None
        shrunk = graph.shrink({"0": [1, 2, 6]})
        assert shrunk.get_parameter("1.scale").tolist() == model.get_parameter("1.scale")[[1, 2, 6]].tolist()
        with torch.no_grad():
            gone = [0, 3, 4, 5, 7]
            for name in ("0.weight", "0.bias", "1.scale"):
                model.get_parameter(name)[gone] = 0
            torch.testing.assert_close(shrunk(inputs), model(inputs))
    finally:
        for name in ("weighted_layer", "weighted_rule"):
            sys.modules.pop(name, None)
        monkeypatch.undo()
        plugins.reset()
