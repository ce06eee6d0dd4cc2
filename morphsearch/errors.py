"""Errors that teach: every one says what arrived, which rule it breaks and how to repair it.

The CLI prints the three parts and exits with :attr:`MorphError.exit_code`; a traceback is only ever shown for a defect
of morphsearch itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MorphError(Exception):
    """Base of all errors that a user can repair.

    Args:
        arrived: what was received, quoted (``"budget 'flops=fifty' does not parse"``).
        rule: the rule it breaks (``"a budget reads METRIC=N% or METRIC<=N"``).
        repair: what to do (``"write flops=50%, params<=1.2M or latency<=8ms"``).
    """

    exit_code = 2

    def __init__(self, arrived: str, rule: str = "", repair: str = "") -> None:
        self.arrived, self.rule, self.repair = arrived, rule, repair
        super().__init__("\n".join(part for part in (arrived, rule, repair) if part))

    def to_dict(self) -> dict[str, object]:
        """The three parts as JSON-ready data."""
        return {
            "error": type(self).__name__,
            "arrived": self.arrived,
            "rule": self.rule,
            "repair": self.repair,
            "exit_code": self.exit_code,
        }


class UsageError(MorphError):
    """An argument that cannot be understood or does not fit the others (exit code 2)."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that no built-in and no plugin registered; the message carries the nearest known names."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], *, remedy: str = "") -> UnknownName:
        """Build the error for a misspelt `name` among the `known` ones of a `kind` ("strategy", "cost model", ...)."""
        names = sorted(known)
        close = nearest(name, names)
        rule = f"known: {', '.join(names)}" if names else f"no {kind} is registered"
        repair = f"did you mean {' or '.join(close)}?" if close else remedy or "choose one of the known names"
        return cls(f"unknown {kind} {name!r}", rule, repair)


class BudgetError(MorphError):
    """A budget that no legal widths can meet (exit code 3)."""

    exit_code = 3


class PluginError(MorphError):
    """A plugin that failed to load or to do its work (exit code 4)."""

    exit_code = 4


class InputError(MorphError):
    """A model, data set or file that cannot be used (exit code 5)."""

    exit_code = 5


class GraphError(InputError):
    """A network that cannot be recorded, or widths and keep sets that it cannot take."""


class DivergedError(InputError):
    """Training whose loss is no longer finite; the last good state is kept."""


class StoppedError(MorphError):
    """Interrupted by the user, after saving; `repair` holds the command that resumes (exit code 130)."""

    exit_code = 130


MUCH_LESS = 0.2  # alike than the nearest name, as a ratio of edits: no more than chance


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The known names most like `name`, best first (by edit similarity, ignoring case); none that is much less like it
    than the best."""
    table = {candidate.lower(): candidate for candidate in known}
    wanted = str(name).lower()
    matches = difflib.get_close_matches(wanted, list(table), n=limit, cutoff=0.5)
    alike = [difflib.SequenceMatcher(None, match, wanted).ratio() for match in matches]
    return [table[match] for match, one in zip(matches, alike, strict=True) if one > alike[0] - MUCH_LESS]
