"""The modules of a network, their parameters and buffers, the paths of each, and the classes they were written as."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import Tensor, nn

Held = TypeVar("Held", bound=Tensor)


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """What ``dict(model.named_modules())`` is, in time that does not grow with how deep modules lie in each other."""
    found: dict[str, nn.Module] = {}
    known: set[int] = set()
    pending: list[tuple[str, nn.Module]] = [("", model)]
    while pending:
        path, module = pending.pop()
        if id(module) in known:
            continue
        known.add(id(module))
        found[path] = module
        prefix = f"{path}." if path else ""
        pending += [(prefix + name, one) for name, one in reversed(module._modules.items()) if one is not None]
    return found


def parameters_of(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """What ``dict(model.named_parameters())`` is, from :func:`modules_of`: tied ones have their first name."""
    return _once((path, module._parameters) for path, module in modules.items())


def buffers_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """What ``dict(model.named_buffers())`` is, from :func:`modules_of`."""
    return _once((path, module._buffers) for path, module in modules.items())


def _once(tables: Iterable[tuple[str, Mapping[str, Held | None]]]) -> dict[str, Held]:
    found: dict[str, Held] = {}
    known: set[int] = set()
    for path, table in tables:
        for name, value in table.items():
            if value is not None and id(value) not in known:
                known.add(id(value))
                found[f"{path}.{name}" if path else name] = value
    return found


PATCHED = "_morphsearch_class"  # attribute of a patched class: the class that was written


def class_written(module: nn.Module | None) -> type:
    """The class of a module as it was written, before any patch: modules that are patched have a class of their own."""
    kind = type(module)
    found: type = getattr(kind, PATCHED, kind)
    return found


__all__ = ["PATCHED", "buffers_of", "class_written", "modules_of", "parameters_of"]
