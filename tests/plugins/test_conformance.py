"""The conformance cases that plugin authors subclass: built-ins pass them, and what is wrong does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from morphsearch import plugins
from morphsearch.hookspecs import hookimpl
from morphsearch.testing import (
    CommandConformance,
    DataConformance,
    ExecutorConformance,
    ExporterConformance,
    ModelConformance,
    OperationConformance,
)
from morphsearch.types import Executor, Exporter, ModelRecord, OperationRecord


class TestDigits(DataConformance):
    spec = "digits"


class TestDigitsNet(ModelConformance):
    spec = "digits_net"


class TestWidths(ExporterConformance):
    def exporter(self) -> Exporter:
        made: Exporter = plugins.create("exporters", "widths")
        return made


class TestLocal(ExecutorConformance):
    def executor(self) -> Executor:
        made: Executor = plugins.create("executors", "local")
        return made


class TestPlugins(CommandConformance):
    name = "plugins"


class RankRule:
    """Of the hook's own example."""

    handles = ("aten::kthvalue",)

    def __call__(self, call: Any) -> None:
        call.per_channel()


class RankNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.second(self.first(x).kthvalue(3, dim=3, keepdim=True).values)
        return made


class TestRank(OperationConformance):
    @pytest.fixture(autouse=True)
    def _registered(self) -> Iterator[None]:
        @hookimpl
        def morphsearch_operations() -> list[OperationRecord]:
            return [OperationRecord("rank", "Values by their rank", RankRule)]

        plugins.register(SimpleNamespace(morphsearch_operations=morphsearch_operations), "rank")
        yield
        plugins.reset()

    def rule(self) -> RankRule:
        return RankRule()

    def network(self) -> nn.Module:
        return RankNet()

    def inputs(self) -> Tensor:
        return torch.randn(1, 3, 8, 8)


# What is wrong is found: each of these breaks one promise.


class _Twice:
    def run(self, tasks: Sequence[Callable[[], Any]]) -> Iterable[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            yield index, task()
            yield index, task()


class _Silent:
    def run(self, tasks: Sequence[Callable[[], Any]]) -> Iterable[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            try:
                yield index, task()
            except ZeroDivisionError:
                yield index, None


def test_an_executor_that_runs_twice_or_swallows_errors_fails() -> None:
    class Cases(ExecutorConformance):
        made: Any = None

        def executor(self) -> Executor:
            found: Executor = self.made
            return found

    cases = Cases()
    cases.made = _Twice()
    with pytest.raises(AssertionError):
        cases.test_every_task_is_run_once_and_its_result_is_told_with_its_index()
    cases.made = _Silent()
    with pytest.raises(pytest.fail.Exception):
        cases.test_what_a_task_raises_reaches_the_caller()


def test_an_exporter_that_leaves_traces_or_writes_into_what_was_there_fails(tmp_path: Path) -> None:
    class Careless:
        suffix = ".txt"

        def export(self, architecture: Any, destination: Any, *, weights: Any = None, allow_code: bool = False) -> None:
            (destination.parent / "scratch").write_text("x")
            with open(destination, "r+b" if destination.exists() else "wb") as stream:
                stream.write(b"new")

    class Cases(ExporterConformance):
        def exporter(self) -> Exporter:
            return Careless()

    architecture: Any = SimpleNamespace()
    with pytest.raises(AssertionError):
        Cases().test_it_writes_the_file_and_nothing_else(architecture, tmp_path / "a.txt")
    with pytest.raises(AssertionError):
        Cases().test_an_earlier_export_is_replaced(architecture, tmp_path / "b.txt")


def test_a_model_that_is_built_once_or_cannot_shrink_fails() -> None:
    shared = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(), nn.Linear(4, 2))

    def fixed() -> nn.Module:
        class Fixed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.head = nn.Linear(3 * 64, 2)

            def forward(self, x: Tensor) -> Tensor:
                made: Tensor = self.head(x.flatten(1))
                return made

        return Fixed()

    @hookimpl
    def morphsearch_models() -> list[ModelRecord]:
        return [
            ModelRecord("shared", "One network for all", lambda: shared, input_shape=(3, 8, 8)),
            ModelRecord("fixed", "Without channels", fixed, input_shape=(3, 8, 8)),
        ]

    class Cases(ModelConformance):
        spec = "shared"

    plugins.register(SimpleNamespace(morphsearch_models=morphsearch_models), "wrong")
    try:
        with pytest.raises(AssertionError, match="one parameter in two networks"):
            Cases().test_every_call_builds_a_new_network()
        cases = Cases()
        cases.spec = "fixed"
        with pytest.raises(AssertionError, match="nothing can leave"):
            cases.test_channels_can_leave_and_removal_is_exact()
    finally:
        plugins.reset()
