"""The demo of the README, on a smaller scale still."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest


def test_demo_prints_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "demo.py"))
    demo["main"](search_epochs=0.5, epochs=0.5, seeds=1)
    out = capsys.readouterr().out
    rows = [line.split()[0] for line in out.splitlines() if line[:1].isalnum()]
    for label in ("architecture", "001", "002", "uniform", "random", "seed"):
        assert label in rows
    assert list(tmp_path.glob("runs/demo-*/result.json"))
