"""Running the trace of a module on what the module itself holds, and keeping what every node of it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list

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

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return tuple(_own(one) for one in args), {name: _own(one) for name, one in kwargs.items()}

    def fetch_attr(self, target: str) -> Any:
        value: Any = self.original
        for name in target.split("."):
            value = getattr(value, name)
        return value


def _own(value: Any) -> Any:
    """Lists and dicts that stand in a node's arguments, as its code makes them, since the callee may write into them.
    Those that another node gave stay the same object."""
    if isinstance(value, immutable_list):
        return [_own(one) for one in value]
    if isinstance(value, immutable_dict):
        return {key: _own(one) for key, one in value.items()}
    return tuple(_own(one) for one in value) if type(value) is tuple else value


class Watch(InPlaceOf):
    """Runs the seed's trace and keeps the facts of every node."""

    def __init__(self, original: nn.Module, graph: fx.Graph, tapes: list[Tape]) -> None:
        super().__init__(original, graph)
        self.tapes = tapes
        self.facts: dict[str, NodeFacts] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        tape = self.tapes[-1]
        with unseen():
            labels = tape.pair(result) or tape.labels(result) if isinstance(result, Tensor) else None
        if labels is not None and labels.parameter is not None and name_of(n) not in ("view", "reshape", *EXPANDS):
            labels = None  # as large as the parameter, and only new sizes of it are asked for
        several = isinstance(result, (tuple, list)) and any(isinstance(part, Tensor) for part in result)
        # Of tensors only an index keeps its numbers: what was patched before may need it again.
        value = index_value(result) if isinstance(result, Tensor) else result
        self.facts[n.name] = NodeFacts(labels, several, None if several else value)
        return result
