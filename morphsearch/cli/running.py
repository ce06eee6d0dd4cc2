"""What commands that work on a run share: its folder, its listener, its line in a list."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from morphsearch.cli.state import current
from morphsearch.errors import InputError, StoppedError, UsageError, nearest

Listener = Callable[[str, dict[str, Any]], None]


def new_run_dir(model: str, parent: Path = Path("runs")) -> Path:
    """The first free ``runs/NAME-001``."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", re.split(r"[?]", model)[0].split("/")[-1]).strip("-.") or "run"
    number = 1
    while (parent / f"{name}-{number:03d}").exists():
        number += 1
    return parent / f"{name}-{number:03d}"


def remember(run_dir: Path) -> None:
    """Let an interrupt name the run that it leaves behind."""
    current().run_dir = run_dir


def refuse_existing(run_dir: Path) -> None:
    """Say so at once, and not after the data were loaded.

    Raises:
        UsageError: the folder holds a run.
    """
    if (run_dir / "run.json").exists():
        raise UsageError(
            f"{run_dir} already holds a run",
            "a run is never overwritten",
            f"go on with it (morphsearch resume {run_dir}), or choose another --run-dir",
        )


def existing_run(run_dir: Path) -> Path:
    """Check that a run directory is there, and remember it.

    Raises:
        InputError: it is no run directory; the nearest ones are named.
    """
    if not (run_dir / "run.json").is_file():
        siblings = [str(path) for path in find_runs(run_dir.parent, strict=False)]
        close = nearest(str(run_dir), siblings)
        what = "does not exist" if not run_dir.exists() else "holds no run.json"
        raise InputError(
            f"{run_dir} {what}",
            f"a run directory is what `morphsearch search` wrote; beside it are: {', '.join(siblings[:8]) or 'none'}",
            f"did you mean {' or '.join(close)}?" if close else "see `morphsearch runs FOLDER`",
        )
    remember(run_dir)
    return run_dir


def searched_run(run_dir: Path) -> Path:
    """:func:`existing_run`, of a search.

    Raises:
        UsageError: a sparsification, which has no architectures of its own.
    """
    existing_run(run_dir)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a damaged record is for whoever reads it to name
        if json.loads((run_dir / "run.json").read_text(encoding="utf-8")).get("kind") == "sparsify":
            raise UsageError(
                f"{run_dir} is a sparsification",
                "architectures are retrained and compared in the runs of searches",
                f"see its result: morphsearch resume {run_dir}",
            )
    return run_dir


def find_runs(folder: Path, *, strict: bool = True, depth: int = 3) -> list[Path]:
    """The run directories in a folder, in the order of their names.

    Raises:
        InputError: with `strict`, there is no such folder.
    """
    if not folder.is_dir():
        if strict and str(folder) != "runs":
            raise InputError(f"{folder} is no folder", "runs are looked for in a folder", "check the path")
        return []
    found = {path.parent for level in range(depth + 1) for path in folder.glob("*/" * level + "run.json")}
    return sorted(found)


@contextlib.contextmanager
def listening(*, quiet: bool) -> Iterator[Listener | None]:
    """A listener that shows progress on stderr while the block runs; None when `quiet`."""
    if quiet:
        yield None
        return
    from morphsearch.report.progress import progress

    with progress() as listener:
        yield listener


@contextlib.contextmanager
def resuming_with(command: str, run_dir: Path) -> Iterator[None]:
    """Let an interrupt, or a disk that is full, within the block name the very command that goes on with the run."""
    try:
        yield
    except StoppedError as error:
        raise StoppedError(error.arrived, error.rule, command) from error
    except InputError as error:
        if error.arrived.startswith("cannot write") and (run_dir / "run.json").is_file():
            raise InputError(error.arrived, error.rule, f"make room, and go on with the run: {command}") from error
        raise


def resume_command(run_dir: Path, *, allow_code: bool) -> str:
    """The command that goes on with a search."""
    return f"morphsearch resume {shlex.quote(str(run_dir))}{' --allow-code' if allow_code else ''}"
