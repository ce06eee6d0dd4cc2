"""Running the trace of a module on what the module itself holds, and keeping what every node of it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from morphsearch.graph.edits import EXPANDS
from morphsearch.graph.labels import Labels
from morphsearch.graph.tape import Tape, unseen
from morphsearch.graph.tracing import index_value, name_of


@dataclass
class NodeFacts:
    """What a node of the seed's trace gave: labels of a tensor, whether it was several tensors, else the plain
    value."""

    labels: Labels | None
    several: bool
    value: Any


class InPlaceOf(fx.Interpreter):
    """Runs a module's trace on the parameters and children that the module itself holds at this moment."""

    def __init__(self, original: nn.Module, graph: fx.Graph) -> None:
        super().__init__(original, garbage_collect_values=False, graph=graph)
        self.original = original

    def run(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().run(*args, **kwargs)
        finally:
            self.env = {}  # on real numbers these are all its activations

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return getattr(self, n.op)(n.target, args, kwargs)  # without what fx notes down for its own traces

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(map(self._value, n.args)), {name: self._value(one) for name, one in n.kwargs.items()}

    def _value(self, argument: Any) -> Any:
        """What a node's argument is in this run. Lists and dicts that stand in the arguments are made anew, as its code
        makes them, since the callee may write into them; those that another node gave stay the same object."""
        if isinstance(argument, fx.Node):
            return self.env[argument]
        if isinstance(argument, list):
            return [self._value(one) for one in argument]
        if isinstance(argument, dict):
            return {key: self._value(one) for key, one in argument.items()}
        if isinstance(argument, slice):
            return slice(*map(self._value, (argument.start, argument.stop, argument.step)))
        if isinstance(argument, tuple):
            values = [self._value(one) for one in argument]
            return type(argument)(*values) if hasattr(argument, "_fields") else tuple(values)
        return argument

    def fetch_attr(self, target: str) -> Any:
        value: Any = self.original
        for name in target.split("."):
            value = getattr(value, name)
        return value


class Watch(InPlaceOf):
    """Runs the seed's trace and keeps the facts of every node."""

    def __init__(self, original: nn.Module, graph: fx.Graph, tapes: list[Tape]) -> None:
        super().__init__(original, graph)
        self.tapes = tapes
        self.facts: dict[str, NodeFacts] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        tape = self.tapes[-1]
        labels = None
        if isinstance(result, Tensor):
            with unseen():
                labels = tape.pair(result) or tape.labels(result)
        if labels is not None and labels.parameter is not None and name_of(n) not in ("view", "reshape", *EXPANDS):
            labels = None  # as large as the parameter, and only new sizes of it are asked for
        several = isinstance(result, (tuple, list)) and any(isinstance(part, Tensor) for part in result)
        # Of tensors only an index keeps its numbers: what was patched before may need it again.
        value = index_value(result) if isinstance(result, Tensor) else result
        self.facts[n.name] = NodeFacts(labels, several, None if several else value)
        return result
