"""Runs a network once and writes down which torch functions every module calls, in a tree like the network's own.

A ``TorchFunctionMode`` sees each call of a torch function as the code wrote it (``F.relu``, ``x.mean``, ``x + y``), and
a wrapper around ``nn.Module.__call__`` sees which module it happens in, so that the source that is made of it reads
like the source it came from. Sizes are tracked (:mod:`morphsearch.exporting.numbers`); nothing else has to be symbolic.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from morphsearch.exporting.numbers import TracedFloat, TracedInt, traced
from morphsearch.exporting.outputs import require_plain
from morphsearch.exporting.steps import Call, Const, Lit, Op, Par, Ref, Size, Step, Unsupported, Value, walk
from morphsearch.exporting.whole import kept_whole
from morphsearch.graph.outside import kept_outside

READERS = {"torch.Tensor.shape.__get__", "torch.Tensor.size", "torch.Tensor.numel", "torch.Tensor.nelement"}
# These must give plain numbers; what the code does with them is not seen.
DECISIONS = {f"torch.Tensor.{name}" for name in ("__bool__", "__index__", "__float__", "__int__", "tolist", "numpy")}
SCALARS = {"torch.Tensor.item"}
SILENT = {"torch.Tensor.backward", "torch.Tensor.requires_grad.__set__"}


class Trace:
    """One run: the call of the network, and what had to be taken as it was."""

    def __init__(self, root: Call, notes: list[str], outputs: Any) -> None:
        self.root, self.notes, self.outputs = root, notes, outputs


def trace(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Trace:
    """Run `model`, in the mode that it is in, and write down what happens. Its buffers change as in any run,
    caches outside of modules do not.

    Raises:
        Unsupported: it puts other tensors in the place of its parameters or buffers.
    """
    tracer = _Tracer(model)
    before = {name: id(tensor) for name, tensor in _tensors(model)}
    with kept_outside(model.modules(), fresh=True), torch.enable_grad(), tracer, tracer.calls():
        outputs = model(*args, **kwargs)
    changed = [name for name, tensor in _tensors(model) if before.get(name) != id(tensor)]
    if changed:
        raise Unsupported(f"its forward code puts another tensor in the place of {changed[0]}")
    assert tracer.root is not None
    return Trace(tracer.root, list(dict.fromkeys(tracer.notes)), outputs)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


class _Tracer(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.paths = {id(module): path for path, module in reversed([*model.named_modules()])}
        self.names: dict[int, tuple[str, ...]] = {}
        for name, tensor in _tensors(model):
            self.names[id(tensor)] = (*self.names.get(id(tensor), ()), name)
        self.whole = {id(module): kept_whole(module) for module in model.modules()}
        self.alive: list[Any] = []
        self.home: dict[int, Value] = {}
        self.frames: list[tuple[Call, dict[int, Value]]] = []
        self.root: Call | None = None
        self.muted = 0
        self.count = 0
        self.notes: list[str] = []

    # -- leaves ------------------------------------------------------------------------------------------------

    def leaf(self, value: Any) -> Any:
        """What stands for `value` in the arguments of the running call."""
        if isinstance(value, Tensor):
            found = self.frames[-1][1].get(id(value)) if self.frames else None
            if found is None and id(value) in self.names:
                return Par(self.names[id(value)])
            found = found or self.home.get(id(value))
            if found is not None:
                return Ref(found)
            self.alive.append(value)
            return Lit(value)
        if isinstance(value, TracedInt | TracedFloat):
            return Size(value.expression, value)
        return Const(value)

    def new(self, thing: Any, call: Call | None, values: dict[int, Value] | None) -> Value:
        """A value of the scope of `call` that stands for a tensor or number."""
        self.count += 1
        value = Value(self.count, call, None)
        if isinstance(thing, Tensor):
            self.muted += 1
            value.shape, value.dtype = tuple(thing.shape), thing.dtype
            self.muted -= 1
        if isinstance(thing, Tensor):
            self.alive.append(thing)
            self.home[id(thing)] = value
            if values is not None:
                values[id(thing)] = value
        return value

    # -- functions ---------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` and write it down."""
        kwargs = kwargs or {}
        if self.muted or not self.frames:
            return func(*args, **kwargs)
        name = resolve_name(func) or f"?{getattr(func, '__name__', func)}"
        if name == "?_set_grad_enabled" or name in SILENT:
            return func(*args, **kwargs)
        if name in READERS:
            return self.size(name, func, args, kwargs)
        if name in SCALARS | DECISIONS:
            return self.scalar(name, func, args, kwargs)
        tree, named = walk(tuple(args), self.leaf), walk(dict(kwargs), self.leaf)
        self.muted += 1
        try:
            result = func(*args, **kwargs)
        finally:
            self.muted -= 1
        if not _tensors_in(result) and not _changes(name):
            return result
        frame, values = self.frames[-1]
        self.add(Op(name, tree, named, walk(result, lambda leaf: self.out(leaf, frame, values)), _grad()))
        return result

    def out(self, leaf: Any, frame: Call, values: dict[int, Value]) -> Any:
        if isinstance(leaf, Tensor):
            if id(leaf) in self.names and id(leaf) not in values:
                return Par(self.names[id(leaf)])
            return Ref(self.new(leaf, frame, values))
        return Const(leaf)

    def size(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        leaf = self.leaf(args[0])
        if not isinstance(leaf, Ref):
            return result
        if name in ("torch.Tensor.numel", "torch.Tensor.nelement"):
            return traced(result, ("numel", leaf.value))
        if isinstance(result, int):
            dim = args[1] if len(args) > 1 else kwargs["dim"]
            return traced(result, ("dim", leaf.value, int(dim) % args[0].dim()))
        return torch.Size([traced(size, ("dim", leaf.value, i)) for i, size in enumerate(result)])

    def scalar(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        tree = walk(tuple(args), self.leaf)
        result = func(*args, **kwargs)
        if name in DECISIONS or isinstance(result, bool | complex):
            where = self.frames[-1][0].path or "the network"
            self.notes.append(
                f"{where} decides by the numbers in a tensor ({name.rpartition('.')[2]}); "
                "what it did on random inputs is written down"
            )
            return result
        frame, _ = self.frames[-1]
        value = self.new(result, frame, None)
        self.add(Op("torch.Tensor.item", tree, {}, Ref(value), _grad()))
        return traced(result, ("in", value))

    def add(self, step: Step) -> None:
        body = self.frames[-1][0].body
        assert body is not None
        body.append(step)

    # -- modules -----------------------------------------------------------------------------------------------

    @contextmanager
    def calls(self) -> Iterator[None]:
        """While it lasts, calls of modules are written down."""
        original = nn.Module.__call__
        tracer = self

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if tracer.muted or id(module) not in tracer.paths:
                return original(module, *args, **kwargs)
            if tracer.whole[id(module)] and tracer.frames:
                return tracer.call_whole(original, module, args, kwargs)
            return tracer.call_traced(original, module, args, kwargs)

        setattr(nn.Module, "__call__", call)  # noqa: B010 - mypy knows it as a method
        try:
            yield
        finally:
            setattr(nn.Module, "__call__", original)  # noqa: B010

    def call_whole(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        frame, values = self.frames[-1]
        step = Call(self.paths[id(module)], module, frame, grad=_grad())
        bound = {str(i): arg for i, arg in enumerate(args)} | dict(kwargs)
        step.actual = {name: walk(value, self.leaf) for name, value in bound.items()}
        step.positional = len(args)
        self.muted += 1
        try:
            result = original(module, *args, **kwargs)
        finally:
            self.muted -= 1
        step.out = walk(result, lambda leaf: self.out(leaf, frame, values))
        self.add(step)
        return result

    def call_traced(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        parent = self.frames[-1] if self.frames else None
        step = Call(self.paths[id(module)], module, parent[0] if parent else None, body=[], grad=_grad())
        if parent is None:
            self.root = step
        values: dict[int, Value] = {}
        if parent is not None:
            step.actual = {name: walk(tree, self.leaf) for name, tree in _bind(module, args, kwargs).items()}
        passed: list[Any] = []

        def enter(leaf: Any) -> Any:
            if isinstance(leaf, Tensor):
                return Ref(self.new(leaf, step, values))
            if isinstance(leaf, TracedInt | TracedFloat):
                value = self.new(leaf, step, None)
                passed.append((leaf, value))
                return Ref(value)
            return Const(leaf)

        step.bound = {name: walk(tree, enter) for name, tree in _bind(module, args, kwargs).items()}
        if passed:
            known = {id(number): value for number, value in passed}

            def local(leaf: Any) -> Any:
                if id(leaf) in known and isinstance(leaf, TracedInt | TracedFloat):
                    return traced(leaf.real if isinstance(leaf, TracedFloat) else int(leaf), ("in", known[id(leaf)]))
                return leaf

            args, kwargs = walk(tuple(args), local), walk(dict(kwargs), local)
        if parent is not None:
            self.add(step)
        self.frames.append((step, values))
        try:
            result = original(module, *args, **kwargs)
            step.result = walk(result, self.leaf)
        finally:
            self.frames.pop()
        if parent is None:
            require_plain(result)
            return result
        numbers: dict[int, Value] = {}

        def leave(leaf: Any) -> Any:
            if isinstance(leaf, Tensor):
                return Ref(self.new(leaf, parent[0], parent[1]))
            if isinstance(leaf, TracedInt | TracedFloat):
                numbers[id(leaf)] = self.new(leaf, parent[0], None)
                return Ref(numbers[id(leaf)])
            return Const(leaf)

        step.out = walk(result, leave)
        if numbers:
            result = walk(
                result,
                lambda leaf: (
                    traced(leaf.real if isinstance(leaf, TracedFloat) else int(leaf), ("in", numbers[id(leaf)]))
                    if id(leaf) in numbers
                    else leaf
                ),
            )
        return result


def _grad() -> bool:
    return torch.is_grad_enabled()


def _bind(module: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments by the names that the forward code has for them."""
    try:
        signature = inspect.signature(module.forward)
        bound = signature.bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return {f"x{i}" if i else "x": arg for i, arg in enumerate(args)} | dict(kwargs)
    named: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name.rstrip('s') or 'x'}{i}" if len(value) > 1 else name: arg for i, arg in enumerate(value)}
        else:
            named[name] = value
    return named


def _tensors_in(result: Any) -> bool:
    found: list[bool] = []
    walk(result, lambda leaf: found.append(isinstance(leaf, Tensor)))
    return any(found)


def _changes(name: str) -> bool:
    """Whether a function that returns no tensor changes one."""
    last = name.rpartition(".")[2]
    return last in ("__setitem__", "__set__") or (last.endswith("_") and not last.endswith("__"))
