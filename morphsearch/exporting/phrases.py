"""Source of single steps: calls of functions and methods, operators, indices, sizes, constants."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from morphsearch.exporting.literals import flag, hole, identifier, source
from morphsearch.exporting.numbers import plain
from morphsearch.exporting.paths import Paths
from morphsearch.exporting.steps import Call, Const, Lit, Mode, Op, Par, Ref, Size, Unsupported, Value

OPERATORS = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "__rsub__": "{1} - {0}",
    "__rtruediv__": "{1} / {0}",
    "__pow__": "{} ** {}",
    "__rpow__": "{1} ** {0}",
    "__floordiv__": "{} // {}",
    "__mod__": "{} % {}",
    "__and__": "{} & {}",
    "__or__": "{} | {}",
    "__xor__": "{} ^ {}",
    "__invert__": "~{}",
    "matmul": "{} @ {}",
    "neg": "-{}",
    "gt": "{} > {}",
    "lt": "{} < {}",
    "ge": "{} >= {}",
    "le": "{} <= {}",
    "eq": "{} == {}",
    "ne": "{} != {}",
}
# Private functions of torch that its own modules call, and how many arguments, in terms of public ones.
PRIVATE = {
    ("?_weight_norm", 3): "{0} * ({1} / torch.norm_except_dim({0}, 2, {2}))",
}
PACKAGES = {
    "torch.nn.functional.": "F.",
    "torch.functional.": "torch.",
    "torch.nn.init.": "nn.init.",
    "torch.nn.": "nn.",
    "torch.": "torch.",
}


@dataclass(frozen=True)
class Attribute:
    """A leaf of arguments: the dtype or device of a value."""

    value: Value
    name: str


class Phrases:
    """Writes steps of the forward code of one module; `names` says how values are called there.

    Args:
        call: of the module.
        taken: names of constant tensors of this module, by their content; new ones are added.
    """

    def __init__(self, call: Call, paths: Paths, taken: dict[Any, str]) -> None:
        self.call, self.paths, self.taken = call, paths, taken
        self.names: dict[Value, str] = {}
        self.lists: dict[tuple[Value, ...], str] = {}  # arguments that are whole lists
        self.literals: list[tuple[str, Tensor]] = []

    def operation(self, step: Op, args: Any, kwargs: Any) -> str:
        name = step.name
        last = name.rpartition(".")[2]
        if name.startswith("torch.Tensor."):
            return self.method(name.removeprefix("torch.Tensor."), args, kwargs)
        if name.startswith("aten."):
            return self.called(f"torch.ops.{name}", last, args, kwargs)
        form = PRIVATE.get((name, len(args) + len(kwargs)))
        if form is not None and not kwargs:
            return form.format(*(self.operand(arg) for arg in args))
        text = next((short + name.removeprefix(long) for long, short in PACKAGES.items() if name.startswith(long)), "")
        if not text or not _public(text):
            where = f" in {self.call.path}" if self.call.path else ""
            raise Unsupported(f"the operation {name.lstrip('?')}{where} belongs to no public part of torch")
        return self.called(text, last, args, kwargs)

    def method(self, name: str, args: Any, kwargs: Any) -> str:
        base = self.tree(args[0])
        base = base if re.fullmatch(r"[\w.\[\]\"]+", base) else f"({base})"
        if name.endswith(".__get__"):
            return f"{base}.{name.removesuffix('.__get__')}"
        if name == "__getitem__":
            return f"{base}[{self.index(args[1])}]"
        if name == "__setitem__":
            return f"{base}[{self.index(args[1])}] = {self.tree(args[2])}"
        if name.endswith(".__set__"):
            return f"{base}.{name.removesuffix('.__set__')} = {self.tree(args[1])}"
        form = OPERATORS.get(name)
        if form is not None and not kwargs and len(args) == form.count("{"):
            return form.format(*(self.operand(arg) for arg in args))
        if name.startswith("__") and not hasattr(torch.Tensor, name):
            raise Unsupported(f"the operation {name} of tensors")
        return self.called(f"{base}.{name}", name, args[1:], kwargs)

    def operand(self, tree: Any) -> str:
        text = self.tree(tree)
        single = isinstance(tree, Ref | Par | Lit | Const) and not text.startswith("-")
        return text if single or re.fullmatch(r"[\w.\[\]]+", text) else f"({text})"

    def called(self, text: str, hint: str, args: Any, kwargs: Any) -> str:
        hint = hint.strip("_")
        parts = [self.tree(arg, f"{hint}_{i}" if i else hint) for i, arg in enumerate(args)]
        usual = _defaults(text)
        parts += [
            f"{name}={self.tree(arg, f'{hint}_{name}')}"
            for name, arg in kwargs.items()
            if not (isinstance(arg, Const) and name in usual and arg.value is usual[name])
        ]
        return f"{text}({', '.join(parts)})"

    def index(self, tree: Any) -> str:
        if isinstance(tree, tuple):
            return ", ".join(self.index(part) for part in tree) + ("," if len(tree) == 1 else "")
        if isinstance(tree, slice):
            start, stop, step = (
                "" if isinstance(part, Const) and part.value is None else self.tree(part, "slice")
                for part in (tree.start, tree.stop, tree.step)
            )
            return f"{start}:{stop}" + (f":{step}" if step else "")
        return self.tree(tree, "index")

    def tree(self, tree: Any, hint: str = "value") -> str:
        """Source of an argument."""
        if isinstance(tree, list | tuple) and tree and all(map(is_ref, tree)):
            whole = self.lists.get(tuple(leaf.value for leaf in tree))
            if whole is not None:
                return whole
        if isinstance(tree, list):
            return f"[{', '.join(self.tree(part, hint) for part in tree)}]"
        if isinstance(tree, tuple) and hasattr(tree, "_fields"):
            parts = ", ".join(f"{name}={self.tree(part)}" for name, part in zip(tree._fields, tree, strict=True))
            return f"{identifier(type(tree).__name__)}({parts})"
        if isinstance(tree, tuple):
            return f"({', '.join(self.tree(part, hint) for part in tree)}{',' if len(tree) == 1 else ''})"
        if isinstance(tree, slice):
            return f"slice({', '.join(self.tree(part) for part in (tree.start, tree.stop, tree.step))})"
        if isinstance(tree, dict):
            return f"{{{', '.join(f'{source(key)}: {self.tree(part)}' for key, part in tree.items())}}}"
        render: Callable[[Any], str] = {
            Ref: lambda leaf: self.names[leaf.value],
            Par: lambda leaf: self.parameter(leaf.names),
            Lit: lambda leaf: self.literal(leaf.tensor),
            Mode: lambda leaf: "self.training",
            Attribute: lambda leaf: f"{self.names[leaf.value]}.{leaf.name}",
            Size: lambda leaf: self.sized(leaf.expression, top=True),
        }.get(type(tree), lambda leaf: self.constant(leaf.value, hint))
        return render(tree)

    def constant(self, value: Any, hint: str) -> str:
        value = plain(value)
        if isinstance(value, bool):
            return flag(value)
        if isinstance(value, int | float) and value == value:
            return hole(value, hint)
        return source(value)

    def parameter(self, names: tuple[str, ...]) -> str:
        relative = self.paths.under(self.call.path, names)
        assert relative is not None
        return self.paths.reach(self.call.path, relative)

    def literal(self, tensor: Tensor) -> str:
        name = self.taken.get(fingerprint(tensor))
        if name is None:
            module = self.call.module
            used = {*self.taken.values(), *dir(module)}
            name = next(
                n for n in itertools.chain(["constant"], (f"constant{n}" for n in itertools.count(2))) if n not in used
            )
            self.taken[fingerprint(tensor)] = name
        if all(known != name for known, _ in self.literals):
            self.literals.append((name, tensor))
        return f"self.{name}"

    def sized(self, expression: Any, *, top: bool = False) -> str:
        if not isinstance(expression, tuple):
            return source(plain(expression))
        kind = expression[0]
        if kind == "dim":
            return f"{self.names[expression[1]]}.shape[{expression[2]}]"
        if kind == "numel":
            return f"{self.names[expression[1]]}.numel()"
        if kind == "in":
            return self.names[expression[1]]
        if kind == "call":
            inner = self.sized(expression[2], top=expression[1] != "-")
            return f"-{inner}" if expression[1] == "-" else f"{expression[1]}({inner})"
        text = f"{self.sized(expression[1])} {kind} {self.sized(expression[2])}"
        return text if top else f"({text})"


def is_ref(leaf: Any) -> bool:
    """Whether a leaf is a value."""
    return isinstance(leaf, Ref)


def fingerprint(tensor: Tensor) -> Any:
    """Equal for equal constants."""
    value = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(value.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
    return value.dtype, tuple(value.shape), digest


@cache
def _defaults(text: str) -> dict[str, Any]:
    """Default values of the arguments of a function in ``torch.nn.functional``."""
    if not text.startswith("F."):
        return {}
    try:
        parameters = inspect.signature(getattr(torch.nn.functional, text[2:])).parameters
    except (TypeError, ValueError):
        return {}
    return {name: one.default for name, one in parameters.items() if name != "training"}


def _public(text: str) -> bool:
    place: Any = {"torch": torch, "F": torch.nn.functional, "nn": torch.nn}[text.partition(".")[0]]
    for name in text.split(".")[1:]:
        if name.startswith("_C") or not hasattr(place, name):
            return False
        place = getattr(place, name)
    return True
