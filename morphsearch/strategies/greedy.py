"""Narrowing by evaluation: the step that costs least held-out loss for what it saves, again and again.

AutoSlim (Yu and Huang, arXiv 1903.11728, section 3.3) takes a step of width off the layer whose loss of accuracy is
least; with layers as dear as they are here, what counts is the rise of the loss over the saving of cost, as in NetAdapt
(Yang et al., arXiv 1804.03230, section 3.2). A step that was dear a moment ago seldom became cheap, so evaluations are
lazy (Minoux 1978): a step is measured again only when, by its last measurement, it would be next.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

Widths = dict[str, int]


def narrow(
    start: Mapping[str, int],
    step: Callable[[str, int], int | None],
    loss: Callable[[Widths], float],
    load: Callable[[Widths], float],
    fits: Callable[[Widths], bool],
    *,
    on_step: Callable[[Widths, float], None] | None = None,
) -> tuple[Widths, int]:
    """The widths that greedy narrowing arrives at, as soon as they fit.

    Args:
        start: widths to begin with. step: a group's next width below the one given, or None where there is none.
        loss: held-out loss at widths. load: their cost; only differences matter.
        on_step: hears the widths after each step, and their loss.

    Returns:
        Widths, which do not fit only where no step is left; and how many evaluations it took.
    """
    widths = dict(start)
    if fits(widths):
        return widths, 0
    now, cost = loss(widths), load(widths)
    evaluations = 1
    # (rise of the loss per cost saved, name, width before, the number of steps taken when it was measured, loss there)
    queue: list[tuple[float, str, int, int, float]] = []

    def measure(name: str, taken: int) -> None:
        nonlocal evaluations
        lower = step(name, widths[name])
        if lower is None:
            return
        trial = {**widths, name: lower}
        saved = cost - load(trial)
        if saved <= 0:
            saved = 1e-9 * max(cost, 1e-30)  # another budget binds; it comes last
        found = loss(trial)
        evaluations += 1
        heapq.heappush(queue, ((found - now) / saved, name, lower, taken, found))

    for name in widths:
        measure(name, 0)
    taken = 0
    while queue and not fits(widths):
        _, name, lower, when, found = heapq.heappop(queue)
        if when < taken:
            measure(name, taken)
            continue
        widths[name] = lower
        now, cost = found, load(widths)
        taken += 1
        if on_step is not None:
            on_step(dict(widths), now)
        measure(name, taken)
    return widths, evaluations
