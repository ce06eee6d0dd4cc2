"""The modules of a network, their paths, and the classes that they were written as."""

from __future__ import annotations

from torch import nn


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


PATCHED = "_morphsearch_class"  # attribute of a patched class: the class that was written


def class_written(module: nn.Module | None) -> type:
    """The class of a module as it was written, before any patch: modules that are patched have a class of their own."""
    kind = type(module)
    found: type = getattr(kind, PATCHED, kind)
    return found


__all__ = ["PATCHED", "class_written", "modules_of"]
