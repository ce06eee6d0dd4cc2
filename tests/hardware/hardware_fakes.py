"""A simulated device: operations take what a formula says, in steps of 16 channels, so that tests know the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from morphsearch.hardware.kinds import Fusion
from morphsearch.hardware.predictor import NetworkSample, fit
from morphsearch.hardware.profiles import MeasuredProfile
from morphsearch.hardware.sampling import Target, draw_widths
from morphsearch.hardware.settings import Settings, describe_device, describe_versions
from morphsearch.hardware.work import works_of

MACS, BYTES, LAUNCH, BETWEEN = 2e10, 4e9, 2e-6, 0.05  # per second, per second, seconds, milliseconds a network


def seconds(families: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """What the simulated device takes for each operation."""
    _, o, per_group, kernel, _, made, read, written, _, _ = rows.T
    padded = np.ceil(o / 16) * 16
    weighted = np.array([name.startswith("conv") or name == "linear" for name in families])
    work = np.where(weighted, made * padded * np.maximum(per_group, 1) * kernel / MACS, (read + written) / BYTES)
    return LAUNCH + work


def network() -> nn.Sequential:
    """Three convolutions, one of them depthwise, and a head."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 40, 3, padding=1), nn.BatchNorm2d(40), nn.ReLU()),
        *(nn.Conv2d(40, 64, 3, 2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 96, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10)),
    )


def target(name: str = "net") -> Target:
    """:func:`network`, recorded at 32 x 32."""
    return Target.of(name, network(), torch.zeros(1, 3, 32, 32))


def sample(of: Target, widths: dict[str, int]) -> NetworkSample:
    """One network as the simulated device would be measured."""
    complete = {**of.graph.widths, **widths}
    works = works_of(of.graph, Fusion(), 1)
    at = works.rows(np.array([complete[name] for name in of.graph.groups], np.float64))
    times = seconds(works.families, at)
    ms = 1e3 * float(times.sum()) + BETWEEN
    seen = (works.families, at, times)
    return NetworkSample(of.name, list(complete.values()), works.families, at, works.steps, seen, ms, ms, ms)


def samples(of: Target, count: int = 24, seed: int = 0) -> list[NetworkSample]:
    """Networks of random widths."""
    rng = np.random.default_rng(seed)
    return [sample(of, draw_widths(of.graph, rng)) for _ in range(count)]


def profile(
    of: Target | None = None, *, name: str = "simulated", created: str = "2026-01-01T00:00:00+00:00"
) -> MeasuredProfile:
    """A profile of the simulated device, which claims to be this machine."""
    return MeasuredProfile(
        name=name,
        created=created,
        device=describe_device("cpu"),
        settings=Settings(),
        versions=describe_versions(),
        predictor=fit(samples(of or target())),
        error={"mape": 0.01, "within_10": 1.0, "largest": 0.02, "networks": 24},
        noise={"repeated": 0.0, "worst": 0.0},
    )
