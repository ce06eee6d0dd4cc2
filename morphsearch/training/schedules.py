"""Learning-rate schedules as pure functions of the step, so that resuming needs nothing but the step number."""

from __future__ import annotations

import math

ONECYCLE_START = 1 / 25  # of the peak rate; the values of torch.optim.lr_scheduler.OneCycleLR
ONECYCLE_END = ONECYCLE_START / 1e4


def factor(schedule: str, step: int, total: int, warmup: float) -> float:
    """The share of the peak learning rate at optimizer step `step` (0-based) of `total`.

    Cosine: Loshchilov & Hutter 2017 (SGDR, eq. 5, one cycle), after a linear warm-up (Goyal et al. 2017) over the first
    ``round(warmup * total)`` steps. Onecycle: Smith & Topin 2018 with cosine halves, equal to torch's ``OneCycleLR``
    with ``pct_start=warmup``. Steps past the end keep the factor of the last one.
    """
    step = min(step, total - 1)
    if schedule == "onecycle":
        return _onecycle(step, total, warmup)
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def _onecycle(step: int, total: int, warmup: float) -> float:
    peak, last = warmup * total - 1, total - 1
    if peak > 0 and step <= peak:
        return _anneal(ONECYCLE_START, 1.0, step / peak)
    return _anneal(1.0, ONECYCLE_END, (step - max(peak, 0)) / max(1e-9, last - max(peak, 0)))


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
