"""Strategies by name."""

from __future__ import annotations

import inspect
from typing import Any

from morphsearch import plugins
from morphsearch.errors import MorphError, PluginError, UsageError, nearest
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
        raise _unknown_option(name, unknown[0]) from error
    return strategy


def options_of(name: str) -> list[str]:
    """Options that a strategy takes, as far as they can be told: of its factory, or of what that makes without any.

    Raises:
        UnknownName: no such strategy.
    """
    factory = plugins.record("strategies", name).factory
    parameters = inspect.signature(factory).parameters.values()
    if not any(one.kind is one.VAR_KEYWORD for one in parameters):
        return [one.name for one in parameters]
    try:
        made = type(plugins.create("strategies", name))
    except MorphError:
        return []
    return [p for p in inspect.signature(made).parameters if p not in ("self", "args", "kwargs")]


def _unknown_option(strategy: str, option: str) -> UsageError:
    known = options_of(strategy)
    close = nearest(option, known)
    rule = f"its options: {', '.join(known)}" if known else "it takes other options, or none"
    repair = f"did you mean {' or '.join(close)}?" if close else "leave it out"
    return UsageError(f"strategy {strategy!r} has no option {option!r}", rule, repair)
