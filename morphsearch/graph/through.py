"""Calls of modules that go through an interpreter of their traces, and what those of the seed gave."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from morphsearch.graph.running import NodeFacts
from morphsearch.graph.tape import Tape
from morphsearch.graph.tracing import Memo, trace

# Arguments that a module is called with, and that its code may ask for: those that are None, true, false or text.
Fixed = frozenset[tuple[str, bool | str | None]]


@dataclass(frozen=True)
class Seen:
    """What the trace of a module of the seed gave, the arguments that it was traced for, and how many parts those have
    that are tuples."""

    fixed: Fixed
    lengths: dict[str, int]
    facts: dict[str, NodeFacts]


def traced(module: nn.Module, fixed: Fixed, tapes: list[Tape], memo: Memo) -> fx.Graph | None:
    """The trace of a module that is called with the arguments `fixed`, while its calls go :func:`through_traces`;
    nothing of it is recorded."""
    tapes[-1].muted += 1
    own = vars(module).pop("forward")  # ours, which asks for this
    try:
        if own.original is not None:
            vars(module)["forward"] = own.original
        return trace(module, dict(fixed), own.lengths, memo)
    finally:
        vars(module)["forward"] = own
        tapes[-1].muted -= 1


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class _Through:
    """Stands for the forward method of a module: calls go through an interpreter of its trace."""

    def __init__(self, module: nn.Module, make: Callable[[Fixed], fx.Interpreter | None]) -> None:
        self.original = vars(module).get("forward")
        self.call = module.forward
        self.parameters = inspect.signature(module.forward).parameters
        self.make = make
        self.fixed: Fixed | None = None
        self.lengths: dict[str, int] = {}
        self.interpreter: fx.Interpreter | None = None
        self.several = False  # it is called with different sets of arguments: one trace cannot stand for it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if any(parameter.kind in _VARIABLE for parameter in self.parameters.values()):
            return self.call(*args, **kwargs)
        defaults = {name: p.default for name, p in self.parameters.items() if p.default is not p.empty}
        given = defaults | dict(zip(self.parameters, args, strict=False)) | kwargs
        fixed = frozenset((name, value) for name, value in given.items() if value is None or type(value) in (bool, str))
        if self.fixed is None:
            self.fixed = fixed
            self.lengths = {name: len(value) for name, value in given.items() if isinstance(value, (tuple, list))}
            self.interpreter = self.make(fixed)
        self.several |= fixed != self.fixed
        if self.interpreter is None or self.several or len(args) > len(self.parameters):
            return self.call(*args, **kwargs)
        places = [node for node in self.interpreter.graph.nodes if node.op == "placeholder"]
        if len(places) != len(self.parameters):  # fx calls them what it likes, but keeps their order
            return self.call(*args, **kwargs)
        return self.interpreter.run(*(given.get(name) for name in self.parameters))


@contextmanager
def through_traces(
    makers: dict[nn.Module, Callable[[Fixed], fx.Interpreter | None]],
) -> Iterator[set[nn.Module]]:
    """Calls of the modules go through what is made at the first call; yields those called in several ways."""
    several: set[nn.Module] = set()
    stand_ins = {module: _Through(module, make) for module, make in makers.items()}
    for module, stand_in in stand_ins.items():
        module.forward = stand_in
    try:
        yield several
    finally:
        for module, stand_in in stand_ins.items():
            del module.forward
            if stand_in.original is not None:
                module.forward = stand_in.original
            if stand_in.several:
                several.add(module)


__all__ = ["Fixed", "Seen", "through_traces", "traced"]
