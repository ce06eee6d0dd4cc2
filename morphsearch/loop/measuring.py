"""After the search, the truth: the latency of every compared architecture on this device, beside the prediction."""

from __future__ import annotations

from typing import Any

from morphsearch.errors import MorphError, UnknownName
from morphsearch.hardware import Latency, MeasuredProfile, Settings
from morphsearch.hardware.measure import Session
from morphsearch.hardware.sampling import Target, build
from morphsearch.loop.comparison import Comparison
from morphsearch.loop.hardware import of_run
from morphsearch.loop.rundir import RunDirectory

SPREAD = 0.05  # above which the interval is told in words too


def measure_latency(
    comparison: Comparison, run: RunDirectory, *, backend: str | None = None, allow_code: bool = False
) -> Comparison:
    """Fill in the latency of every row, measured here in turns; what cannot be measured is a warning, not an error.

    Args:
        backend: default: that of the run's hardware profile, or else of this device's newest; ``eager`` without one.
        allow_code: leave to build seeds whose factory is not part of morphsearch.

    Raises:
        UnknownName: no such backend.
    """
    profile = _profile(run)
    settings = profile.settings if profile is not None else Settings()
    if backend is not None and backend != settings.backend:
        settings, profile = Settings(backend, settings.device, settings.dtype, settings.batch, settings.threads), None
    try:
        session = Session(settings)
        found = run.architectures()[-1]
        seed = found.seed(allow_code=allow_code).eval()
        graph = found.graph(seed)
        target = Target(run.path.name, graph)
        rows = [
            row for row in comparison.rows if row.widths and row.kind != "distilled"
        ]  # as fast as without a teacher
        timings = session.time([(build(target, row.widths), graph.example_inputs) for row in rows])
    except UnknownName:
        raise
    except MorphError as error:
        comparison.warnings.append(f"Latency was not measured: {error.arrived}. {error.repair}")
        return comparison
    for row, timing in zip(rows, timings, strict=True):
        row.latency = {"measured": timing.ms, "low": timing.low, "high": timing.high}
        if profile is not None:
            row.latency["predicted"] = _predicted(profile, graph, row.widths)
    comparison.latency_of = str(settings)
    noisy = [row.label for row, timing in zip(rows, timings, strict=True) if timing.spread > SPREAD]
    if noisy:
        comparison.warnings.append(
            f"The machine was busy while {', '.join(noisy)} ran: mind the intervals, or compare again when it is quiet."
        )
    return comparison


def _profile(run: RunDirectory) -> MeasuredProfile | None:
    """The measured profile of a run, if it is of this device; else the newest of this device, if there is one."""
    for hardware in (of_run(run.path), None):
        try:
            profile: Any = Latency(hardware).profile()
        except MorphError:
            continue
        if isinstance(profile, MeasuredProfile) and not any("measured on" in why for why in profile.strangeness()):
            return profile
    return None


def _predicted(profile: MeasuredProfile, graph: Any, widths: dict[str, int]) -> float:
    from morphsearch.costs import vector

    return float(profile.bind(graph).total(vector(graph, widths)))
