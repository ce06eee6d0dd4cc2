"""Which modules get forward code of their own, and which are written into their caller's.

A call can be written as a call where it uses nothing but its arguments and what lies in its module. Code that reaches
further (a hook that keeps features, a parameter of another module) is written into the nearest caller that sees it all.
"""

from __future__ import annotations

from typing import Any

from morphsearch.exporting.numbers import values_in
from morphsearch.exporting.paths import Paths, is_sequential
from morphsearch.exporting.steps import Call, Op, Par, Ref, Size, Value, leaves


class Scopes:
    """The set of module paths that are written into their callers; it grows until every call is closed."""

    def __init__(self, roots: list[Call], paths: Paths) -> None:
        self.roots, self.paths = roots, paths
        self.inlined: set[str] = set()
        self.settle()

    def settle(self) -> None:
        """Add modules until nothing reaches out of its scope."""
        before = -1
        while before != len(self.inlined):
            before = len(self.inlined)
            for root in self.roots:
                self._leaves_of(root, root, root.result)
                for call, step in root.steps():
                    if isinstance(step, Op):
                        self._leaves_of(root, call, (step.args, step.kwargs))
                        continue
                    self._leaves_of(root, call, step.actual)
                    if step.body is not None:
                        self._leaves_of(root, step, step.result)
                    self._module(call, step)
                    if step.path in self.inlined and is_sequential(call.module) and call.parent is not None:
                        self.inlined.add(call.path)

    def scope(self, call: Call) -> Call:
        """The call whose forward code holds the steps of `call`."""
        while call.path in self.inlined and call.parent is not None:
            call = call.parent
        return call

    def _leaves_of(self, root: Call, call: Call, tree: Any) -> None:
        for leaf in leaves(tree):
            if isinstance(leaf, Ref):
                self._value(call, leaf.value)
            elif isinstance(leaf, Size):
                for value in values_in(leaf.expression):
                    self._value(call, value)
            elif isinstance(leaf, Par):
                here: Call | None = call
                while here is not None and self.paths.under(self.scope(here).path, leaf.names) is None:
                    here = self._inline(here)

    def _module(self, call: Call, step: Call) -> None:
        names = self.paths.names_of(step.path)
        here: Call | None = call
        while here is not None and self.paths.under(self.scope(here).path, names) is None:
            here = self._inline(here)

    def _value(self, call: Call, value: Value) -> None:
        if value.call is None:
            return
        while (here := self.scope(call)) is not (there := self.scope(value.call)):
            deeper = here if _depth(here) >= _depth(there) else there
            if self._inline(deeper) is None:
                return

    def _inline(self, call: Call) -> Call | None:
        scope = self.scope(call)
        if scope.parent is None:
            return None
        self.inlined.add(scope.path)
        return scope.parent


def _depth(call: Call) -> int:
    depth = 0
    while call.parent is not None:
        call, depth = call.parent, depth + 1
    return depth
