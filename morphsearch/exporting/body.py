"""The forward code of one module, as lines of source."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from morphsearch.exporting.literals import RESERVED, identifier, source
from morphsearch.exporting.numbers import plain, values_in
from morphsearch.exporting.paths import Paths
from morphsearch.exporting.phrases import Attribute, Phrases, is_ref
from morphsearch.exporting.scopes import Scopes
from morphsearch.exporting.steps import (
    Call,
    Const,
    Op,
    Ref,
    Size,
    Value,
    Vary,
    leaves,
    walk,
)

IN_PLACE = {"add_": "+=", "sub_": "-=", "mul_": "*=", "div_": "/="}


class SizeTaken(Exception):
    """A number follows from the size of the input in a way that could not be found."""


@dataclass
class Statement:
    """A step with its arguments in the scope of the forward code that it stands in."""

    step: Op | Call
    args: Any
    out: Any
    grad: bool


@dataclass
class Body:
    """Forward code: the names of its arguments and its lines, not indented."""

    arguments: list[str]
    lines: list[str]
    literals: list[tuple[str, Tensor]]


def arguments_of(call: Call) -> list[str]:
    """The arguments that hold a tensor (or a number that follows from sizes): the others are constants."""
    return [name for name, tree in call.bound.items() if any(isinstance(leaf, Ref) for leaf in leaves(tree))]


def write(call: Call, scopes: Scopes, paths: Paths, dtype: torch.dtype, taken: dict[Any, str]) -> Body:
    """The forward code of the module that `call` calls.

    Args:
        dtype: what the trace ran in: where it is an argument, it came from a tensor.
        taken: names of constant tensors of this module, by their content; new ones are added.

    Raises:
        Unsupported: something has no source. SizeTaken: a number follows from the size of the input.
    """
    return _Writer(call, scopes, paths, dtype, taken).body()


class _Writer(Phrases):
    def __init__(self, call: Call, scopes: Scopes, paths: Paths, dtype: torch.dtype, taken: dict[Any, str]) -> None:
        super().__init__(call, paths, taken)
        self.scopes, self.dtype = scopes, dtype
        self.same: dict[Value, Any] = {}
        self.last: dict[Value, int] = {}
        self.holders: dict[str, int] = {}

    # -- collecting --------------------------------------------------------------------------------------------

    def body(self) -> Body:
        statements = list(self.collect(self.call))
        result = self.resolve(self.call.result)
        self.visible = [leaf.value for tree in self.call.bound.values() for leaf in leaves(tree) if is_ref(leaf)]
        for statement in statements:
            statement.args = walk(statement.args, partial(self.explain, statement=statement))
            self.visible += [leaf.value for leaf in leaves(statement.out) if is_ref(leaf)]
        result = walk(result, partial(self.explain, statement=None))
        for position, statement in enumerate(statements):
            for value in self.used(statement.args):
                self.last[value] = position
        for value in self.used(result):
            self.last[value] = len(statements)
        arguments = self.name_arguments()
        lines: list[str] = []
        silent = False
        for position, statement in enumerate(statements):
            text = self.statement(position, statement)
            if not statement.grad and not silent:
                lines.append("with torch.no_grad():")
            silent = not statement.grad
            lines.append(f"    {text}" if silent else text)
        lines.append(f"return {self.tree(result)}")
        return Body(arguments, lines, self.literals)

    def collect(self, call: Call) -> Iterator[Statement]:
        for step in call.body or ():
            if isinstance(step, Op):
                yield Statement(step, (self.resolve(step.args), self.resolve(step.kwargs)), step.out, step.grad)
            elif step.body is None or step.path not in self.scopes.inlined:
                actual = {name: self.resolve(tree) for name, tree in step.actual.items()}
                if step.body is not None:
                    wanted = arguments_of(step)
                    actual = {name: tree for name, tree in actual.items() if name in wanted}
                yield Statement(step, actual, step.out, step.grad)
            else:
                for name, tree in step.bound.items():
                    for inner, outer in zip(leaves(tree), leaves(step.actual[name]), strict=True):
                        if isinstance(inner, Ref):
                            self.same[inner.value] = self.resolve(outer)
                yield from self.collect(step)
                for inner, outer in zip(leaves(step.result), leaves(step.out), strict=True):
                    if isinstance(outer, Ref):
                        self.same[outer.value] = self.resolve(inner)

    def resolve(self, tree: Any) -> Any:
        """The tree with values of inlined calls replaced by those of this scope."""

        def visit(leaf: Any) -> Any:
            if isinstance(leaf, Ref):
                return self.same.get(leaf.value, leaf)
            if isinstance(leaf, Size):
                expression = self.expression(leaf.expression)
                return Size(expression, leaf.number) if isinstance(expression, tuple) else Const(expression)
            return leaf

        return walk(tree, visit)

    def expression(self, expression: Any) -> Any:
        if not isinstance(expression, tuple):
            return expression
        kind = expression[0]
        if kind in ("dim", "numel", "in"):
            found = self.same.get(expression[1])
            if found is None:
                return expression
            if isinstance(found, Ref):
                return (kind, found.value, *expression[2:])
            if isinstance(found, Size):
                return found.expression
            if isinstance(found, Const) and kind == "in":
                return plain(found.value)
            shape = expression[1].shape
            return shape[expression[2]] if kind == "dim" else torch.Size(shape).numel()
        return (kind, *(self.expression(part) for part in expression[1:]))

    def explain(self, leaf: Any, statement: Statement | None) -> Any:
        """Put expressions in the place of numbers that vary with the size, and of the dtype and device of the trace."""
        if isinstance(leaf, Vary):
            found = _explained(leaf, self.visible)
            if found is None:
                where = f" in {self.call.path}" if self.call.path else ""
                raise SizeTaken(f"{leaf.first} became {leaf.second} on a larger input{where}")
            return Size(found, leaf.first)
        if isinstance(leaf, Const) and statement is not None and isinstance(statement.step, Op):
            name = "device" if isinstance(leaf.value, torch.device) else "dtype" if leaf.value is self.dtype else ""
            if name:
                for value in [*self.used(statement.args), *self.visible[:1], *reversed(self.visible)]:
                    if value.shape is not None and (name == "device" or value.dtype is self.dtype):
                        return Attribute(value, name)
        return leaf

    def used(self, tree: Any) -> list[Value]:
        found = []
        for leaf in leaves(tree):
            if isinstance(leaf, Ref | Attribute):
                found.append(leaf.value)
            elif isinstance(leaf, Size):
                found += values_in(leaf.expression)
        return found

    # -- naming ------------------------------------------------------------------------------------------------

    def name_arguments(self) -> list[str]:
        arguments = []
        for name in arguments_of(self.call):
            tree = self.call.bound[name]
            plain_name = identifier(name)
            arguments.append(plain_name)
            self.access(tree, plain_name)
            values = [leaf.value for leaf in leaves(tree) if is_ref(leaf)]
            kept = 10**9 if not isinstance(tree, Ref) else self.last.get(values[0], -1)
            self.holders[plain_name] = kept
            if isinstance(tree, list | tuple) and tree and all(map(is_ref, tree)):
                self.lists[tuple(leaf.value for leaf in tree)] = plain_name
        return arguments

    def access(self, tree: Any, text: str) -> None:
        """Name the values of a tree by how they are reached from a variable."""
        if isinstance(tree, Ref):
            self.names[tree.value] = text
        elif isinstance(tree, list | tuple):
            for position, part in enumerate(tree):
                self.access(part, f"{text}[{position}]")
        elif isinstance(tree, dict):
            for key, part in tree.items():
                self.access(part, f"{text}[{source(key)}]")

    def free(self, wanted: Iterator[str], position: int) -> str:
        return next(name for name in wanted if self.holders.get(name, -1) <= position and name not in RESERVED)

    def target(self, position: int, statement: Statement) -> str:
        """The variable (or variables) that the result goes to; empty where nobody reads it."""
        outs = [leaf.value for leaf in leaves(statement.out) if is_ref(leaf)]
        if not any(value in self.last for value in outs):
            return ""
        if isinstance(statement.out, Ref):
            name = self.reused(position, statement) or self.free(self.candidates(statement), position)
            self.names[outs[0]] = name
            self.holders[name] = self.last[outs[0]]
            return name
        tree = statement.out
        if isinstance(tree, list | tuple) and len(tree) <= 8 and all(map(is_ref, tree)):
            parts = []
            for leaf in tree:
                name = "_"
                if leaf.value in self.last:
                    name = self.free(_numbered("part"), position)
                    self.holders[name] = self.last[leaf.value]
                self.names[leaf.value] = name
                parts.append(name)
            return ", ".join(parts) + ("," if len(parts) == 1 else "")
        name = self.free(itertools.chain(["parts"], _numbered("parts")), position)
        self.holders[name] = max(self.last[value] for value in outs if value in self.last)
        self.access(tree, name)
        return name

    def reused(self, position: int, statement: Statement) -> str:
        """The name of the first argument, where that is not read again."""
        for value in self.used(statement.args)[:1]:
            name = self.names.get(value, "")
            if name.isidentifier() and name in self.holders and self.holders[name] <= position:
                return name
        return ""

    def candidates(self, statement: Statement) -> Iterator[str]:
        yield "out"
        if isinstance(statement.step, Call):
            last = next((n for n in reversed(statement.step.path.split(".")) if not n.isdigit()), "out")
        else:
            last = statement.step.name.removesuffix(".__get__").rpartition(".")[2].strip("_")
        hint = identifier(last.lower(), "out")
        if not hint.endswith("_"):
            yield hint
        yield from _numbered(hint.rstrip("_0123456789") or "out")

    # -- text --------------------------------------------------------------------------------------------------

    def statement(self, position: int, statement: Statement) -> str:
        step = statement.step
        if isinstance(step, Op):
            args, kwargs = statement.args
            text = self.operation(step, args, kwargs)
            last = step.name.rpartition(".")[2]
            base = self.tree(args[0]) if args and is_ref(args[0]) else ""
            target = self.target(position, statement)
            if last in IN_PLACE and target == base != "" and len(args) == 2 and not kwargs:
                return f"{target} {IN_PLACE[last]} {self.tree(args[1])}"
        else:
            relative = self.paths.under(self.call.path, self.paths.names_of(step.path))
            assert relative is not None
            given = [
                self.tree(tree) if step.body is not None or name.isdigit() else f"{name}={self.tree(tree)}"
                for name, tree in statement.args.items()
            ]
            text = f"{self.paths.reach(self.call.path, relative)}({', '.join(given)})"
            target = self.target(position, statement)
        return f"{target} = {text}" if target else text


def _numbered(name: str) -> Iterator[str]:
    return (f"{name}{number}" for number in itertools.count(2 if name != "part" else 1))


def _explained(number: Vary, visible: list[Value]) -> Any:
    """An expression of the sizes of visible tensors that gives both numbers, the simplest and latest first."""
    first, second = number.first, number.second
    dims = [
        (value, dim, a, b)
        for value in reversed(visible)
        if value.shape is not None and value.other is not None
        for dim, (a, b) in enumerate(zip(value.shape, value.other, strict=True))
        if a != b
    ]
    for value, dim, a, b in dims:
        if (a, b) == (first, second):
            return ("dim", value, dim)
    for value, dim, a, b in dims:
        if a and first % a == 0 and second == first // a * b:
            return ("*", ("dim", value, dim), first // a)
    for (one, i, a, b), (other, j, c, d) in itertools.combinations(dims, 2):
        if (a * c, b * d) == (first, second):
            return ("*", ("dim", other, j), ("dim", one, i))
    for value, dim, a, b in dims:
        if first and a % first == 0 and second and b == a // first * second:
            return ("//", ("dim", value, dim), a // first)
    return None
