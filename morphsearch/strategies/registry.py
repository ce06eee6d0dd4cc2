"""Strategies by name."""

from __future__ import annotations

import inspect
from typing import Any

from morphsearch import plugins
from morphsearch.errors import PluginError, UsageError, nearest
from morphsearch.strategies.base import Strategy


def get(name: str, **options: Any) -> Strategy:
    """A new strategy, by the name it was registered as.

    Raises:
        UnknownName: no such strategy; the message has the nearest names.
        UsageError: an option that this strategy does not have, or a value that it does not take.
        PluginError: a plugin's factory failed.
    """
    try:
        strategy: Strategy = plugins.create("strategies", name, **options)
    except (TypeError, PluginError) as error:
        cause = error if isinstance(error, TypeError) else error.__cause__
        unknown = [option for option in options if f"unexpected keyword argument '{option}'" in str(cause)]
        if not (isinstance(cause, TypeError) and unknown):
            raise
        raise _unknown_option(name, unknown[0], str(cause)) from error
    return strategy


def _unknown_option(strategy: str, option: str, message: str) -> UsageError:
    known = _options_of(message.partition(".__init__()")[0])
    close = nearest(option, known)
    rule = f"its options: {', '.join(known)}" if known else "it takes other options, or none"
    repair = f"did you mean {' or '.join(close)}?" if close else "leave it out"
    return UsageError(f"strategy {strategy!r} has no option {option!r}", rule, repair)


def _options_of(class_name: str) -> list[str]:
    """Keyword arguments of the strategy class of that name, as far as it can be found."""
    pending: list[type] = [Strategy]
    while pending:
        found = pending.pop()
        if found.__qualname__ == class_name:
            return [p for p in inspect.signature(found).parameters if p not in ("self", "args", "kwargs")]
        pending += found.__subclasses__()
    return []
