"""What changed since a run was begun, and lets it go on all the same: it is told, since the end is another one then."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from morphsearch.loop.architecture import Architecture
from morphsearch.loop.schema import finite

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph

OPERATIONS = "operations"
"""Field of ``run.json``: a digest of what the seed computes."""
_SETTINGS = ("config", "recipe")
_FREE = ("allow_code", "iterations")  # leave, and more morphs, change none that were made


def digest(graph: ConvGraph) -> str:
    """The same for networks that run the same operations in the same modules, whatever their weights."""
    lines = [f"{operation.module} {operation.kind}" for operation in graph.operations]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def changes(recorded: Mapping[str, Any], asked: Mapping[str, Any], found: Sequence[Architecture]) -> Iterator[str]:
    """A sentence for each.

    Args:
        recorded: ``run.json`` as it is. asked: as it would be written now. found: the run's architectures.
    """
    before = recorded.get(OPERATIONS)  # runs of earlier versions have none
    if before is not None and before != asked[OPERATIONS]:
        yield (
            "The seed computes other operations than when this run was begun: its code changed, or torch did. "
            "What was found before was found for the other one."
        )
    for name in _SETTINGS:
        now = asked.get(name)
        then = found[-1].record.get(name) if found else None
        if not isinstance(then, Mapping) or not isinstance(now, Mapping):
            continue
        here = json.loads(json.dumps(finite(dict(now))))
        keys = [key for key in here if key in then and key not in _FREE and then[key] != here[key]]
        if keys:
            told = ", ".join(f"{key} is {here[key]!r} and was {then[key]!r}" for key in keys)
            yield f"run.json was edited after {found[-1].name} was found: {told}."
