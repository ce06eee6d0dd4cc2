"""Progress on stderr: bars for a terminal, a plain line every few seconds elsewhere. Never on stdout."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, TypeGuard

from morphsearch.report.numbers import duration, percent, short

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
    """What is known at this moment, in a few words: loss, accuracy, cost, strength, units alive."""
    parts = []
    if _number(event.get("loss")):
        parts.append(f"loss {event['loss']:.3f}")
    if _number(event.get("accuracy")):
        parts.append(f"accuracy {percent(event['accuracy'])}")
    cost = event.get("cost")
    if isinstance(cost, dict):
        parts += [f"{name} {short(value)}" for name, value in cost.items() if _number(value)]
    elif _number(cost):
        parts.append(f"cost {percent(cost) if 0 <= cost <= 1 else short(cost)}")
    if _number(event.get("strength")):
        parts.append(f"strength {event['strength']:.2g}")
    if _number(event.get("alive")):
        parts.append(f"alive {short(event['alive'])}")
    return ", ".join(parts)


def sentence(kind: str, event: Event) -> str:
    """An event that deserves a line of its own, or an empty text."""
    text = str(event.get("text") or event.get("message") or "")
    if kind in ("warning", "note", "start", "end"):
        return f"warning: {text}" if kind == "warning" and text else text
    if text:
        return text
    if kind in ("epoch", "iteration", "retrain"):
        name = event.get("label") or event.get("phase") or ""
        number = event.get("iteration") if kind == "iteration" else event.get("epoch")
        head = " ".join(
            str(part) for part in (name, kind if kind != "retrain" else "", number) if part not in ("", None)
        )
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

    def __call__(self, kind: str, event: Event) -> None:
        """Write what the event deserves."""
        if kind == "progress":
            self._progress(event)
        elif text := sentence(kind, event):
            self._write(text)

    def _progress(self, event: Event) -> None:
        now, phase = self.clock(), str(event.get("phase", ""))
        done, total = float(event.get("done") or 0), event.get("total")
        if phase != self.phase:
            self.phase, self.phase_began, self.last = phase, now, -float("inf")
            self.first = done
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
        self.tasks: dict[str, Any] = {}
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
        phase = str(event.get("phase", ""))
        task = self.tasks.get(phase)
        if task is None:
            for other in self.tasks.values():
                self.bars.stop_task(other)
            task = self.tasks[phase] = self.bars.add_task(phase, total=event.get("total"), unit="", figures="")
        done, total = event.get("done") or 0, event.get("total")
        self.bars.update(task, completed=done, total=total, unit=str(event.get("unit") or ""), figures=figures(event))

    def close(self) -> None:
        """Leave the last state of the bars on the screen."""
        if self.started:
            self.bars.stop()
