"""The hardware profile of a search: found once, kept with the run, and gone on with."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from morphsearch import plugins
from morphsearch.arguments import shown
from morphsearch.errors import UsageError
from morphsearch.files import write_json
from morphsearch.hardware.profiles import as_file

FILE = "hardware.json"


def of_run(path: str | Path | None) -> Path | None:
    """The profile that a run keeps, if it has one."""
    kept = Path(path) / FILE if path is not None else None
    return kept if kept is not None and kept.is_file() else None


def hardware_for(budget: str | Sequence[str], hardware: Any, run_dir: str | Path | None) -> Any:
    """The profile that a search under these budgets uses: the run's own copy, else what was asked for, else the default
    of this device; None where no cost depends on hardware.

    Raises:
        UnknownName: no such hardware. InputError: a damaged file, or this device has not been measured.
        UsageError: hardware for budgets that do not depend on it.
    """
    from morphsearch.hardware import Latency
    from morphsearch.loop.budget import parse_schedule

    texts = [budget] if isinstance(budget, str) else list(budget)
    metrics = {parsed.metric for text in texts for parsed in parse_schedule(text)}
    if not depends(metrics):
        check_depends(metrics, hardware)
        return None
    return Latency(of_run(run_dir) or hardware).profile()


def depends(costs: Iterable[str]) -> bool:
    """Whether one of these costs depends on hardware."""
    return any("hardware" in _arguments(cost) for cost in costs)


def check_depends(costs: Iterable[str], hardware: Any) -> None:
    """Refuse hardware where none of the `costs` depends on it.

    Raises:
        UsageError: as said.
    """
    costs = sorted(costs)
    if hardware is not None and not depends(costs):
        raise UsageError(
            f"hardware={shown(hardware)} with {', '.join(costs) or 'no costs'}",
            "hardware says what the cost latency is; these do not depend on it",
            "leave it out, or ask for latency (--budget latency=50%, inspect --cost latency)",
        )


def keep_hardware(profile: Any, path: Path) -> None:
    """Copy the profile into the run, so that it can be gone on with anywhere."""
    if profile is not None:
        write_json(path / FILE, as_file(profile))


def _arguments(metric: str) -> Sequence[str]:
    return list(inspect.signature(plugins.record("cost_models", metric).factory).parameters)
