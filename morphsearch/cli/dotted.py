"""Keys with a dot, as ``--set strategy.point=...``: which option they belong to, and which name was meant."""

from __future__ import annotations

from collections.abc import Sequence

from morphsearch.errors import UsageError, nearest

FLAGS = {"strategy": "--strategy-option", "recipe": "--set"}


def refused(flag: str, key: str, text: str, given: str) -> UsageError:
    """The error for ``KEY=TEXT`` with a dot in the key, as it was `given` to an option; its repair has the right name.

    Args:
        flag: the option that it was given to.
    """
    table, _, name = key.rpartition(".")
    meant = nearest(table.removesuffix("_options"), list(FLAGS))
    if not meant:
        rule, repair = "keys have no dot in them", f"write for example {flag} {name or 'NAME'}={text}"
    else:
        rule = "fields of the recipe are given by --set, options of the strategy by --strategy-option, by name alone"
        known = _known(meant[0])
        close = [name] if name in known else nearest(name, known)
        if close:
            repair = f"write {' or '.join(f'{FLAGS[meant[0]]} {one}={text}' for one in close)}"
        else:
            repair = f"none of these is like {name!r}: {', '.join(known)}"
    return UsageError(f"{flag} {given!r}", rule, repair)


def _known(table: str) -> Sequence[str]:
    if table == "recipe":
        from dataclasses import fields

        from morphsearch.training.recipe import Recipe

        return [field.name for field in fields(Recipe)]
    from morphsearch import plugins
    from morphsearch.strategies.registry import options_of

    return sorted({option for name in plugins.registry("strategies") for option in options_of(name)})
