"""Executors run independent tasks, such as retrainings. Others come as plugins (``morphsearch_executors``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any


class LocalExecutor:
    """One task after another, in this process. Follows :class:`morphsearch.types.Executor`."""

    def run(self, tasks: Sequence[Callable[[], Any]]) -> Iterator[tuple[int, Any]]:
        """Yield ``(index, result)`` after each task; a task's exception propagates, and the later ones do not run."""
        for index, task in enumerate(tasks):
            yield index, task()
