"""The two modes under which a network is recorded, and the rules that they ask."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from morphsearch.errors import MorphError
from morphsearch.graph.known import computed
from morphsearch.graph.rules.imaginary import comes_from, meets_complex
from morphsearch.graph.schemas import full_name, spoken_name
from morphsearch.graph.shapes import quick_shape
from morphsearch.graph.tape import Call, Tape, Untraceable, Values
from morphsearch.graph.tensors import tensors_in


@dataclass
class Rules:
    """Which rule handles what: torch functions, ATen operations (by name, without overload) and module types."""

    functions: dict[Callable[..., Any], Callable[..., Any]]
    aten: dict[str, Callable[..., None]]
    fallback: Callable[..., None]
    refuse: Callable[..., None]
    modules: dict[type, Callable[..., None]] = field(default_factory=dict)
    # Functions whose own code is recorded: that code, and what is to be said beside it (``rules.multihead``).
    opened: dict[Callable[..., Any], tuple[Callable[..., Any], Callable[[Tape, Any, Any], None]]] = field(
        default_factory=dict
    )

    def module_rule(self, module: nn.Module) -> Callable[..., None] | None:
        """The rule of the nearest base class of `module` that has one."""
        if not self.modules:
            return None
        return next((self.modules[kind] for kind in type(module).__mro__ if kind in self.modules), None)


@contextmanager
def recording(tape: Tape, rules: Rules) -> Iterator[None]:
    """Record everything that runs inside."""
    whole: list[nn.Module] = []

    def before(module: nn.Module, args: Any) -> None:
        name = tape.module_names.get(id(module))
        if name is None:
            return
        tape.module_stack.append(name)
        tape.visited.add(name)
        if tape.keeps_calls and tape.on_meta and not type(module).__module__.startswith("torch.nn."):
            tape.calls[name] = None if name in tape.calls else Call(Values.of(args, tape.names))
        if not tape.muted and rules.module_rule(module) is not None:
            whole.append(module)
            tape.muted += 1

    def after(module: nn.Module, args: Any, output: Any) -> None:
        name = tape.module_names.get(id(module))
        if name is None:
            return
        if tape.keeps_calls and (call := tape.calls.get(name)) is not None:
            call.made = Values.of(output, tape.names)
        if whole and whole[-1] is module:
            whole.pop()
            tape.muted -= 1
            rule = rules.module_rule(module)
            if rule is not None:
                rule(tape, module, args, {}, output)
        tape.module_stack.pop()

    with ExitStack() as stack:
        stack.enter_context(_uncompiled())
        stack.callback(register_module_forward_pre_hook(before).remove)
        stack.callback(register_module_forward_hook(after, always_call=True).remove)
        stack.enter_context(_Functions(tape, rules))
        stack.enter_context(_Aten(tape, rules))
        yield
    tape.latest = None


class _Functions(TorchFunctionMode):
    def __init__(self, tape: Tape, rules: Rules) -> None:
        super().__init__()
        self.tape, self.rules = tape, rules

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = None if self.tape.muted else self.rules.functions.get(func)
        if rule is None:
            if not self.tape.muted and func in self.rules.opened:
                return self._open(func, args, kwargs)
            return func(*args, **kwargs)
        self.tape.muted += 1
        self.tape.doing = getattr(func, "__name__", "").lstrip("_")
        try:
            if self.tape.imaginary:
                meets_complex(self.tape, self.tape.doing, args, kwargs)
            return rule(self.tape, func, args, kwargs)
        finally:
            self.tape.muted -= 1

    def _open(self, func: Any, args: Any, kwargs: Any) -> Any:
        code, beside = self.rules.opened[func]
        with self:
            out = code(*args, **kwargs)
        self.tape.muted += 1
        try:
            beside(self.tape, args, kwargs)
        finally:
            self.tape.muted -= 1
        return out


class _Aten(TorchDispatchMode):
    def __init__(self, tape: Tape, rules: Rules) -> None:
        super().__init__()
        self.tape, self.rules = tape, rules

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled while recording; the wrapper that guards against it would import the compiler (seconds).
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.tape.on_meta:
            out = self._on_shapes(func, args, kwargs)
        else:
            out = self.tape.answers.run(self.tape.module, func, args, kwargs)
        if not self.tape.muted:
            self.tape.doing = spoken_name(func)
            self.tape.read_positions((args, kwargs))
            if not self.tape.on_meta:
                _mark_data(args, kwargs, out)
            rule = self.rules.aten.get(full_name(func), self.rules.fallback)
            name = meets_complex(self.tape, self.tape.doing, args, kwargs) if self.tape.imaginary else ""
            try:
                rule(self.tape, func, args, kwargs, out)
                if name:
                    comes_from(self.tape, name, out)
            except (Untraceable, MorphError):
                raise
            except Exception as error:
                self.rules.refuse(self.tape, func, args, kwargs, out, f"{type(error).__name__}: {error}")
        return out

    def _on_shapes(self, func: Any, args: Any, kwargs: Any) -> Any:
        known = computed(func, args, kwargs)
        out = quick_shape(func, args, kwargs) if known is None else known.out
        if out is None:
            out = func(*args, **kwargs)
        if known is not None:
            known.attach(out)
        return out


def _mark_data(args: Any, kwargs: Any, out: Any) -> None:
    """Say of integers and masks that were computed from the network's data that they were: as an index they differ
    from one network to the next."""
    results = [t for t in tensors_in(out) if not t.is_floating_point()]
    if results and any(
        (t.is_floating_point() and hasattr(t, "_morphsearch_labels")) or hasattr(t, "_morphsearch_data")
        for t in tensors_in((args, kwargs))
    ):
        for tensor in results:
            tensor._morphsearch_data = True  # type: ignore[attr-defined]


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Parts of the network that are compiled (``torch.compile``) run as they were written."""
    with ExitStack() as stack:
        compiler = torch.compile

        def eagerly(*args: Any, **kwargs: Any) -> Any:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            return compiler(*args, **kwargs)

        if "torch._dynamo" in sys.modules:  # else nothing is compiled yet, and its import would take seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        torch.compile = eagerly
        try:
            yield
        finally:
            torch.compile = compiler


__all__ = ["Rules", "recording"]
