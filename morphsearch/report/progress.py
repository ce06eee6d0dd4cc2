"""Progress on stderr: bars for a terminal, a plain line every few seconds elsewhere. Never on stdout."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, TypeGuard

from morphsearch.report.numbers import duration, percent, short

MOST_BARS = 12

Event = dict[str, Any]
Listener = Callable[[str, Event], None]


@contextlib.contextmanager
def progress(
    stream: IO[str] | None = None, *, every: float = 5.0, clock: Callable[[], float] = time.monotonic
) -> Iterator[Listener]:
    """A listener to hand to the loop; `every` is the pause between plain lines in seconds."""
    target = stream or sys.stderr
    shown: Bars | Lines = Bars(target) if target.isatty() else Lines(target, every=every, clock=clock)
    try:
        yield shown
    finally:
        shown.close()


def figures(event: Event) -> str:
    """What is known at this moment, in a few words: loss, accuracy, costs, strength, units alive."""
    parts = []
    for name, label in (("loss", "loss"), ("train_loss", "loss"), ("val_loss", "validation loss")):
        if _number(value := event.get(name)):
            parts.append(f"{label} {value:.3f}")
    for name, label in (("accuracy", "accuracy"), ("val_accuracy", "validation accuracy")):
        if _number(value := event.get(name)):
            parts.append(f"{label} {percent(value)}")
    costs = event.get("costs") or event.get("cost")
    if isinstance(costs, dict):
        parts += [f"{name} {short(value)}" for name, value in costs.items() if _number(value)]
    elif _number(costs):
        parts.append(f"cost {short(costs)}")
    if _number(load := event.get("load")):
        parts.append(f"{percent(load, 0)} of {event.get('binding') or 'the budget'}")
    if _number(strength := event.get("strength")):
        parts.append(f"strength {strength:.2g}")
    if _number(alive := event.get("alive")):
        parts.append(f"{alive:g} units alive")
    return ", ".join(parts)


def heading(event: Event) -> str:
    """What is being done: the phase, with the iteration or the label that tells it from others of its kind."""
    phase = str(event.get("phase") or "")
    parts = [phase]
    for name in ("label", "iteration"):
        value = event.get(name)
        if value not in (None, "") and str(value) not in phase:
            parts.append(str(value))
    if event.get("label") and event.get("seed") is not None:
        parts.append(f"seed {event['seed']}")
    return " ".join(part for part in parts if part)


def sentence(kind: str, event: Event) -> str:
    """An event that deserves a line of its own, or an empty text."""
    text = str(event.get("text") or event.get("message") or "")
    if kind in ("warning", "note", "start", "end"):
        return f"warning: {text}" if kind == "warning" and text else text
    if text:
        return text
    if kind in ("epoch", "iteration", "retrain", "trial"):
        head = heading({"phase": kind, **event}) if kind != "epoch" else f"epoch {event.get('epoch', '')}".strip()
        return f"{head}: {rest}" if (rest := figures(event)) else head
    return ""


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Lines:
    """Plain lines for logs: at most one every few seconds, and one at the start and the end of every phase."""

    def __init__(self, stream: IO[str], *, every: float, clock: Callable[[], float]) -> None:
        self.stream, self.every, self.clock = stream, every, clock
        self.began = self.phase_began = clock()
        self.last = -float("inf")
        self.phase: str | None = None
        self.first = self.done = 0.0

    def __call__(self, kind: str, event: Event) -> None:
        """Write what the event deserves."""
        if kind == "progress":
            self._progress(event)
        elif kind == "epoch" and self.clock() - self.last < self.every:
            return
        elif text := sentence(kind, event):
            self.last = self.clock() if kind == "epoch" else self.last
            self._write(text)

    def _progress(self, event: Event) -> None:
        now, phase = self.clock(), heading(event)
        done, total = float(event.get("done") or 0), event.get("total")
        if phase != self.phase or done < self.done:
            self.phase, self.phase_began, self.last = phase, now, -float("inf")
            self.first = done
        self.done = done
        ended = bool(total) and done >= float(total or 0)
        if not ended and now - self.last < self.every:
            return
        self.last = now
        parts = [f"{phase} {done:g}"]
        if total:
            parts[0] += f"/{total:g} {event.get('unit') or ''}".rstrip() + f" ({percent(done / float(total), 0)})"
            gained = done - self.first
            if gained > 0 and not ended:
                parts.append(f"{duration((now - self.phase_began) / gained * (float(total) - done))} left")
        self._write(", ".join([*parts, *filter(None, [figures(event)])]))

    def _write(self, text: str) -> None:
        self.stream.write(f"[{duration(self.clock() - self.began)}] {text}\n")
        self.stream.flush()

    def close(self) -> None:
        """Nothing is held back."""


class Bars:
    """One bar a phase, with elapsed and remaining time, by rich."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[figures]}", style="dim"),
            console=Console(file=stream, highlight=False),
            transient=False,
        )
        self.phase: str | None = None
        self.done = 0.0
        self.task: Any = None
        self.shown: list[Any] = []
        self.started = False

    def __call__(self, kind: str, event: Event) -> None:
        """Move a bar, or print a line above the bars."""
        from rich.text import Text

        if kind == "progress":
            self._progress(event)
        elif kind != "epoch" and (text := sentence(kind, event)):
            self.bars.console.print(Text(text, style="yellow" if kind == "warning" else ""))

    def _progress(self, event: Event) -> None:
        if not self.started:
            self.bars.start()
            self.started = True
        phase, done, total = heading(event), event.get("done") or 0, event.get("total")
        if phase != self.phase or done < self.done:
            self._next(phase, done, total)
        self.done = done
        self.bars.update(
            self.task, completed=done, total=total, unit=str(event.get("unit") or ""), figures=figures(event)
        )

    def _next(self, phase: str, done: float, total: float | None) -> None:
        """A bar of its own for what begins now. Finished bars stay, but no more than a screen can show."""
        if self.shown:
            self.bars.stop_task(self.task)
        if len(self.shown) >= MOST_BARS:
            self.bars.remove_task(self.shown.pop(0))
        self.phase = phase
        self.task = self.bars.add_task(phase, total=total, completed=int(done), unit="", figures="")
        self.shown.append(self.task)

    def close(self) -> None:
        """Leave the last state of the bars on the screen."""
        if self.started:
            self.bars.stop()
