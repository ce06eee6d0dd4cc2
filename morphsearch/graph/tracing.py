"""Traces of single modules, their children left whole."""

from __future__ import annotations

import dis
import inspect
import operator
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from morphsearch.graph.known import numbers_in
from morphsearch.graph.outside import kept_outside
from morphsearch.graph.state import as_it_was


class _Parts(fx.Proxy):
    """What code takes apart."""

    def __len__(self) -> int:
        count = self.tracer.parts(self.node) if isinstance(self.tracer, _Tracer) else None
        return super().__len__() if count is None else count

    def __iter__(self) -> Iterator[Any]:
        """What fx does too; its frame refers to itself, so that all that ran at the time would be kept until Python
        collects cycles."""
        caller = sys._getframe(1)
        count = _taken_apart(caller.f_code, caller.f_lasti)
        return self.tracer.iter(self) if count is None else (self[i] for i in range(count))  # type: ignore[index]

    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        return _Attribute(self, name)


class _Attribute(_Parts, fx.proxy.Attribute):
    """``b, n, c = x.shape``."""


def _taken_apart(code: CodeType, place: int) -> int | None:
    """Into how many names the instruction of `code` at `place` takes a sequence apart; None for another one."""
    found = next((one for one in dis.get_instructions(code) if one.offset >= place), None)
    return found.argval if found is not None and found.opname == "UNPACK_SEQUENCE" else None


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # what is computed from a buffer is traced, too

    def __init__(self, lengths: dict[str, int] | None = None) -> None:
        super().__init__()
        self.lengths = lengths or {}

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Parts(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """``list(x.chunk(2, 1))``: the number of parts stands in the code; ``*size``: in the call."""
        count = self.parts(obj.node)
        return super().iter(obj) if count is None else (obj[i] for i in range(count))  # type: ignore[index]

    def parts(self, node: fx.Node) -> int | None:
        """How many parts a tuple has, where the code or the call says so."""
        return self.lengths.get(str(node.target)) if node.op == "placeholder" else parts_of(node)


def index_value(tensor: Tensor) -> Tensor | None:
    """The numbers of an integer tensor, where they are known."""
    if tensor.dtype not in (torch.int64, torch.int32):
        return None
    return numbers_in(tensor)


def parts_of(node: fx.Node) -> int | None:
    """Into how many parts a node takes its tensor apart, where the code says so."""
    name = name_of(node)
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("chunks", node.kwargs.get("split_size_or_sections"))
    if name == "chunk" and isinstance(given, int):
        return given
    if name in ("split", "split_with_sizes") and isinstance(given, (list, tuple)):
        return len(given)
    return None


Memo = dict[Any, "fx.Graph | None"]


def trace(
    module: nn.Module,
    fixed: dict[str, Any] | None = None,
    lengths: dict[str, int] | None = None,
    memo: Memo | None = None,
) -> fx.Graph | None:
    """The trace of a module with its children left whole; None where it cannot be traced or depends on the mode.

    `fixed` are arguments that its code may ask for, and the values that it is called with; `lengths` says how many
    parts arguments have that are tuples; `memo` holds traces of modules that were alike, which share one trace: it is
    copied before it is edited.
    """
    key = alike(module) if memo is not None else None
    if memo is None or key is None:
        return _trace(module, fixed, lengths)
    key = (key, tuple(sorted((fixed or {}).items(), key=repr)), tuple(sorted((lengths or {}).items())))
    if key not in memo:
        memo[key] = _trace(module, fixed, lengths)
    return memo[key]


def _trace(module: nn.Module, fixed: dict[str, Any] | None, lengths: dict[str, int] | None) -> fx.Graph | None:
    graphs = _traces(module, fixed or None, lengths)
    if not graphs:
        with _helpers_whole(module):
            graphs = _traces(module, fixed or None, lengths)
    if not graphs or any(_hides_code(graph) for graph in graphs):
        return None
    return graphs[0] if len(graphs) == 1 else _in_both_modes(*graphs)


def _hides_code(graph: fx.Graph) -> bool:
    """A child or parameter has the name of something that a module made of a trace has (``code``, ``graph``)."""
    held = (node.target for node in graph.nodes if node.op in ("call_module", "get_attr"))
    return any(str(target).partition(".")[0] in vars(fx.GraphModule) for target in held)


def _in_both_modes(evaluation: fx.Graph, training: fx.Graph) -> fx.Graph | None:
    """One trace for both modes, where they differ in nothing but arguments that are the mode itself, as in
    ``F.dropout(x, training=self.training)``; None where they do."""
    both = [_active(graph) for graph in (evaluation, training)]
    if len(both[0]) != len(both[1]):
        return None
    places = {node: f"%{place}" for nodes in both for place, node in enumerate(nodes)}
    modes: list[tuple[fx.Node, Any, Any]] = []
    for one, other in zip(*both, strict=True):
        if one.op != other.op or one.target != other.target:
            return None
        given, given_then = ([*node.args, *node.kwargs.values()] for node in (one, other))
        if list(one.kwargs) != list(other.kwargs) or len(given) != len(given_then):
            return None
        if not all(_same(a, b, places) for a, b in zip(given, given_then, strict=True)):
            return None
        if any(_is_mode(a, b) for a, b in zip(given, given_then, strict=True)):
            modes.append((one, given, given_then))
    if not modes:
        return evaluation
    with evaluation.inserting_before(next(node for node in evaluation.nodes if node.op != "placeholder")):
        mode = evaluation.create_node("get_attr", "training")
    for node, given, given_then in modes:
        chosen = [mode if _is_mode(a, b) else a for a, b in zip(given, given_then, strict=True)]
        node.args = tuple(chosen[: len(node.args)])
        node.kwargs = dict(zip(node.kwargs, chosen[len(node.args) :], strict=True))
    return evaluation


def _is_mode(evaluation: Any, training: Any) -> bool:
    return evaluation is False and training is True


def _same(one: Any, other: Any, places: dict[fx.Node, str]) -> bool:
    """Arguments of nodes in two traces are the same, or the mode."""
    if _is_mode(one, other):
        return True
    return repr(fx.node.map_arg(one, places.get)) == repr(fx.node.map_arg(other, places.get))


def _traces(module: nn.Module, fixed: dict[str, Any] | None, lengths: dict[str, int] | None) -> list[fx.Graph]:
    """The traces in evaluation and, where the code may ask for it, training mode; none where a trace fails."""
    graphs = []
    mode = module.training
    try:
        for training in (False, True) if _reads_mode(type(module)) else (False,):
            module.training = training
            tracer = _Tracer(lengths)
            own = vars(module).get("forward")  # chosen among several in the constructor
            tracer.traced_func_name = getattr(own, "__name__", "forward")
            inside = list(module.modules())
            with as_it_was(inside), kept_outside(inside):  # what the code caches while it is traced is no tensor
                graphs.append(tracer.trace(module, fixed))
    except Exception:
        return []
    finally:
        module.training = mode
    return graphs


@contextmanager
def _helpers_whole(module: nn.Module) -> Iterator[None]:
    """Functions that a module's code calls by name become one node each: what they do cannot be traced."""
    names: dict[str, Any] = getattr(type(module).forward, "__globals__", {})
    helpers = {
        name: value
        for name, value in names.items()
        if isinstance(value, FunctionType) and str(value.__module__).partition(".")[0] != "torch"
    }
    names.update({name: _whole(value) for name, value in helpers.items()})
    try:
        yield
    finally:
        names.update(helpers)


def _whole(function: FunctionType) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        proxy = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, fx.Proxy)), None)
        if proxy is None:
            return function(*args, **kwargs)
        return proxy.tracer.create_proxy("call_function", function, args, kwargs)

    return call


def _active(graph: fx.Graph) -> list[fx.Node]:
    """The nodes of a trace, but for attributes and parts that it only looks at."""
    idle: set[fx.Node] = set()
    for node in reversed(list(graph.nodes)):
        looks = node.op == "get_attr" or node.target in (getattr, operator.getitem)
        if looks and all(user in idle for user in node.users):
            idle.add(node)
    return [node for node in graph.nodes if node not in idle]


_READS_MODE: MutableMapping[type, bool] = WeakKeyDictionary()  # every rewrite makes classes


def _reads_mode(kind: type) -> bool:
    """Whether the module's code may depend on ``training``; True where the code cannot be seen."""
    if kind not in _READS_MODE:
        own = [base for base in kind.__mro__ if base is not object and base.__module__ != nn.Module.__module__]
        _READS_MODE[kind] = any(_names_mode(value) for base in own for value in vars(base).values())
    return _READS_MODE[kind]


def _names_mode(value: Any) -> bool:
    """Whether a function, or one inside it, has a name ``training``."""
    value = getattr(value, "__func__", getattr(value, "fget", value))  # static methods and properties
    value = inspect.unwrap(value) if callable(value) else value
    code = getattr(value, "__code__", value)
    if not isinstance(code, CodeType):
        return isinstance(code, torch.jit.ScriptFunction) or (callable(value) and not isinstance(value, type))
    inner = [name for constant in code.co_consts if isinstance(constant, tuple) for name in constant]
    names = {*code.co_names, *code.co_varnames, *inner, *code.co_consts}
    return "training" in names or any(_names_mode(one) for one in code.co_consts if isinstance(one, CodeType))


_INTERNAL = frozenset(vars(nn.Module())) - {"training"}
_PLAIN = (bool, int, float, str, bytes, torch.dtype, torch.device, type, FunctionType, BuiltinFunctionType)
_READ: MutableMapping[type, frozenset[str]] = WeakKeyDictionary()


def alike(module: nn.Module) -> tuple[Any, ...] | None:
    """Equal for modules whose code does the same: of one type, with the same children and the same values of whatever
    attributes the code names. None where an attribute cannot be compared."""
    names = _read(type(module))
    modules = list(module.named_modules(remove_duplicate=False))
    for _, one in modules:
        if names & _methods(type(one)):  # its code is traced too, not called as a whole
            names |= _read(type(one))
    found: list[Any] = []
    for path, one in modules:
        held = [(name, value is None) for part in (one._parameters, one._buffers) for name, value in part.items()]
        found.append((path, type(one), tuple(held)))
        for name, value in vars(one).items():
            if name in _INTERNAL or name not in names or (path and name == "forward"):
                continue
            value = getattr(value, "__func__", value) if getattr(value, "__self__", None) is one else value
            plain = comparable(value)
            if plain is None:
                return None
            found.append((name, *plain))
    return tuple(found)


def _methods(kind: type) -> frozenset[str]:
    """What a module can be asked beside a call of it: its own methods and properties."""
    own = [base for base in kind.__mro__ if issubclass(base, nn.Module) and base is not nn.Module]
    names = {name for base in own for name, value in vars(base).items() if callable(value) or hasattr(value, "fget")}
    return frozenset(name for name in names if name != "forward" and not name.startswith("__"))


def comparable(value: Any) -> tuple[Any, ...] | None:
    """Something that compares like `value`; None where there is nothing."""
    if value is None or isinstance(value, _PLAIN):
        return (type(value), value)
    if isinstance(value, (tuple, list)):
        inner = [comparable(one) for one in value]
        return None if None in inner else (type(value), *inner)
    return None


def _read(kind: type) -> frozenset[str]:
    """The names that the code of a type asks for, and that of the functions of its module that it calls by name."""
    if kind not in _READ:
        own = [vars(base) for base in kind.__mro__ if base is not object]
        pending: list[Any] = [value for part in own for name, value in part.items() if name != "__init__"]
        pending = [value for value in pending if getattr(value, "__module__", "") != nn.Module.__module__]
        names: set[str] = set()
        seen: set[CodeType] = set()
        while pending:
            value = pending.pop()
            value = getattr(value, "__func__", getattr(value, "fget", value))
            value = inspect.unwrap(value) if callable(value) else value
            code = getattr(value, "__code__", value)
            if not isinstance(code, CodeType) or code in seen:
                continue
            seen.add(code)
            named = {*code.co_names, *(one for one in code.co_consts if isinstance(one, str))}
            names |= named
            pending += [one for one in code.co_consts if isinstance(one, CodeType)]
            known = getattr(value, "__globals__", {})
            here = [known[name] for name in named if isinstance(known.get(name), FunctionType)]
            pending += [one for one in here if not str(one.__module__).startswith("torch.")]
        _READ[kind] = frozenset(names)
    return _READ[kind]


# Nodes that only move elements; `getitem` also takes tuples apart.
MOVES = frozenset(
    "view reshape permute transpose chunk split getitem contiguous flatten unflatten narrow select unbind squeeze"
    " unsqueeze"
    " index_select pad flip roll swapaxes movedim tensor_split split_with_sizes clone t".split()
)


def name_of(node: fx.Node) -> str:
    """The name of the function or method that a node calls, of a module or placeholder its target."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def moves(node: fx.Node) -> bool:
    """The node only moves elements."""
    if node.op not in ("call_method", "call_function"):
        return False
    return name_of(node) in MOVES
