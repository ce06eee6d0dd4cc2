"""The plugin of the how-to page works as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from morphsearch import plugins

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-plugin.md"


def _snippet() -> str:
    found = re.search(r"<!-- test: memory_traffic -->\n```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_plugin_of_the_how_to_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import nn

    from morphsearch import costs
    from morphsearch.graph import record

    (tmp_path / "memory_traffic.py").write_text(_snippet())
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MORPHSEARCH_PLUGINS", "memory_traffic")
    monkeypatch.setenv("MORPHSEARCH_STRICT", "1")
    plugins.reset()
    try:
        graph = record(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.zeros(2, 3, 6, 6))
        found = costs.cost(graph, "traffic")
        assert found.total == 4 * (3 * 36 + 8 * 16 + 3 * 8 * 9)
        assert found.unit == "bytes"
    finally:
        sys.modules.pop("memory_traffic", None)


def test_it_is_twenty_lines() -> None:
    assert sum(bool(line.strip()) for line in _snippet().splitlines()) <= 20


def test_the_page_names_every_hook() -> None:
    text = PAGE.read_text()
    hooks = [kind.hook for kind in plugins.KINDS.values()] + list(plugins.EVENTS)
    assert [hook for hook in hooks if not re.search(rf"\b{hook}\b", text)] == []
