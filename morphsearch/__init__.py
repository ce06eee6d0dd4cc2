"""morphsearch: fit a conv net into a budget by learning which filters matter.

The names below are the public contract; they are loaded when first used, so that importing the package is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from morphsearch.costs import Cost, cost
    from morphsearch.errors import MorphError
    from morphsearch.exporting import export
    from morphsearch.graph import ConvGraph, Group, record
    from morphsearch.hookspecs import hookimpl
    from morphsearch.loop import Architecture, Search, SearchConfig, SearchResult, Verification, search, verify
    from morphsearch.sparsity import Schedule, Sparsifier, SparsifyResult, SparsityReport, sparsify

_WHERE = {
    "Architecture": "morphsearch.loop",
    "ConvGraph": "morphsearch.graph",
    "Cost": "morphsearch.costs",
    "Group": "morphsearch.graph",
    "MorphError": "morphsearch.errors",
    "Schedule": "morphsearch.sparsity",
    "Search": "morphsearch.loop",
    "SearchConfig": "morphsearch.loop",
    "SearchResult": "morphsearch.loop",
    "Sparsifier": "morphsearch.sparsity",
    "SparsifyResult": "morphsearch.sparsity",
    "SparsityReport": "morphsearch.sparsity",
    "Verification": "morphsearch.loop",
    "cost": "morphsearch.costs",
    "export": "morphsearch.exporting",
    "hookimpl": "morphsearch.hookspecs",
    "record": "morphsearch.graph",
    "search": "morphsearch.loop",
    "sparsify": "morphsearch.sparsity",
    "verify": "morphsearch.loop",
}

__all__ = [
    "Architecture",
    "ConvGraph",
    "Cost",
    "Group",
    "MorphError",
    "Schedule",
    "Search",
    "SearchConfig",
    "SearchResult",
    "Sparsifier",
    "SparsifyResult",
    "SparsityReport",
    "Verification",
    "cost",
    "export",
    "hookimpl",
    "record",
    "search",
    "sparsify",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        value = getattr(import_module(_WHERE[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'morphsearch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
