"""From traces of a network to the source of its classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch.exporting import body as bodies
from morphsearch.exporting.classes import FORWARD, NAME, Library
from morphsearch.exporting.literals import END, HOLE, VALUE, hole, identifier, quoted, source, tensor
from morphsearch.exporting.modes import modes
from morphsearch.exporting.paths import Paths, is_list, is_sequential, numbered, plain_name
from morphsearch.exporting.scopes import Scopes
from morphsearch.exporting.steps import Call, Par, Ref
from morphsearch.exporting.whole import Arguments, arguments, positional, torch_class

SHORT = {
    "in_channels": "in",
    "out_channels": "out",
    "in_features": "in",
    "out_features": "out",
    "num_features": "features",
    "num_channels": "channels",
    "kernel_size": "kernel",
}


class Conflict(Exception):
    """A module whose calls differ: it is written into its callers."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class NetworkSource:
    """The classes of a network.

    Args:
        model: that was traced.
        fresh: the same with fresh weights, whose constants are written down.
        evaluation, training: merged traces; `training` is None where only the evaluation path is wanted.
        dtype: what the traces ran in.
        reset: lines of a method ``reset_parameters`` for the network's class; may be none.
        fixed: from which dimension on the sizes of inputs are what they were in the trace; None: all may be others.

    Raises:
        Unsupported: something has no source. SizeTaken: a number follows from the size of the input.
    """

    def __init__(
        self,
        model: nn.Module,
        fresh: nn.Module,
        evaluation: Call,
        training: Call | None,
        dtype: torch.dtype,
        reset: list[str],
        fixed: int | None = None,
    ) -> None:
        self.model, self.dtype, self.reset, self.fixed = model, dtype, reset, fixed
        self.fresh = dict(fresh.named_modules(remove_duplicate=False))
        self.paths = Paths(model)
        roots = [evaluation, *([training] if training is not None else [])]
        self.scopes = Scopes(roots, self.paths)
        while True:
            self.library = Library()
            self.namedtuples: dict[str, list[str]] = {}
            try:
                self.calls = [self._calls(root) for root in roots]
                self.paths.classes = {path for path in self.paths.modules if self._is_class(path)}
                self.root = self._construct("", "")
                break
            except Conflict as conflict:
                if conflict.path == "":
                    raise bodies.SizeTaken("its arguments differ between training and evaluation") from conflict
                self.scopes.inlined.add(conflict.path)
                self.scopes.settle()

    # -- what becomes what -------------------------------------------------------------------------------------

    def _calls(self, root: Call) -> dict[str, list[Call]]:
        """The calls that have code of their own, by module."""
        found: dict[str, list[Call]] = {"": [root]}
        for _, step in root.steps():
            if isinstance(step, Call) and step.body is not None and step.path not in self.scopes.inlined:
                found.setdefault(step.path, []).append(step)
        return found

    def _called(self, path: str) -> bool:
        first = self.paths.names_of(path)[0]
        return any(first in calls for calls in self.calls)

    def _is_class(self, path: str) -> bool:
        module = self.paths.modules[path]
        if path == "":
            return True
        if is_sequential(module):
            return False
        called = self._called(path)
        if not called:
            if torch_class(module) is type(module) and arguments(module) is not None:
                return False
            if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict | nn.ParameterList):
                return False
            return (
                next(iter(module.parameters()), None) is not None
                or next(iter(module.buffers()), None) is not None
                or bool(module._modules)
            )
        return True

    # -- constructors ------------------------------------------------------------------------------------------

    def _construct(self, path: str, hint: str) -> str:
        """Source, with marks, that makes the module at `path`."""
        module = self.paths.modules[path]
        if path in self.paths.classes:
            return self._class(path)
        if torch_class(module) is type(module) and type(module) is not nn.Identity:
            given = arguments(module)
            if given is not None:
                return f"nn.{type(module).__name__}({self._given(type(module), given, hint)})"
        if isinstance(module, nn.ParameterList):
            parts = [
                self._parameter(f"{path}.{name}", value, f"{hint}_{name}")
                for name, value in self.fresh[path].named_parameters()
            ]
            return f"nn.ParameterList([{', '.join(parts)}])"
        if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) and (
            module._modules or type(module) is not nn.Sequential
        ):
            return self._container(path, hint)
        return "nn.Sequential()" if isinstance(module, nn.Sequential) else "nn.Identity()"

    def _container(self, path: str, hint: str) -> str:
        module = self.paths.modules[path]
        children = {name: self._construct(f"{path}.{name}", f"{hint}_{name}") for name in module._modules}
        kind = next(kind for kind in (nn.Sequential, nn.ModuleList, nn.ModuleDict) if isinstance(module, kind))
        if kind is nn.ModuleDict:
            return f"nn.ModuleDict({{{', '.join(f'{quoted(name)}: {text}' for name, text in children.items())}}})"
        listed = self._listed(module, children)
        return f"nn.Sequential({listed})" if kind is nn.Sequential else f"nn.ModuleList([{listed}])"

    def _listed(self, module: nn.Module, children: Mapping[str, str]) -> str:
        if numbered(module) or not children or not isinstance(module, nn.Sequential):
            return ", ".join(children.values())
        pairs = ", ".join(f"({quoted(name)}, {text})" for name, text in children.items())
        return f"OrderedDict([{pairs}])"

    def _given(self, kind: type[nn.Module], given: Arguments, hint: str) -> str:
        count = positional(kind, given)
        parts = []
        for position, (name, value) in enumerate(given.items()):
            text = self._constant(value, f"{hint}_{SHORT.get(name, name)}".strip("_"))
            parts.append(text if position < count else f"{name}={text}")
        return ", ".join(parts)

    def _constant(self, value: Any, hint: str) -> str:
        if isinstance(value, tuple):
            return f"({', '.join(self._constant(part, hint) for part in value)}{',' if len(value) == 1 else ''})"
        return hole(value, hint) if isinstance(value, int | float) and not isinstance(value, bool) else source(value)

    def _class(self, path: str) -> str:
        module = self.paths.modules[path]
        forward, literals = self._forward(path) if self._called(path) else ([], [])
        base, given = torch_class(module), arguments(module)
        inherited: set[str] = set()
        if base is not None and given is not None:
            head, start = f"nn.{base.__name__}", self._given(base, given, "")
            with torch.device("meta"):
                made = base(**given)
            inherited = {*made._parameters, *made._buffers}
        elif numbered(module) and not (isinstance(module, nn.ModuleList)):
            head, start = "nn.Sequential", ""
        else:
            head, start = "nn.ModuleList" if isinstance(module, nn.ModuleList) else "nn.Module", ""
        lines = []
        prefix = f"{path}." if path else ""
        for name, parameter in self.fresh[path]._parameters.items():
            if parameter is not None and name not in inherited:
                lines.append(self._assign(name, self._parameter(prefix + name, parameter, name)))
        for name, buffer in self.fresh[path]._buffers.items():
            if name in inherited:
                continue
            if buffer is None:
                lines.append(f"self.register_buffer({quoted(name)}, None)")
            else:
                lines.append(self._buffer(name, buffer, persistent=name not in module._non_persistent_buffers_set))
        lines += [self._buffer(name, value, persistent=False) for name, value in literals]
        children = {
            name: self._construct(prefix + name, "" if is_list(module) else name)
            for name, child in module._modules.items()
            if child is not None
        }
        if head in ("nn.Sequential", "nn.ModuleList"):
            start = f"[{self._listed(module, children)}]" if head == "nn.ModuleList" else self._listed(module, children)
        else:
            lines += [self._assign(name, text, module=True) for name, text in children.items()]
        name = self._name(path)
        if path == "":
            lines += self._ties()
            lines += self._frozen()
            lines += ["self.reset_parameters()"] if self.reset else []
        text = [f"class {NAME}({head}):", f"        super().__init__({start})", *(f"        {line}" for line in lines)]
        reserved = {*module._modules, *module._parameters, *module._buffers, *dir(nn.Module)}
        return self.library.add(
            name, "\n".join([*text, *forward, *(self.reset if path == "" else [])]) + "\n", path, reserved
        )

    def _name(self, path: str) -> str:
        kind = type(self.paths.modules[path]).__name__
        if torch_class(self.paths.modules[path]) is type(self.paths.modules[path]) or hasattr(nn, kind):
            kind = "Network" if path == "" else kind
        if "GraphModule" in kind or (kind in ("Patched", "Net") and path):
            words = [word for word in path.split(".") if not word.isdigit()]
            kind = "".join(part.capitalize() for part in (words[-1] if words else "network").split("_"))
        name = identifier(kind, "Network")
        return name[:1].upper() + name[1:] if name.islower() else name

    def _assign(self, name: str, text: str, *, module: bool = False) -> str:
        if plain_name(name):
            return f"self.{name} = {text}"
        return f"self.{'add_module' if module else 'register_parameter'}({quoted(name)}, {text})"

    def _parameter(self, name: str, parameter: Tensor, hint: str) -> str:
        end = "" if parameter.requires_grad else ", requires_grad=False"
        value = parameter.detach()
        if value.numel() and bool((value == value.reshape(-1)[0]).all()):
            number = float(value.reshape(-1)[0])
            shape = self._constant(tuple(value.shape), f"{hint}_size")
            if number in (0.0, 1.0):
                return f"nn.Parameter(torch.{'ones' if number else 'zeros'}({shape}){end})"
            return f"nn.Parameter(torch.full({shape}, {hole(number, f'{hint}_value')}){end})"
        return f"nn.Parameter(torch.empty({self._constant(tuple(value.shape), f'{hint}_size')}){end})"

    def _buffer(self, name: str, value: Tensor, *, persistent: bool) -> str:
        end = "" if persistent else ", persistent=False"
        return f"self.register_buffer({quoted(name)}, {HOLE}{identifier(name)}_tensor{VALUE}{tensor(value)}{END}{end})"

    def _ties(self) -> list[str]:
        """Modules and parameters that have several names."""
        lines = []
        tied: set[str] = set()
        for names in self.paths.aliases.values():
            module = self.paths.modules[names[0]]
            if len(names) == 1 or (
                not any(True for _ in module.parameters()) and not any(True for _ in module.buffers())
            ):
                continue
            for name in names[1:]:
                if not any(name.startswith(f"{done}.") for done in tied):
                    tied.add(name)
                    lines.append(f"{self.paths.reach('', name)} = {self.paths.reach('', names[0])}")
        first: dict[int, str] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            if any(name.startswith(f"{done}.") for done in tied):
                continue
            if id(parameter) in first:
                lines.append(f"{self.paths.reach('', name)} = {self.paths.reach('', first[id(parameter)])}")
            first.setdefault(id(parameter), name)
        return lines

    def _frozen(self) -> list[str]:
        """Parameters that do not train, where a constructor of torch makes ones that do."""
        names = [name for name, parameter in self.fresh[""].named_parameters() if not parameter.requires_grad]
        if not names:
            return []
        listed = ", ".join(quoted(name) for name in names) + ("," if len(names) == 1 else "")
        return [f"for name in ({listed}):", "    self.get_parameter(name).requires_grad_(False)"]

    # -- forward -----------------------------------------------------------------------------------------------

    def _forward(self, path: str) -> tuple[list[str], list[tuple[str, Tensor]]]:
        first = self.paths.names_of(path)[0]
        taken: dict[Any, str] = {}
        literals: dict[str, Tensor] = {}
        written: list[bodies.Body | None] = []
        for calls in self.calls:
            found = [bodies.write(call, self.scopes, self.paths, self.dtype, taken) for call in calls.get(first, [])]
            if any((one.arguments, one.lines) != (found[0].arguments, found[0].lines) for one in found):
                raise Conflict(path)
            literals |= {name: value for one in found for name, value in one.literals}
            written.append(found[0] if found else None)
        both = [one for one in written if one is not None]
        if any(one.arguments != both[0].arguments for one in both):
            raise Conflict(path)
        lines = both[0].lines if len(both) == 1 else modes(both[0].lines, both[1].lines)
        for call in self.calls[0].get(first, []) or self.calls[-1].get(first, []):
            self._tuples(call)
        if path == "":
            lines = [*self._guards(), *lines]
            if is_sequential(self.model) and not self._guards() and self._in_order():
                return [], []
        typed = ", ".join(["self", *(f"{name}: {self._kind(first, name)}" for name in both[0].arguments)])
        return [f"{FORWARD}{typed}) -> {self._returns(first)}:", *(f"        {line}" for line in lines)], list(
            literals.items()
        )

    def _in_order(self) -> bool:
        """Whether the network, an ``nn.Sequential``, needs no forward code: no child's is written into it."""
        return all(step.path not in self.scopes.inlined for step in self._one("").body or () if isinstance(step, Call))

    def _guards(self) -> list[str]:
        """Lines that refuse inputs of other sizes, where these are written into the code."""
        lines = []
        for name, tree in self._one("").bound.items() if self.fixed is not None else ():
            shape = tree.value.shape if isinstance(tree, Ref) else None
            if shape is not None and len(shape) > (self.fixed or 0):
                size = source(tuple(shape[self.fixed :]))
                part = f"{identifier(name)}.shape" + (f"[{self.fixed}:]" if self.fixed else "")
                lines.append(f"if {part} != {size}:")
                lines.append(
                    f'    raise ValueError(f"{{tuple({part})}} for {identifier(name)}; its size is fixed: {size}")'
                )
        return lines

    def _one(self, path: str) -> Call:
        return next(calls[path][0] for calls in self.calls if path in calls)

    def _kind(self, path: str, name: str) -> str:
        call = self._one(path)
        tree = next(tree for key, tree in call.bound.items() if identifier(key) == name)
        if isinstance(tree, Ref):
            return "Tensor" if tree.value.shape is not None else "int"
        kinds: dict[type, str] = {list: "list[Tensor]", dict: "dict[str, Tensor]"}
        return kinds.get(type(tree), "Any")

    def _returns(self, path: str) -> str:
        results = [calls[path][0].result for calls in self.calls if path in calls]
        kinds = {type(result) for result in results}
        return "Tensor" if kinds <= {Ref, Par} else "Any"

    def _tuples(self, call: Call) -> None:
        for calls in self.calls:
            for one in calls.get(call.path, []):
                _find_tuples(one.result, self.namedtuples)


def _find_tuples(tree: Any, found: dict[str, list[str]]) -> None:
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        found[identifier(type(tree).__name__)] = list(tree._fields)
    if isinstance(tree, list | tuple | dict):
        for part in tree.values() if isinstance(tree, dict) else tree:
            _find_tuples(part, found)
