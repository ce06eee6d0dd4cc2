"""The run directory: the record of a search, readable by any tool."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphsearch.errors import InputError, UsageError
from morphsearch.files import append_line, read_json, read_lines, write_json, write_tensors
from morphsearch.loop.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA_VERSION = 1
FORMAT = "morphsearch-run"


class RunDirectory:
    """Paths and files of one run. See docs/reference/files.md for the layout."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, asked: Mapping[str, Any]) -> RunDirectory:
        """Start a run: write ``run.json``.

        Raises:
            UsageError: there is a run already.
            InputError: the folder cannot be written to.
        """
        run = cls(path)
        if run.exists():
            raise UsageError(
                f"{run.path} already holds a run",
                "a run is never overwritten",
                f"go on with it (morphsearch resume {run.path}), or choose another --run-dir",
            )
        write_json(run.record, {"format": FORMAT, "schema_version": SCHEMA_VERSION, **asked})
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """An existing run.

        Raises:
            InputError: no run there, or one that this version cannot read.
        """
        run = cls(path)
        if not run.exists():
            raise InputError(
                f"{run.path} holds no run" if run.path.exists() else f"{run.path} does not exist",
                "a run directory has a run.json",
                "check the path; `morphsearch runs FOLDER` lists the runs in a folder",
            )
        run.asked()
        return run

    def exists(self) -> bool:
        """Whether ``run.json`` is there."""
        return self.record.is_file()

    @property
    def record(self) -> Path:
        """``run.json``: what was asked."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """``metrics.jsonl``: one line an event."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """``checkpoint/``: what a resumed run goes on from."""
        return self.path / "checkpoint"

    def asked(self) -> dict[str, Any]:
        """The content of ``run.json``, checked.

        Raises:
            InputError: damaged, foreign or newer.
        """
        data = read_json(self.record)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise InputError(
                f"{self.record} is not the record of a run", f'it has "format": "{FORMAT}"', "check the path, or restore it from a copy"
            )
        if not isinstance(data.get("schema_version"), int) or data["schema_version"] > SCHEMA_VERSION:
            raise InputError(
                f"{self.record}: schema_version is {data.get('schema_version')!r}",
                f"this morphsearch reads versions up to {SCHEMA_VERSION}",
                "update morphsearch",
            )
        return data

    def log(self, event: str, **values: Any) -> None:
        """Append an event to ``metrics.jsonl``; numbers that are not finite become null."""
        append_line(self.metrics, {"event": event, **{key: finite(value) for key, value in values.items()}})

    def events(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""
        return read_lines(self.metrics)

    def iteration(self, name: str) -> Path:
        """The folder of one iteration."""
        return self.path / "iterations" / name

    def save(self, architecture: Architecture, weights: Mapping[str, Tensor] | None) -> None:
        """Save an architecture and its inherited weights; the architecture last, since it makes the iteration count."""
        folder = self.iteration(architecture.name)
        if weights is not None:
            write_tensors(folder / "weights.safetensors", weights)
        architecture.save(folder)

    def architectures(self) -> list[Architecture]:
        """The saved architectures in order."""
        return [Architecture.load(path) for path in sorted(self.path.glob("iterations/*/architecture.json"))]

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write ``result.json``, which marks the run complete."""
        write_json(self.path / "result.json", finite(dict(summary)))

    def result(self) -> dict[str, Any] | None:
        """The content of ``result.json``, None for a run that is not complete."""
        path = self.path / "result.json"
        return read_json(path) if path.is_file() else None


def finite(value: Any) -> Any:
    """`value` with everything JSON can hold; NaN and infinity become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
