"""Modules of torch that are kept whole: constructed by their own class, called as they are."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)

Arguments = dict[str, Any]
_SAME = (bool, int, float, str, tuple, type(None))


def torch_class(module: nn.Module) -> type[nn.Module] | None:
    """The class of ``torch.nn`` that `module` is, or derives from."""
    for kind in type(module).__mro__:
        if kind is nn.Module or kind in CONTAINERS:
            return None
        if kind.__module__.startswith("torch.nn.modules.") and getattr(nn, kind.__name__, None) is kind:
            found: type[nn.Module] = kind
            return found
    return None


def arguments(module: nn.Module) -> Arguments | None:
    """What the class of :func:`torch_class` must be called with to make `module`; None where that cannot be told.

    Proven by calling it: parameters and buffers come out with the names and shapes of the module's, and, for a module
    of exactly that class, the plain attributes too.
    """
    kind = torch_class(module)
    if kind is None or any(_odd(tensor) for tensor in module.parameters(recurse=False)):
        return None
    given: Arguments = {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if name in ("self", "device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        missing = object()
        value = getattr(module, name, missing)
        if name == "bias" and not isinstance(value, bool):
            value = _has_bias(module)
        if value is missing:
            if parameter.default is parameter.empty:
                return None
            continue
        value = _simple(value)
        if parameter.default is parameter.empty or _simple(parameter.default) != value:
            given[name] = value
    return given if _same(module, kind, given) else None


def kept_whole(module: nn.Module) -> bool:
    """Whether a call of `module` is written as a call of a module of torch."""
    if type(module) in CONTAINERS or torch_class(module) is not type(module) or "forward" in vars(module):
        return False
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    return arguments(module) is not None


def positional(kind: type[nn.Module], given: Arguments) -> int:
    """How many of the arguments read well without their names: those that have no default, and a kernel's size."""
    required = [
        name
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if name != "self" and parameter.default is parameter.empty
    ]
    count = 0
    for name in given:
        if count < len(required) and name == required[count]:
            count += 1
    return count


def _has_bias(module: nn.Module) -> bool:
    return any(getattr(module, name, None) is not None for name in ("bias", "in_proj_bias", "bias_ih_l0"))


def _odd(tensor: Tensor) -> bool:
    return torch.nn.parameter.is_lazy(tensor)


def _simple(value: Any) -> Any:
    """One number for ``(3, 3)``, a tuple for a list."""
    if isinstance(value, list | tuple):
        parts = tuple(_simple(part) for part in value)
        if parts and all(isinstance(part, int | float) and part == parts[0] for part in parts):
            return parts[0]
        return parts
    return value


def _same(module: nn.Module, kind: type[nn.Module], given: Arguments) -> bool:
    if not all(isinstance(value, _SAME) for value in given.values()):
        return False
    try:
        with torch.device("meta"):
            made = kind(**given)
    except Exception:
        return False
    exact = type(module) is kind
    for store in ("_parameters", "_buffers"):
        ours, theirs = getattr(module, store), getattr(made, store)
        shapes = {name: _shape(tensor) for name, tensor in theirs.items()}
        found = {name: _shape(tensor) for name, tensor in ours.items() if exact or name in shapes}
        if found != shapes:
            return False
    if not exact:
        return not made._modules.keys() - module._modules.keys()
    if _layout(made) != _layout(module):
        return False
    there = vars(made)
    return all(
        _simple(value) == _simple(there.get(name))
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and isinstance(value, _SAME)
    )


def _layout(module: nn.Module) -> Any:
    """Classes of all modules, shapes of all parameters and buffers: attention may have an output of another width."""
    held = [*module.named_parameters(), *module.named_buffers()]
    return {n: type(m) for n, m in module.named_modules()}, {n: tuple(tensor.shape) for n, tensor in held}


def _shape(tensor: Tensor | None) -> Any:
    return None if tensor is None else tuple(tensor.shape)
