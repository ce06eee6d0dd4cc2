"""Classes of modules: source of their constructors, and one class for all modules that differ in numbers only."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from morphsearch.exporting.layout import WIDTH, fit, paragraph
from morphsearch.exporting.literals import (
    CHILD,
    CHILD_END,
    CHILDREN,
    FLAGS,
    HOLES,
    RESERVED,
    VALUE,
    comment,
    identifier,
)

CHANNELS = frozenset("in out features channels groups num_features normalized_shape size shape".split())
MOST_PATHS = 12
NAME = "\ue010"
FORWARD = "    def forward("


@dataclass
class Shared:
    """One class with the modules that it makes.

    Args:
        text: source of its first module, with marks; ``NAME`` stands for the name.
        paths: of the modules. values, hints: of every hole in order, for each module.
        names: which names its modules' attributes have.
    """

    name: str
    text: str
    hints: list[str]
    reserved: set[str] = field(default_factory=set)
    paths: list[str] = field(default_factory=list)
    values: list[list[str]] = field(default_factory=list)


class Library:
    """The classes of one file."""

    def __init__(self) -> None:
        self.classes: list[Shared] = []
        self.by_skeleton: dict[str, int] = {}
        self.named: set[str] = set(RESERVED)
        self.parameters: dict[int, list[tuple[str, int]]] = {}

    def add(self, name: str, text: str, path: str, reserved: set[str]) -> str:
        """Enter the class of one module; returns the source, with marks, that makes this module."""
        skeleton = name + HOLES.sub(HOLE_BLANK, text)
        found = self.by_skeleton.get(skeleton)
        if found is None:
            found = self.by_skeleton[skeleton] = len(self.classes)
            hints = [match[1] for match in HOLES.finditer(text)]
            self.classes.append(Shared(self.unique(name), text, hints, reserved))
        shared = self.classes[found]
        shared.paths.append(path)
        shared.reserved |= reserved
        shared.values.append([match[2] for match in HOLES.finditer(text)])
        return f"{CHILD}{found}{VALUE}{''.join(match[0] for match in HOLES.finditer(text))}{CHILD_END}"

    def unique(self, name: str) -> str:
        """A class name that is not taken."""
        names = [name, *(f"{name}{number}" for number in range(2, 2 + len(self.classes)))]
        chosen = next(one for one in names if one not in self.named)
        self.named.add(chosen)
        return chosen

    def source(self, position: int, about: str = "") -> list[str]:
        """The lines of a class. `about` takes the place of the list of its modules in the docstring."""
        shared = self.classes[position]
        arguments = self.arguments(position)
        names = self._names_of_holes(shared, arguments)
        head, _, forward = shared.text.partition(FORWARD)
        count = len(HOLES.findall(head))
        init = self._render(head, [name or value for name, value in zip(names, shared.values[0], strict=True)][:count])
        in_forward = [f"self.{name}" if name else value for name, value in zip(names, shared.values[0], strict=True)]
        code = self._render(forward, in_forward[count:])
        stored = sorted({name for name in names[count:] if name}, key=names.index)
        return self._lines(shared, arguments, init, code, stored, about)

    def arguments(self, position: int) -> list[tuple[str, int]]:
        """The constructor's arguments, each with a hole that has its value: those that differ between modules."""
        if position in self.parameters:
            return self.parameters[position]
        shared = self.classes[position]
        found: dict[tuple[str, ...], tuple[str, int]] = {}
        used = set(shared.reserved) | RESERVED
        for hole, column in enumerate(zip(*shared.values, strict=True)):
            if len(set(column)) == 1:
                continue
            key = (_kind(shared.hints[hole]), *column)
            if key not in found:
                base = identifier(shared.hints[hole], "size")
                name = next(n for n in [base, *(f"{base}_{i}" for i in range(2, 10**6))] if n not in used)
                used.add(name)
                found[key] = (name, hole)
        self.parameters[position] = list(found.values())
        return self.parameters[position]

    def _names_of_holes(self, shared: Shared, arguments: list[tuple[str, int]]) -> list[str]:
        columns = list(zip(*shared.values, strict=True))
        by_key = {(_kind(shared.hints[hole]), *columns[hole]): name for name, hole in arguments}
        return [by_key.get((_kind(hint), *column), "") for hint, column in zip(shared.hints, columns, strict=True)]

    def _render(self, text: str, holes: list[str]) -> str:
        """Source with its holes filled, and its child classes called."""
        parts, position, start = [], 0, 0
        for match in re.finditer(f"{CHILDREN.pattern}|{HOLES.pattern}", text):
            parts.append(text[start : match.start()])
            start = match.end()
            if match[1] is None:
                parts.append(holes[position])
                position += 1
                continue
            child = int(match[1])
            count = len(HOLES.findall(match[2]))
            given = holes[position : position + count]
            position += count
            listed = ", ".join(f"{name}={given[hole]}" for name, hole in self.arguments(child))
            parts.append(f"{self.classes[child].name}({listed})")
        return FLAGS.sub(r"\1", "".join([*parts, text[start:]]))

    def _lines(
        self, shared: Shared, arguments: list[tuple[str, int]], init: str, code: str, stored: list[str], about: str
    ) -> list[str]:
        lines = init.replace(NAME, shared.name).rstrip("\n").split("\n")
        result = [lines[0]]
        result += _docstring(about or _where(shared.paths))
        columns = list(zip(*shared.values, strict=True))
        typed = [f"{name}: {_type_of(columns[hole])}" for name, hole in arguments]
        after = [*lines[2:], ""]
        body = [line for line, following in zip(lines[1:], after, strict=True) if line or following.startswith("    @")]
        if body != ["        super().__init__()"] or typed:
            result += ["", *fit(f"    def __init__({', '.join(['self', *typed])}) -> None:")]
            result += [one for line in body[:1] for one in fit(line)]
            result += [f"        self.{name} = {name}" for name in stored]
            result += [one for line in body[1:] for one in fit(line)]
        if code:
            result.append("")
            for line in (FORWARD + code).rstrip("\n").split("\n"):
                result += fit(line)
        return result


HOLE_BLANK = "\ue000"


def _kind(hint: str) -> str:
    """Numbers of different kinds are different arguments, even where their values agree."""
    last = re.sub(r"[_\d]+$", "", hint).rpartition("_")[2]
    return "channels" if last in CHANNELS else last


def _where(paths: list[str]) -> str:
    shown = ", ".join(path or "the network" for path in paths)
    if len(shown) <= 100:
        return f"{comment(shown)}."
    few = ", ".join(paths[:MOST_PATHS]) + (f" and {len(paths) - MOST_PATHS} more" if len(paths) > MOST_PATHS else "")
    return f"There are {len(paths)} of them.\n\n" + "\n".join(paragraph(f"{comment(few)}.", width=WIDTH - 4))


def _docstring(text: str) -> list[str]:
    if "\n" in text:
        first, *rest = text.split("\n")
        return [f'    """{first}', *(f"    {line}" if line else "" for line in rest), '    """']
    return [f'    """{text}"""']


def _type_of(column: tuple[str, ...]) -> str:
    kinds = set()
    for value in column:
        if re.fullmatch(r"-?\d+", value):
            kinds.add("int")
        elif re.fullmatch(r"-?\d*\.?\d+(e-?\d+)?|float\(.*\)", value):
            kinds.add("float")
        elif value.startswith("("):
            kinds.add("tuple[int, ...]")
        elif value.startswith('"'):
            kinds.add("str")
        else:
            kinds.add("Tensor")
    kinds -= {"int"} if "float" in kinds else set()
    return " | ".join(sorted(kinds))
