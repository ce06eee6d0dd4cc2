"""How source refers to modules, parameters and buffers, seen from a module above them."""

from __future__ import annotations

import keyword

from torch import nn

from morphsearch.exporting.literals import quoted


class Paths:
    """Every name of every module and tensor of a network, and the source that reaches it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.aliases: dict[int, list[str]] = {}
        for path, module in self.modules.items():
            self.aliases.setdefault(id(module), []).append(path)
        # Modules with forward code of their own become classes; their children are attributes, whatever they were.
        self.classes: set[str] = set()

    def names_of(self, path: str) -> list[str]:
        """Every path of the module at `path`."""
        return self.aliases[id(self.modules[path])]

    def under(self, scope: str, names: list[str] | tuple[str, ...]) -> str | None:
        """That of `names` which lies below the module at `scope`, relative to it."""
        for name in names:
            if scope == "" or name == scope or name.startswith(f"{scope}."):
                return name[len(scope) :].lstrip(".")
        return None

    def reach(self, scope: str, relative: str) -> str:
        """Source for something below the module at `scope`, which is ``self``."""
        text, path = "self", scope
        for name in relative.split(".") if relative else ():
            text += self.step(path, name)
            path = f"{path}.{name}" if path else name
        return text

    def step(self, path: str, name: str) -> str:
        """Source that goes from the module at `path` to its child, parameter or buffer `name`."""
        module = self.modules.get(path)
        if module is not None:
            if name in module._modules and (numbered(module) or is_list(module)):
                return f"[{list(module._modules).index(name)}]"
            if isinstance(module, nn.ParameterList) and name.isdigit():
                return f"[{name}]"
            if isinstance(module, nn.ModuleDict) and name in module._modules and path not in self.classes:
                return f"[{quoted(name)}]"
        if plain_name(name):
            return f".{name}"
        store = "_modules" if module is not None and name in module._modules else "_parameters"
        store = "_buffers" if module is not None and name in module._buffers else store
        return f".{store}[{quoted(name)}]"


def plain_name(name: str) -> bool:
    """Whether ``self.name`` can be written."""
    return name.isidentifier() and name.isascii() and not keyword.iskeyword(name)


def is_sequential(module: nn.Module) -> bool:
    """Whether it does what ``nn.Sequential`` does and nothing else."""
    return (
        isinstance(module, nn.Sequential)
        and type(module).forward is nn.Sequential.forward
        and "forward" not in vars(module)
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._parameters
        and not module._buffers
    )


def is_list(module: nn.Module) -> bool:
    """Whether its children are reached by their positions."""
    return isinstance(module, nn.Sequential | nn.ModuleList)


def numbered(module: nn.Module) -> bool:
    """Whether its children are called 0, 1, 2 and so on."""
    return bool(module._modules) and list(module._modules) == [str(i) for i in range(len(module._modules))]
