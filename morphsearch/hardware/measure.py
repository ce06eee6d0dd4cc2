"""Measuring a device: networks one after another, in the state in which they run, until the time is up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from morphsearch import plugins
from morphsearch.errors import InputError, MorphError
from morphsearch.hardware.kinds import Fusion
from morphsearch.hardware.predictor import NetworkSample, cross_validate, errors, fit
from morphsearch.hardware.profiles import MeasuredProfile
from morphsearch.hardware.sampling import Target, batch_of, build, variants
from morphsearch.hardware.settings import Settings, describe_device, describe_versions
from morphsearch.hardware.timing import Timing, time_interleaved
from morphsearch.hardware.work import COLUMNS, row_of, works_of

if TYPE_CHECKING:
    from torch import nn

    from morphsearch.types import LatencyBackend

Listener = Callable[[str, dict[str, Any]], None]
LEAST = 6
CHUNK = 4
REPEATS = 12


def backend_of(name: str) -> LatencyBackend:
    """The latency backend that was registered as `name`.

    Raises:
        UnknownName: no such backend; for ``onnxruntime`` the message says what to install.
    """
    known = plugins.registry("latency_backends")
    if name not in known and name.lower().replace("_", "").replace("-", "") in ("onnxruntime", "ort", "onnx"):
        raise InputError(
            f"the latency backend {name!r} is not installed",
            "ONNX Runtime is measured by a plugin of its own",
            "pip install morphsearch-onnxruntime (in a checkout: pip install ./plugins/morphsearch-onnxruntime)",
        )
    found: LatencyBackend = plugins.create("latency_backends", name)
    return found


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch with so many threads for one operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Prepared:
    target: Target
    widths: dict[str, int]
    run: Callable[[], Any]
    seen: Sequence[Any] = ()


@dataclass
class Session:
    """A device under measurement.

    Attributes:
        settings: how networks run. rounds, seconds: see :func:`~morphsearch.hardware.timing.time_interleaved`.
        notes: what the user should know: networks that could not be measured, noise.
    """

    settings: Settings
    rounds: int = 7
    seconds: float = 0.02
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.backend = backend_of(self.settings.backend)
        self.backend.check(self.settings)

    def prepare(self, model: nn.Module, example_inputs: Any) -> tuple[nn.Module, list[torch.Tensor]]:
        """A network and inputs on the device, in the dtype and at the batch size of the settings."""
        device = self.settings.require_device()
        moved = model.to(device=device, dtype=self.settings.torch_dtype).eval()
        return moved, batch_of(example_inputs, self.settings.batch, self.settings.torch_dtype, device)

    def time(self, networks: Sequence[tuple[nn.Module, Any]]) -> list[Timing]:
        """Milliseconds of networks (with example inputs), interleaved."""
        with threads(self.settings.threads):
            runs = []
            for model, example in networks:
                moved, inputs = self.prepare(model, example)
                runs.append(self.backend.prepare(moved, inputs, self.settings))
            return time_interleaved(runs, rounds=self.rounds, seconds=self.seconds)

    def sample(self, chosen: Sequence[tuple[Target, dict[str, int]]]) -> list[NetworkSample]:
        """Measure variants of targets, in turns: their operations first, then the whole networks."""
        with threads(self.settings.threads):
            ready = [item for target, widths in chosen if (item := self._ready(target, widths)) is not None]
            timings = time_interleaved([item.run for item in ready], rounds=self.rounds, seconds=self.seconds)
        return [self._sample(item, timing) for item, timing in zip(ready, timings, strict=True)]

    def _ready(self, target: Target, widths: dict[str, int]) -> _Prepared | None:
        try:
            model, inputs = self.prepare(build(target, widths), target.graph.example_inputs)
            seen = self.backend.observe(model, inputs, self.settings, REPEATS)
            return _Prepared(target, widths, self.backend.prepare(model, inputs, self.settings), seen)
        except MorphError as error:
            self.notes.append(f"{target.name} could not be measured at some widths: {error.arrived}")
            return None

    def _sample(self, item: _Prepared, timing: Timing) -> NetworkSample:
        graph = item.target.graph
        widths = np.array([{**graph.widths, **item.widths}[name] for name in graph.groups], np.float64)
        works = works_of(graph, Fusion.of(self.backend), self.settings.batch)
        names, rows, seconds = [], [], []
        for seen in item.seen:
            name, row = row_of(seen)
            names.append(name)
            rows.append(row)
            seconds.append(Timing.of([1e3 * value for value in seen.seconds]).ms / 1e3)
        observed = (names, np.array(rows, np.float64).reshape(-1, len(COLUMNS)), np.array(seconds))
        at = works.rows(widths)
        return NetworkSample(
            item.target.name,
            [int(w) for w in widths],
            works.families,
            at,
            works.steps,
            observed,
            timing.ms,
            timing.low,
            timing.high,
            timing.repeated,
        )


def profile(
    targets: Sequence[Target],
    settings: Settings,
    *,
    name: str = "",
    limit: float = 120.0,
    networks: int = 48,
    seed: int = 0,
    listener: Listener | None = None,
) -> MeasuredProfile:
    """Measure this device.

    Args:
        targets: networks whose random variants are measured; see :func:`~morphsearch.hardware.sampling.sweep`.
        limit: seconds after which no further network is begun. networks: how many are measured at most.
        listener: hears ``progress`` with `done`, `total`, `seconds`, and ``note``.

    Raises:
        InputError: the device or the backend is not there, or too little could be measured within the limit.
    """
    hear = listener or (lambda kind, payload: None)
    session = Session(settings)
    stream, started = variants(targets, seed), time.monotonic()
    samples: list[NetworkSample] = []
    while len(samples) < networks and time.monotonic() - started < limit:
        samples += session.sample(list(islice(stream, min(CHUNK, networks - len(samples)))))
        hear("progress", {"done": len(samples), "total": networks, "seconds": time.monotonic() - started})
        if not samples and time.monotonic() - started > limit / 4:
            break
    return finish(samples, session, name=name, seed=seed, seconds=time.monotonic() - started)


def finish(
    samples: Sequence[NetworkSample], session: Session, *, name: str = "", seed: int = 0, seconds: float = 0.0
) -> MeasuredProfile:
    """Fit what was measured and say how good it is.

    Raises:
        InputError: there are too few samples.
    """
    settings = session.settings
    if len(samples) < LEAST:
        raise InputError(
            f"{len(samples)} networks were measured in {seconds:.0f} seconds",
            f"a predictor needs {LEAST} or more",
            f"raise --limit{'; ' + session.notes[0] if session.notes else ''}",
        )
    held_out = errors(cross_validate(samples, seed=seed))
    repeated = np.array([sample.repeated for sample in samples])
    noise = {"repeated": float(repeated.mean()), "worst": float(repeated.max())}
    notes = list(dict.fromkeys(session.notes))
    if noise["repeated"] > 0.05:
        notes.append(
            f"the machine was busy: the same network measured twice differs by {100 * noise['repeated']:.0f}% on "
            "average; the figures are no better than that. Stop other programs and measure again"
        )
    return MeasuredProfile(
        name=name or f"{settings.device.replace(':', '')}-{settings.backend}-b{settings.batch}-t{settings.threads}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        device=describe_device(settings.device),
        settings=settings,
        versions={**describe_versions(), **session.backend.versions()},
        predictor=fit(samples, seed),
        fusion=Fusion.of(session.backend),
        samples=list(samples),
        error=held_out,
        noise=noise,
        seconds=seconds,
        notes=notes,
    )
