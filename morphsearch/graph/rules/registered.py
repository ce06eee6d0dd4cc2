"""Operation rules that plugins registered, put beside the built-in ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from morphsearch.errors import PluginError
from morphsearch.graph.labels import Labels, constant
from morphsearch.graph.modes import Rules
from morphsearch.graph.rules.binding import bind, channel_labels
from morphsearch.graph.rules.elementwise import pointwise
from morphsearch.graph.rules.reducing import spatial
from morphsearch.graph.tape import RIGID, Tape
from morphsearch.graph.tensors import tensors_in
from morphsearch.plugins import registry


class OperationRule(Protocol):
    """What ``morphsearch_operations`` factories make.

    `handles` lists what the rule is for: ATEN names (``"aten::my_op"``, ``"mylib::op"``), torch functions, or module
    types (recorded whole, their insides unseen). `__call__` describes the call through a :class:`Call`.
    """

    handles: tuple[str | type | Callable[..., Any], ...]

    def __call__(self, call: Call) -> None: ...


class Call:
    """One call of an operation or module, as a rule sees it.

    `inputs` and `outputs` are the tensors, `target` the module instance or function.
    """

    def __init__(self, tape: Tape, target: Any, args: Any, kwargs: Any, out: Any) -> None:
        self._tape, self.target, self.args, self.kwargs = tape, target, args, kwargs
        self.inputs: list[Tensor] = tensors_in((args, kwargs))
        self.outputs: list[Tensor] = tensors_in(out)
        self._out = out

    def elementwise(self) -> None:
        """Inputs that meet in an element share its unit; the output has the same channels."""
        pointwise(self._tape, _Named(self.kind), self.args, self.kwargs, self._out)

    def per_channel(self) -> None:
        """The output has the channels of the first input, whatever happens within each."""
        spatial(self._tape, _Named(self.kind), self.args, self.kwargs, self._out)

    def bind(self, parameter: Tensor, dim: int = 0) -> None:
        """`parameter` has one slice along `dim` for every channel (dimension 1) of the first input."""
        bind(self._tape, parameter, dim, self.units(), "norm")

    def units(self, position: int = 0, dim: int = 1) -> np.ndarray:
        """The unit identifiers along `dim` of an input."""
        return channel_labels(self._tape, self.inputs[position], dim, self.kind)

    def mixes(self) -> None:
        """Say that removing a channel of the first input changes what the others compute."""
        self._tape.mix(self.units(), self._tape.where(self.kind))

    def freeze(self, reason: str) -> None:
        """Nothing that arrives may ever leave; the output is fixed."""
        for tensor in self.inputs:
            self._tape.pin(self._tape.activation(tensor).ids, self._tape.where(reason))
        for tensor in self.outputs:
            self._tape.put(tensor, constant(RIGID, tuple(tensor.shape)))

    @property
    def kind(self) -> str:
        """A name for messages and the graph."""
        return getattr(self.target, "__name__", None) or type(self.target).__name__

    def labels(self, tensor: Tensor) -> Labels:
        """The labels of one tensor."""
        return self._tape.activation(tensor)


class _Named:
    """Enough of an operation for the built-in rules to name it."""

    def __init__(self, name: str) -> None:
        self._schema = type("Schema", (), {"name": name, "arguments": ()})
        self.tags: tuple[Any, ...] = ()


def plugin_rules(rules: Rules) -> None:
    """Add the registered rules to `rules`; a plugin's rule goes before a built-in one.

    Raises:
        PluginError: a rule's factory fails or handles nothing.
    """
    for name, record in registry("operations").items():
        try:
            rule: OperationRule = record.factory()
            handles = tuple(rule.handles)
        except Exception as error:
            raise PluginError(
                f"the operation rule {name!r} of {record.origin or 'a plugin'} fails: {type(error).__name__}: {error}",
                "its factory returns a callable with an attribute `handles`",
                "repair the plugin, or disable it",
            ) from error
        for target in handles:
            if isinstance(target, str):
                rules.aten[target] = _as_aten(rule)
            elif isinstance(target, type):
                rules.modules[target] = _as_module(rule)
            else:
                rules.functions[target] = _as_function(rule)


def _as_aten(rule: OperationRule) -> Callable[..., None]:
    return lambda tape, func, args, kwargs, out: rule(Call(tape, func, args, kwargs, out))


def _as_module(rule: OperationRule) -> Callable[..., None]:
    return lambda tape, module, args, kwargs, out: rule(Call(tape, module, args, kwargs, out))


def _as_function(rule: OperationRule) -> Callable[..., Any]:
    def run(tape: Tape, func: Any, args: Any, kwargs: Any) -> Any:
        out = func(*args, **kwargs)
        rule(Call(tape, func, args, kwargs, out))
        return out

    return run
