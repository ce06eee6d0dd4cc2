"""Names that plugins registered: for checking arguments early, for completion and for help. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from morphsearch.types import Record


def known(kind: str) -> Mapping[str, Record]:
    """The records of a kind ("strategies", "cost_models", ...) by name."""
    from morphsearch import plugins

    return plugins.registry(kind)


def check(kind: str, name: str, others: Sequence[str] = ()) -> str:
    """Return `name` when it is registered.

    Args:
        others: what could have been meant besides.

    Raises:
        UnknownName: with the nearest names.
    """
    from morphsearch import plugins

    plugins.record(kind, name, others)
    return name


def complete(kind: str, incomplete: str, *, suffix: str = "") -> list[CompletionItem]:
    """Completions with the summaries as help; a broken plugin costs its names, never the completion."""
    from click.shell_completion import CompletionItem

    try:
        records = known(kind)
    except Exception:
        return []
    return [
        CompletionItem(record.name + suffix, help=record.summary)
        for record in records.values()
        if record.name.startswith(incomplete)
    ]


def complete_words(words: list[str], incomplete: str) -> list[CompletionItem]:
    """Completions among fixed words."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def complete_paths() -> list[CompletionItem]:
    """Let the shell complete paths."""
    from click.shell_completion import CompletionItem

    return [CompletionItem("", type="file")]


def label(parameter: click.Parameter | None) -> str:
    """How a parameter is called in messages: its longest flag, or its metavar."""
    if parameter is None:
        return "argument"
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return str(parameter.metavar or parameter.name).upper()
