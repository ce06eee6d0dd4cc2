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
from torch import nn

from morphsearch import plugins
from morphsearch.arguments import shown
from morphsearch.errors import InputError, MorphError, PluginError
from morphsearch.hardware.algorithms import rule_of
from morphsearch.hardware.allowance import Allowance
from morphsearch.hardware.gauge import FIRST, Gauge
from morphsearch.hardware.kinds import Fusion
from morphsearch.hardware.memory import keep_memory
from morphsearch.hardware.pace import drift, even_pace, suffered
from morphsearch.hardware.predictor import NetworkSample, cross_validate, errors, fit
from morphsearch.hardware.profiles import MeasuredProfile
from morphsearch.hardware.sampling import Target, batch_of, build, variants
from morphsearch.hardware.settings import Settings, describe_device, describe_versions
from morphsearch.hardware.timing import Timing, once, time_interleaved
from morphsearch.hardware.watching import quiet_middles
from morphsearch.hardware.work import COLUMNS, row_of, works_of

if TYPE_CHECKING:
    from morphsearch.types import LatencyBackend, Observation

Listener = Callable[[str, dict[str, Any]], None]
REFERENCE = 64  # pixels of the images of the network that tells the pace
DRIFTING = 0.1  # share by which the pace of a machine may change before that is told
LEAST = 6
CHUNK = 4
WATCHED = 0.6  # seconds that a network is watched for
REPEATS = (16, 80)  # passes that it is watched in, at least and at most
PASSES = 8  # before turns and before watching, to warm up and to see how long one takes
BUSY = 2.0  # times its quickest pass that a usual one may take
PATIENCE = 1.5  # seconds for each network, in which a machine may find its full pace


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


def reference() -> nn.Module:
    """A network that never changes: how long it takes tells how fast a machine runs at the moment.

    Machines change their pace from minute to minute, by their clocks or by what else runs on the same chip. Each chunk
    of networks is timed beside this one, and what they take is scaled to the pace that the machine mostly has.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for c, o in ((3, 32), (32, 64), (64, 64), (64, 128)):
            layers += [nn.Conv2d(c, o, 3, 2 if c < o else 1, 1), nn.BatchNorm2d(o), nn.ReLU()]
            layers += [nn.Conv2d(o, o, 3, 1, 1, groups=o), nn.BatchNorm2d(o), nn.Hardswish(), nn.Conv2d(o, o, 1)]
        return nn.Sequential(*layers).eval()


@dataclass
class _Prepared:
    target: Target
    widths: dict[str, int]
    model: nn.Module
    inputs: list[torch.Tensor]
    run: Callable[[], Any]


@dataclass
class Session:
    """A device under measurement.

    Attributes:
        settings: how networks run.
        rounds, seconds, patience: see :func:`~morphsearch.hardware.timing.time_interleaved`.
        notes: what the user should know: networks that could not be measured, noise.
        allowance: seconds that all of it may take.
    """

    settings: Settings
    rounds: int = 7
    seconds: float = 0.02
    patience: float = PATIENCE
    notes: list[str] = field(default_factory=list)
    allowance: Allowance = field(default_factory=Allowance)

    def __post_init__(self) -> None:
        self._paced: Callable[[], Any] | None = None
        self._gauge: Gauge | None = None
        self.backend = backend_of(self.settings.backend)
        self.backend.check(self.settings)
        keep_memory()

    def prepare(self, model: nn.Module, example_inputs: Any) -> tuple[nn.Module, list[torch.Tensor]]:
        """A network and inputs on the device, in the dtype and at the batch size of the settings."""
        device = self.settings.require_device()
        moved = model.to(device=device, dtype=self.settings.torch_dtype).eval()
        return moved, batch_of(example_inputs, self.settings.batch, self.settings.torch_dtype, device)

    def _runner(self, model: nn.Module, inputs: list[torch.Tensor]) -> Callable[[], Any]:
        run: Any = self.backend.prepare(model, inputs, self.settings)
        self._answered(callable(run), f"prepare() returned {shown(run)}", "prepare() returns a function, one pass")
        return run  # type: ignore[no-any-return]

    def _observed(self, model: nn.Module, inputs: list[torch.Tensor], repeats: int) -> Sequence[Observation]:
        seen: Any = self.backend.observe(model, inputs, self.settings, repeats)
        due = "observe() returns a list of Observation, empty where it cannot tell"
        self._answered(isinstance(seen, Sequence), f"observe() returned {shown(seen)}", due)
        return seen  # type: ignore[no-any-return]

    def _answered(self, holds: bool, what: str, due: str) -> None:
        plugins.answered(holds, "latency_backends", self.settings.backend, what, due)

    def time(self, networks: Sequence[tuple[nn.Module, Any]]) -> list[Timing]:
        """Milliseconds of networks (with example inputs), interleaved."""
        return self.paced(networks)[0]

    def paced(self, networks: Sequence[tuple[nn.Module, Any]]) -> tuple[list[Timing], float]:
        """:meth:`time`, and the milliseconds of the reference meanwhile: see :func:`reference`."""
        with threads(self.settings.threads):
            runs = []
            for model, example in networks:
                moved, inputs = self.prepare(model, example)
                runs.append(self._runner(moved, inputs))
            found, pace = self._timed(runs, self.rounds)
            return found, pace.ms

    def _reference(self) -> Callable[[], Any]:
        """A pass of the network that tells how fast the machine runs at the moment."""
        if self._paced is None:
            model, inputs = self.prepare(reference(), torch.zeros(1, 3, REFERENCE, REFERENCE))
            self._paced = self._runner(model, inputs)
        return self._paced

    def _timed(self, runs: Sequence[Callable[[], Any]], rounds: int) -> tuple[list[Timing], Timing]:
        """Of functions, and of the reference, in turns."""
        if self._gauge is None and self.settings.device == "cpu":
            self._gauge = Gauge(self.settings.threads, FIRST * self.allowance.brief)
        *found, pace = time_interleaved(
            [*runs, self._reference()],
            rounds=rounds,
            seconds=self.allowance.brief * self.seconds,
            gauge=self._gauge,
            waits=self.settings.device != "cpu",
            patience=self.allowance.brief * self.patience * rounds / self.rounds,
        )
        return found, pace

    def warm_up(self) -> None:
        """Run and watch a network once: what is loaded and compiled at first use takes seconds."""
        model, inputs = self.prepare(reference(), torch.zeros(1, 3, REFERENCE, REFERENCE))
        with threads(self.settings.threads):
            self._reference()()
            self._observed(model, inputs, 1)

    def sample(self, chosen: Sequence[tuple[Target, dict[str, int]]]) -> list[NetworkSample]:
        """Measure variants of targets, in turns: whole networks, their operations, whole networks again.

        So that a machine that changes its pace has much the same pace for both. What cannot be measured is left out,
        with a note; what there is no time for, without.
        """
        with threads(self.settings.threads):
            ready = self._affordable(chosen)
            if not ready:
                return []
            runs, before = [item.run for item in ready], self.rounds // 2
            first, pace = self._timed(runs, before) if before else ([], None)
            seen = [self._watch(item) for item in ready]
            last, after = self._timed(runs, self.rounds - before)
        timings = [one.joined(other) for one, other in zip(first, last, strict=True)] if first else last
        pace = pace.joined(after) if pace is not None else after
        found = zip(ready, timings, seen, strict=True)
        return [self._sample(item, timing, own, pace.ms) for item, timing, own in found if own is not None]

    def _affordable(self, chosen: Sequence[tuple[Target, dict[str, int]]]) -> list[_Prepared]:
        """Those that run, as many from the first on as can be measured in the time that is left."""
        ready: list[_Prepared] = []
        needed = 0.0
        for target, widths in chosen:
            began = time.monotonic()
            item = self._ready(target, widths) if self.allowance.left > needed else None
            if item is None:
                continue
            seconds = min(once(item.run)[0] for _ in range(2))
            lasts = BUSY * (2 * self.rounds + REPEATS[0] + PASSES) * seconds
            self.allowance.took(time.monotonic() - began + lasts, 1)
            if needed + lasts > self.allowance.left:
                break
            needed += lasts
            ready.append(item)
        return ready

    def _ready(self, target: Target, widths: dict[str, int]) -> _Prepared | None:
        try:
            model, inputs = self.prepare(build(target, widths), target.graph.example_inputs)
            return _Prepared(target, widths, model, inputs, self._runner(model, inputs))
        except PluginError:
            raise
        except MorphError as error:
            self._lost(target, error)
            return None

    def _watch(self, item: _Prepared) -> Sequence[Observation] | None:
        repeats = round(self.allowance.brief * WATCHED / max(1e-6, min(once(item.run)[0] for _ in range(2))))
        try:
            return self._observed(item.model, item.inputs, max(REPEATS[0], min(REPEATS[1], repeats)))
        except PluginError:
            raise
        except MorphError as error:
            self._lost(item.target, error)
            return None

    def _lost(self, target: Target, error: MorphError) -> None:
        self.notes.append(f"{target.name} could not be measured at some widths: {error.arrived}")

    def _sample(self, item: _Prepared, timing: Timing, watched: Sequence[Observation], pace: float) -> NetworkSample:
        graph = item.target.graph
        widths = np.array([{**graph.widths, **item.widths}[name] for name in graph.groups], np.float64)
        works = works_of(graph, Fusion.of(self.backend, self.settings), self.settings.batch)
        names, rows = [], []
        for seen in watched:
            name, row = row_of(seen)
            names.append(name)
            rows.append(row)
        times = quiet_middles([seen.seconds for seen in watched])
        issued = quiet_middles([seen.issued for seen in watched if seen.issued])
        observed = (names, np.array(rows, np.float64).reshape(-1, len(COLUMNS)), times)
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
            pace,
            issued,
            rule_of(self.settings),
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

    Interrupted, it makes do with what has been measured, if that is enough for a fit.

    Args:
        targets: networks whose random variants are measured; see :func:`~morphsearch.hardware.sampling.sweep`.
        limit: seconds that measuring may take; warming up comes before, the fit after. Short ones shorten what each
            network gets, and none is begun that would end too late. networks: how many are measured at most.
        listener: hears ``progress`` with `done`, `total`, `seconds`, and ``interrupted`` with `done`.

    Raises:
        InputError: the device or the backend is not there, or too little could be measured within the limit.
        KeyboardInterrupt: interrupted before enough was measured.
    """
    hear = listener or (lambda kind, payload: None)
    stream, session = variants(targets, seed), Session(settings)
    session.warm_up()
    allowance = session.allowance = Allowance(limit)
    samples: list[NetworkSample] = []
    chunk = CHUNK if allowance.brief == 1 else 2  # the first lot tells how long a network takes
    while count := allowance.room(min(chunk, networks - len(samples))):
        began = time.monotonic()
        try:
            fresh = session.sample(list(islice(stream, count)))
        except KeyboardInterrupt:
            if len(samples) < LEAST:
                raise
            session.notes.append(f"measuring was interrupted after {len(samples)} of {networks} networks")
            hear("interrupted", {"done": len(samples)})
            break
        samples, chunk = samples + fresh, CHUNK
        allowance.took(time.monotonic() - began, len(fresh))
        hear("progress", {"done": len(samples), "total": networks, "seconds": allowance.spent})
        if not samples and allowance.spent > limit / 4:
            break
    return finish(samples, session, name=name, seed=seed, seconds=allowance.spent)


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
            f"raise --limit{session.allowance.enough(LEAST)}{'; ' + session.notes[0] if session.notes else ''}",
        )
    power = suffered(samples, seed)
    samples = even_pace(samples, power)
    held_out = errors(cross_validate(samples, seed=seed))
    repeated = np.array([sample.repeated for sample in samples])
    paces = np.array([sample.pace for sample in samples])
    noise = {"repeated": float(repeated.mean()), "worst": float(repeated.max()), "drift": float(drift(paces))}
    notes = list(dict.fromkeys(session.notes))
    if noise["repeated"] > 0.05:
        notes.append(
            f"the machine was busy: the same network measured twice differs by {100 * noise['repeated']:.0f}% on "
            "average; the figures are no better than that. Stop other programs and measure again"
        )
    if noise["drift"] > DRIFTING:
        notes.append(
            f"the machine changed its pace while it was measured: a reference network took "
            f"{100 * noise['drift']:.0f}% more "
            "or less than usual on average; times are scaled to its usual pace, and milliseconds are no truer than that"
        )
    return MeasuredProfile(
        name=name or f"{settings.device.replace(':', '')}-{settings.backend}-b{settings.batch}-t{settings.threads}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        device=describe_device(settings.device),
        settings=settings,
        versions={**describe_versions(), **session.backend.versions()},
        predictor=fit(samples, seed),
        fusion=Fusion.of(session.backend, settings),
        samples=list(samples),
        error=held_out,
        noise=noise,
        pace=float(np.median(paces)),
        pace_power=power,
        seconds=seconds,
        notes=notes,
    )
