"""What plugins may register, how a record is checked, and how a fault of a plugin is put into words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from morphsearch.errors import PluginError
from morphsearch.types import (
    CommandRecord,
    CostModelRecord,
    DataRecord,
    ExecutorRecord,
    ExporterRecord,
    LatencyBackendRecord,
    ModelRecord,
    OperationRecord,
    Record,
    StrategyRecord,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Kind:
    """A kind of record: what one is called in messages, the type of its records and the hook that returns them.

    `methods`: what every product of a factory has, by which a wrong one is told at once.
    """

    noun: str
    record: type[Record]
    hook: str
    methods: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "cost_models": Kind("cost model", CostModelRecord, "morphsearch_cost_models", ("bind",)),
    "strategies": Kind("strategy", StrategyRecord, "morphsearch_strategies", ("scores",)),
    "operations": Kind("operation rule", OperationRecord, "morphsearch_operations"),
    "models": Kind("model", ModelRecord, "morphsearch_models"),
    "data": Kind("data source", DataRecord, "morphsearch_data"),
    "exporters": Kind("exporter", ExporterRecord, "morphsearch_exporters", ("export",)),
    "executors": Kind("executor", ExecutorRecord, "morphsearch_executors", ("run",)),
    "latency_backends": Kind("latency backend", LatencyBackendRecord, "morphsearch_latency_backends", ("check",)),
    "commands": Kind("command", CommandRecord, "morphsearch_commands"),
}
EVENTS = ("morphsearch_iteration_end", "morphsearch_search_end")


class PluginWarning(UserWarning):
    """A plugin that failed, or did something that it should not; morphsearch carries on without that part of it."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one plugin; :meth:`__str__` is the line that users see."""

    plugin: str
    origin: str
    reason: str
    remedy: str
    kind: str = "plugin"
    name: str = ""

    def __str__(self) -> str:
        return f"{self._who}: {self.reason}; {self.remedy}"

    def error(self) -> PluginError:
        """The same as an error (exit code 4)."""
        return PluginError(f"{self._who}: {self.reason}", "", self.remedy)

    @property
    def _who(self) -> str:
        named = self.origin.startswith(self.plugin)
        return f"plugin {self.origin}" if named else f"plugin {self.plugin!r} ({self.origin})"


@dataclass(frozen=True)
class Row:
    """A line of ``morphsearch plugins``; `status` is ``ok``, ``disabled`` or ``broken: REASON``."""

    kind: str
    name: str
    summary: str
    origin: str
    status: str = "ok"

    def to_dict(self) -> dict[str, str]:
        """The row as JSON-ready data."""
        return dataclasses.asdict(self)


def fault(item: object, expected: type[Record]) -> str:
    """What is wrong with a record, or an empty string."""
    if not isinstance(item, expected):
        return f"{item!r:.80} where {expected.__name__} is due"
    name: Any = item.name
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"the name {name!r:.80}; names are letters, digits and _ . + -"
    summary: Any = item.summary
    if not isinstance(summary, str) or not summary.strip() or "\n" in summary:
        return f"{item.name!r} without a summary of one line"
    factory: Any = item.factory
    if not callable(factory):
        return f"{item.name!r} whose factory cannot be called"
    return ""
