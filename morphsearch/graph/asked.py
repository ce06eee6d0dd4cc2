"""What is asked of a graph: groups by name, and units within them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from morphsearch.arguments import shown
from morphsearch.errors import GraphError, nearest
from morphsearch.graph.unionfind import distinct_values


def by_group(given: object, name: str, what: str, example: str) -> None:
    """Refuse an argument `name` that does not say `what` by group.

    Raises:
        GraphError: it is no mapping.
    """
    if not isinstance(given, Mapping):
        raise GraphError(
            f"{name}={shown(given)}",
            f"{name} is a dict: names of groups to {what}",
            f"write for example {name}={example}, with names from graph.groups",
        )


def positions(name: str, kept: Sequence[int]) -> np.ndarray:
    """Which units of the group `name` stay, in order, each once.

    Raises:
        GraphError: no list of whole numbers.
    """
    try:
        given = np.asarray(list(kept) if isinstance(kept, Iterable) else kept)
    except (TypeError, ValueError):  # lists of different lengths, tensors without numbers
        given = np.asarray(None)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise GraphError(
            f"keep[{name!r}] is {shown(kept)}",
            "it lists the positions of the units that stay, as whole numbers",
            "give for example [0, 2, 5]; a mask becomes positions with mask.nonzero().flatten().tolist()",
        )
    return distinct_values(given.astype(np.int64))


def unknown_group(name: object, known: list[str]) -> GraphError:
    """The error for the `name` of a group that is not among the `known` ones."""
    close = nearest(str(name), known)
    brief = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    repair = f"did you mean {' or '.join(close)}?" if close else "take a name from graph.groups"
    return GraphError(f"unknown group {name!r}", f"the groups are: {brief}", repair)
