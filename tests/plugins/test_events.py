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
    def morphsearch_iteration_end(self, iteration: int, run_dir: Path) -> None:
        self.seen.append((iteration, run_dir))

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
    plugins.fire("morphsearch_iteration_end", architecture=None, run_dir=Path("a"), iteration=2)
    plugins.fire("morphsearch_search_end", result="done", run_dir=Path("a"))
    assert recorder.seen == [(2, Path("a")), "done"]


def test_a_listener_that_raises_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = _Recorder()
    plugins.register(_Faulty(), "faulty")
    plugins.register(recorder)
    with pytest.warns(plugins.PluginWarning, match="the dashboard is down"):
        plugins.fire("morphsearch_iteration_end", architecture=None, run_dir=Path("a"), iteration=1)
    assert recorder.seen == [(1, Path("a"))]
    monkeypatch.setenv("MORPHSEARCH_STRICT", "1")
    with pytest.raises(PluginError, match="the dashboard is down"):
        plugins.fire("morphsearch_iteration_end", architecture=None, run_dir=Path("a"), iteration=1)


def test_unknown_events_are_refused() -> None:
    with pytest.raises(UnknownName, match="morphsearch_search_end"):
        plugins.fire("morphsearch_search_ended")
