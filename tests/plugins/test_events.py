"""Events reach every plugin, with the arguments that it asks for; one that raises does not stop the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from morphsearch import plugins
from morphsearch.errors import PluginError, UnknownName
from morphsearch.hookspecs import hookimpl


class _Recorder:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    @hookimpl
    def morphsearch_iteration_end(self, architecture: Any) -> None:
        self.seen.append(architecture)

    @hookimpl
    def morphsearch_search_end(self, result: Any) -> None:
        self.seen.append(result)


class _Faulty:
    @hookimpl
    def morphsearch_iteration_end(self) -> None:
        raise OSError("the dashboard is down")


def test_events_reach_plugins() -> None:
    recorder = _Recorder()
    plugins.register(recorder)
    plugins.fire("morphsearch_iteration_end", search=None, architecture="002")
    plugins.fire("morphsearch_search_end", result="done")
    assert recorder.seen == ["002", "done"]


def test_a_listener_that_raises_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = _Recorder()
    plugins.register(_Faulty(), "faulty")
    plugins.register(recorder)
    with pytest.warns(plugins.PluginWarning, match="the dashboard is down"):
        plugins.fire("morphsearch_iteration_end", search=None, architecture="001")
    assert recorder.seen == ["001"]
    monkeypatch.setenv("MORPHSEARCH_STRICT", "1")
    with pytest.raises(PluginError, match="the dashboard is down"):
        plugins.fire("morphsearch_iteration_end", search=None, architecture="001")


def test_a_search_fires_them(tmp_path: Path) -> None:
    import torch

    import morphsearch

    recorder = _Recorder()
    plugins.register(recorder)
    images, labels = torch.randn(40, 1, 8, 8), torch.arange(40) % 4
    model = plugins.create("models", "digits_net", num_classes=4)
    result = morphsearch.search(
        model,
        (images, labels),
        budget="flops=60%",
        strategy="uniform",
        iterations=1,
        epochs=1,
        run_dir=tmp_path / "run",
    )
    assert recorder.seen == [result.best, result]


def test_arguments_that_the_hook_does_not_have_are_a_defect() -> None:
    with pytest.raises(TypeError, match="run_dir"):
        plugins.fire("morphsearch_search_end", result=None, run_dir=None)
    with pytest.raises(TypeError, match="result"):
        plugins.fire("morphsearch_search_end")


def test_unknown_events_are_refused() -> None:
    with pytest.raises(UnknownName, match="morphsearch_search_end"):
        plugins.fire("morphsearch_search_ended")
