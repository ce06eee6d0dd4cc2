"""The run directory: the record of a search, readable by any tool."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphsearch.arguments import require_path
from morphsearch.errors import DivergedError, InputError, UsageError
from morphsearch.files import append_line, read_json, read_lines, write_json, write_tensors, write_text
from morphsearch.locks import held
from morphsearch.loop.architecture import FILE, Architecture
from morphsearch.loop.changed import OPERATIONS
from morphsearch.loop.schema import REPAIR, finite, read_checked, wrong_field

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA_VERSION = 1
FORMAT = "morphsearch-run"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["schema_version"],
    "properties": {
        "schema_version": {"type": "integer", "minimum": 1},
        "seed_spec": {"type": ["string", "null"]},
        "strategy": {"type": "string"},
        "iterations": {"type": "integer", "minimum": 1},
        "config": {"type": "object"},
        "budgets": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["text", "metric"],
                "properties": {"text": {"type": "string"}, "metric": {"type": "string"}},
            },
        },
    },
}


class RunDirectory:
    """Paths and files of one run. See docs/reference/files.md for the layout."""

    def __init__(self, path: str | Path) -> None:
        require_path(path, "run_dir")
        self.path = Path(path)
        self.new = False  # whether run.json is of just now

    @classmethod
    def create(cls, path: str | Path, asked: Mapping[str, Any], *, python: bool = False) -> RunDirectory:
        """Start a run: write ``run.json``.

        Args:
            python: its network and data are a program's, so that no command can go on with it.

        Raises:
            UsageError: there is a run already.
            InputError: the folder cannot be written to.
        """
        run = cls(path)
        run.refuse_existing(python=python)
        write_json(run.record, {"format": FORMAT, "schema_version": SCHEMA_VERSION, **asked})
        run.new = True
        return run

    def held(self) -> AbstractContextManager[None]:
        """Keep other processes from going on with this run meanwhile; UsageError where one does so already."""
        return held(self.record, str(self.path))

    def discard_unbegun(self, error: Exception) -> None:
        """Remove the files of a run that ended by `error` before anything was trained; one that was there before stays.

        Other files in the folder, and the folder if it has some, stay too; so does the checkpoint of a training that
        diverged.
        """
        if not self.new or self.metrics.exists() or next(self.path.glob("iterations/*"), None) is not None:
            return
        if isinstance(error, DivergedError) and self.checkpoint.exists():
            return
        if any(not path.name.startswith("tensors-0") for path in self.checkpoint.glob("tensors-*")):
            return  # saved within the first epoch, which has no line yet
        with contextlib.suppress(OSError):
            shutil.rmtree(self.checkpoint, ignore_errors=True)
            for name in (FILE, "hardware.json", self.record.name):
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    def refuse_existing(self, *, python: bool = False) -> None:
        """Raise UsageError if there is a run already; `python`: see :meth:`create`."""
        if self.exists():
            raise UsageError(
                f"{self.path} already holds a run",
                "a run is never overwritten",
                "go on with it (resume=True and the same arguments), or choose another run_dir"
                if python
                else f"go on with it (morphsearch resume {self.path}), or choose another --run-dir",
            )

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

    @property
    def outcome(self) -> Path:
        """``result.json``: there once the run is complete."""
        return self.path / "result.json"

    def asked(self) -> dict[str, Any]:
        """The content of ``run.json``, checked.

        Raises:
            InputError: damaged, foreign or newer; the message names field and line.
        """
        return read_checked(self.record, SCHEMA, form=FORMAT, version=SCHEMA_VERSION, what="the record of a run")

    def require_same(self, asked: Mapping[str, Any]) -> None:
        """Refuse to go on with a run under other arguments.

        Raises:
            UsageError: it is a run of another kind; or an argument differs from what ``run.json`` says; versions of
                programs do not count.
        """
        recorded = self.asked()
        wanted = json.loads(json.dumps(asked))
        held, here = (_kind(one) for one in (recorded, wanted))
        if held != here:
            raise UsageError(
                f"{self.path} holds {held}, and this is {here}",
                "a run goes on as what it was started as",
                f"go on with it as {held}, or choose another run directory",
            )
        for key in ("versions", "format", "schema_version", OPERATIONS):
            recorded.pop(key, None)
            wanted.pop(key, None)
        for one in (recorded, wanted):
            if isinstance(one.get("config"), dict):
                one["config"] = {k: v for k, v in one["config"].items() if k != "allow_code"}
        differing = [key for key in {**recorded, **wanted} if recorded.get(key) != wanted.get(key)]
        if differing:
            key = differing[0]
            before, now = _brief(recorded.get(key)), _brief(wanted.get(key))
            raise UsageError(
                f"{self.path} was started with other arguments; {key}: {before}, now {now}",
                "a run goes on under the arguments that it was started with",
                "give those arguments again, or choose another run directory",
            )

    def log(self, event: str, **values: Any) -> None:
        """Append an event to ``metrics.jsonl``; numbers that are not finite become null.

        Raises:
            InputError: the file cannot be written to, or the disk is full.
        """
        try:
            append_line(self.metrics, {"event": event, **{key: finite(value) for key, value in values.items()}})
        except OSError as error:
            raise InputError(
                f"cannot write {self.metrics}: {error.strerror or error}",
                "the folder must be writable and the disk must have room",
                f"make room and go on with the run (morphsearch resume {self.path})",
            ) from error

    def events(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""
        return [line for line in read_lines(self.metrics) if isinstance(line, dict)]

    def rewind(self, step: int, epoch: int, tries: int = 0) -> None:
        """Make ``metrics.jsonl`` agree with the state that a resumed run goes on from.

        Lines of steps beyond `step` go, since they are about to come again, and so do those of the present morph's
        epochs beyond `epoch`: a checkpoint after the last batch of an epoch is of that step already, but the epoch has
        not been judged. Architectures that were saved get the line that a crash kept from being written. `tries` is how
        often the present morph had recovered by then.
        """
        lines = self.events()
        kept = [
            line
            for line in lines
            if line.get("event") not in ("step", "epoch", "shrunk", "warning")
            or not isinstance(line.get("step"), int)
            or line["step"] <= step
        ]
        now = len(self.architectures()) + 1
        kept = [
            line
            for line in kept
            if line.get("iteration", now) != now or not isinstance(line.get("epoch"), int) or line["epoch"] <= epoch
        ]
        kept = [
            line
            for line in kept
            if line.get("event") != "recovered" or line.get("iteration") != now or line.get("tries", 0) <= tries
        ]
        told = {line.get("iteration") for line in kept if line.get("event") == "iteration"}
        kept += [iteration_line(one) for one in self.architectures() if one.name not in told]
        if kept != lines:
            write_text(self.metrics, "".join(f"{json.dumps(finite(line))}\n" for line in kept))

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
        """The saved architectures in order.

        Raises:
            InputError: one is damaged, missing in between, or lies in the folder of another.
        """
        found = [Architecture.load(path) for path in sorted(self.path.glob(f"iterations/*/{FILE}"))]
        for number, architecture in enumerate(found, 1):
            assert architecture.path is not None
            if architecture.path.parent.name != f"{number:03d}":
                raise InputError(
                    f"{self.iteration(f'{number:03d}') / FILE} is missing",
                    "a run holds every iteration up to its last",
                    REPAIR,
                )
            if architecture.name != f"{number:03d}":
                raise wrong_field(architecture.path, ["name"], f"{architecture.name!r} in the folder of {number:03d}")
        return found

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write ``result.json``, which marks the run complete."""
        write_json(self.outcome, finite(dict(summary)))

    def result(self) -> dict[str, Any] | None:
        """The content of ``result.json``, None for a run that is not complete.

        Raises:
            InputError: it is damaged.
        """
        if not self.outcome.is_file():
            return None
        data = read_json(self.outcome)
        if not isinstance(data, dict) or not isinstance(data.get("best"), str):
            raise wrong_field(self.outcome, ["best"], "it is the name of an architecture")
        return data


def progress_of(state: Mapping[str, Any]) -> tuple[int, int]:
    """The steps and epochs that a checkpoint's state has done."""
    trainer = state.get("trainer")
    return int(state.get("step", 0)), int(trainer.get("epoch", 0)) if isinstance(trainer, Mapping) else 0


def iteration_line(architecture: Architecture) -> dict[str, Any]:
    """The line of ``metrics.jsonl`` for an architecture."""
    return {"event": "iteration", "iteration": architecture.name, "costs": architecture.totals, **architecture.metrics}


def _kind(asked: Mapping[str, Any]) -> str:
    kind = str(asked.get("kind", "search"))
    return {"search": "a search", "sparsify": "a sparsification"}.get(kind, f"a run of the kind {kind!r}")


def _brief(value: Any, most: int = 80) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}..."
