"""Built-in executors."""

from __future__ import annotations

from typing import Any

from morphsearch.hookspecs import hookimpl
from morphsearch.types import ExecutorRecord


def _local() -> Any:
    from morphsearch.training.executors import LocalExecutor

    return LocalExecutor()


@hookimpl
def morphsearch_executors() -> list[ExecutorRecord]:
    """``local``."""
    return [ExecutorRecord("local", "One task after another in this process", _local)]
