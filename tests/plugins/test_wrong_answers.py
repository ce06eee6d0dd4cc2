"""Plugins that answer something else than is due: the message names the plugin, what it said, and what is due."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import morphsearch as ms
from morphsearch import plugins
from morphsearch.errors import PluginError
from morphsearch.exporting.api import export
from morphsearch.hardware import Settings
from morphsearch.hardware.measure import Session
from morphsearch.hookspecs import hookimpl
from morphsearch.loop.retraining import _results
from morphsearch.strategies.base import Strategy
from morphsearch.testing import NETWORKS, example_inputs
from morphsearch.types import (
    CostModelRecord,
    ExecutorRecord,
    ExporterRecord,
    LatencyBackendRecord,
    StrategyRecord,
)


def registered(hook: str, record: Any) -> None:
    """A plugin of this one record."""

    def implementation() -> list[Any]:
        return [record]

    implementation.__name__ = hook
    plugins.register(SimpleNamespace(**{hook: hookimpl(implementation)}), "wrong")


class Cost:
    """A sound one, but for what is `changed`."""

    name, unit = "wrong", "x"

    def __init__(self, **changed: Any) -> None:
        sound = {"total": lambda w: w.sum(), "per_layer": lambda w: {"head": w.sum()}, "marginal": torch.ones_like}
        self.bound = SimpleNamespace(unit="x", **{**sound, **changed})

    def bind(self, graph: Any) -> Any:
        """Whatever was given."""
        return self.bound


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("total", lambda w: None),
        ("total", lambda w: w * 1.0),
        ("total", lambda w: -w.sum()),
        ("total", lambda w: w.sum() * float("nan")),
        ("per_layer", lambda w: None),
        ("marginal", lambda w: torch.ones(1)),
        ("marginal", None),
    ],
)
def test_a_cost_model(method: str, answer: Any) -> None:
    registered("morphsearch_cost_models", CostModelRecord("wrong", "a cost", lambda: Cost(**{method: answer})))
    graph = ms.record(NETWORKS["plain"](), example_inputs())
    with pytest.raises(PluginError, match="cost model 'wrong' of wrong") as caught:
        ms.cost(graph, "wrong")
    assert method in caught.value.rule
    with pytest.raises(PluginError):
        ms.Search(NETWORKS["plain"](), example_inputs(), "wrong=50%")


def test_a_sound_cost_model_passes() -> None:
    registered("morphsearch_cost_models", CostModelRecord("wrong", "a cost", Cost))
    graph = ms.record(NETWORKS["plain"](), example_inputs())
    assert ms.cost(graph, "wrong").total == sum(graph.widths.values())


@pytest.mark.parametrize("answer", [None, 3, torch.ones(2)])
def test_a_strategy(answer: Any) -> None:
    class Wrong(Strategy):
        name = "wrong"

        def attach(self, model: Any, graph: Any) -> None:
            """It reads nothing of either."""

        def scores(self) -> Any:
            return answer

    registered("morphsearch_strategies", StrategyRecord("wrong", "a strategy", Wrong))
    search = ms.Search(NETWORKS["plain"](), example_inputs(), "flops=50%", strategy="wrong")
    with pytest.raises(PluginError, match=r"strategy 'wrong' of wrong.*scores\(\) returned"):
        search.morph()


@pytest.mark.parametrize(("writes", "answer"), [(False, None), (True, 7), (True, "one line")])
def test_an_exporter(tmp_path: Path, writes: bool, answer: Any) -> None:
    class Wrong:
        suffix = ".x"

        def export(self, architecture: Any, destination: Path, **options: Any) -> Any:
            if writes:
                destination.write_text("x")
            return answer

    registered("morphsearch_exporters", ExporterRecord("wrong", "an exporter", Wrong))
    with pytest.raises(PluginError, match="exporter 'wrong' of wrong"):
        export(NETWORKS["plain"](), example_inputs=example_inputs(), format="wrong", path=tmp_path / "net.x")


@pytest.mark.parametrize("answers", [None, 3, [], [3], [(0, "result")], [(5, None)]])
def test_an_executor(answers: Any) -> None:
    record = ExecutorRecord("wrong", "an executor", lambda: SimpleNamespace(run=lambda tasks: answers))
    registered("morphsearch_executors", record)
    with pytest.raises(PluginError, match="executor 'wrong' of wrong") as caught:
        list(_results([lambda: 0], "wrong"))  # type: ignore[list-item, return-value]
    assert "every task" in caught.value.rule


@pytest.mark.parametrize(("method", "answer"), [("prepare", None), ("observe", None), ("observe", 3)])
def test_a_latency_backend(method: str, answer: Any) -> None:
    sound: dict[str, Any] = {"prepare": lambda *a: lambda: None, "observe": lambda *a: [], method: lambda *a: answer}
    backend = SimpleNamespace(
        name="wrong",
        into_weights=frozenset(),
        into_pointwise=frozenset(),
        check=lambda settings: None,
        versions=dict,
        **sound,
    )
    registered("morphsearch_latency_backends", LatencyBackendRecord("wrong", "a backend", lambda: backend))
    with pytest.raises(PluginError, match="latency backend 'wrong' of wrong") as caught:
        Session(Settings("wrong")).warm_up()
    assert method in caught.value.rule
