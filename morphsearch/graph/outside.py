"""What forward code keeps outside of modules: in globals, classes, helper objects, closures and memoised functions.

A grid of positions in a dictionary of the file, anchors in an attribute of the class, a table behind
``functools.lru_cache``: a recording must leave none of it behind, since what it makes are shapes without numbers, and
begin each time from what was there before, since otherwise the second run would go another way than the first.

Only what the code of the modules can reach by name is looked at: a notebook's globals hold much else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from morphsearch.graph.paths import class_written
from morphsearch.graph.state import CONTAINERS, INTERNAL, alike, fill, nested

_FOREIGN = frozenset(("torch", "numpy", "morphsearch")) | sys.stdlib_module_names - {"__main__"}
_PLAIN = (bool, int, float, complex, str, bytes, tuple, type(None), Tensor, nn.Module)
_MISSING = object()


@contextmanager
def kept_outside(modules: Iterable[nn.Module], *, fresh: bool = False) -> Iterator[Outside]:
    """Put back what the forward code of `modules` writes outside of modules.

    Args:
        fresh: memoised functions begin without results. (Nobody can give them back the ones that they had.)

    Yields:
        What is put back, which a later run may begin from as well.
    """
    modules = list(modules)
    own = frozenset(_root(kind.__module__) for kind in {class_written(module) for module in modules}) - _FOREIGN
    objects = list(_helpers(modules, own))
    kinds, functions = set[type](), set[FunctionType]()
    for one in objects:
        if isinstance(one, type):
            kinds.add(one)
        elif isinstance(one, FunctionType):
            functions.add(one)
        else:
            kinds.add(type(one))
    # A patched class is one network's own: what follows from names is kept for the class that was written.
    patched = {type(module) for module in modules if class_written(module) is not type(module)}
    reached = _reached(frozenset(kinds), frozenset(functions), own)
    if fresh:
        for memo in reached.memos:
            memo.cache_clear()
    outside = Outside(reached, patched, [one for one in objects if not isinstance(one, (type, FunctionType))], own)
    try:
        yield outside
    finally:
        outside.put_back()


@contextmanager
def emptied(modules: Iterable[nn.Module]) -> Iterator[bool]:
    """Dictionaries outside of modules have no tensors in them, so that code makes anew what it keeps there.

    Yields:
        Whether there were any.
    """
    found = False
    with kept_outside(modules, fresh=True) as outside:
        for container, content in outside.containers:
            if isinstance(container, dict):
                rest = {key: value for key, value in content.items() if not isinstance(value, Tensor)}
                found |= len(rest) < len(content)
                fill(container, rest)
        yield found


def _helpers(modules: Iterable[nn.Module], own: frozenset[str]) -> Iterator[Any]:
    """The classes of the modules, and what modules hold that has code: functions and objects that are no modules."""
    seen = set[int]()
    for module in modules:
        kind = class_written(module)
        if _is_foreign(kind.__module__, own):
            continue
        if id(kind) not in seen:
            seen.add(id(kind))
            yield kind
        for key, value in vars(module).items():
            if key in INTERNAL or isinstance(value, _PLAIN) or type(value) in CONTAINERS or id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, FunctionType) or _is_helper(value, own):
                yield value


@dataclass
class _Reached:
    """What code can reach: names in files, classes, cells of closures, functions, and containers."""

    names: dict[int, tuple[dict[str, Any], set[str]]] = field(default_factory=dict)
    classes: dict[type, None] = field(default_factory=dict)
    cells: dict[int, CellType] = field(default_factory=dict)
    functions: list[FunctionType] = field(default_factory=list)
    memos: list[Any] = field(default_factory=list)
    containers: list[Any] = field(default_factory=list)  # defaults of arguments


@lru_cache(maxsize=32)
def _reached(kinds: frozenset[type], functions: frozenset[FunctionType], own: frozenset[str]) -> _Reached:
    walk = _Walk(own)
    for kind in kinds:
        walk.add_class(kind)
    for function in functions:
        walk.add(function)
    return walk.found


class _Walk:
    """Follows names through code."""

    def __init__(self, own: frozenset[str]) -> None:
        self.own = own
        self.found = _Reached()
        self.mentioned: set[str] = {"forward"}
        self.seen: set[int] = set()
        self.files: set[tuple[int, frozenset[str]]] = set()

    def add_class(self, kind: type) -> None:
        """What the methods reach whose names are mentioned somewhere."""
        for base in kind.__mro__:
            if base in self.found.classes or _is_foreign(base.__module__, self.own):
                continue
            self.found.classes[base] = None
            for name, value in list(vars(base).items()):
                # Of modules the constructor does not run again.
                if name in self.mentioned or (name.startswith("__") and not issubclass(base, nn.Module)):
                    self.add(value)

    def add(self, value: Any) -> None:
        """A value that code has a name for."""
        if isinstance(value, _PLAIN) or id(value) in self.seen:
            return
        self.seen.add(id(value))
        if isinstance(value, FunctionType):
            if not _is_foreign(value.__module__ or "", self.own):
                self._add_function(value)
        elif isinstance(value, type):
            self.add_class(value)
        elif isinstance(value, (staticmethod, classmethod, MethodType)):
            self.add(value.__func__)
        elif isinstance(value, property):
            self.add(value.fget)
        elif isinstance(value, partial):
            self.add(value.func)
        elif hasattr(value, "cache_clear") and hasattr(value, "cache_info"):
            self.found.memos.append(value)
            self.add(getattr(value, "__wrapped__", None))
        elif not isinstance(value, ModuleType) and type(value) not in CONTAINERS:
            self.add_class(type(value))

    def _add_function(self, function: FunctionType) -> None:
        names = _names(function.__code__)
        for kind in list(self.found.classes):
            own = vars(kind)
            for name in names & own.keys():
                self.add(own[name])
        self.mentioned |= names
        self._add_names(function.__globals__, names)
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            if type(value) in CONTAINERS:
                self.found.containers.append(value)
        self.found.functions.append(function)
        for value in list(vars(function).values()):
            self.add(value)
        for cell in function.__closure__ or ():
            self.found.cells[id(cell)] = cell
            self.add(_content(cell))

    def _add_names(self, namespace: dict[str, Any], names: frozenset[str]) -> None:
        if (id(namespace), names) in self.files:
            return
        self.files.add((id(namespace), names))
        own = self.found.names.setdefault(id(namespace), (namespace, set()))[1]
        own |= names
        for name in names & namespace.keys():
            value = namespace[name]
            if isinstance(value, ModuleType):
                if not _is_foreign(value.__name__, self.own):
                    self._add_names(vars(value), names)
            else:
                self.add(value)


class Outside:
    """What is reached, as it is at this moment."""

    def __init__(self, reached: _Reached, kinds: Iterable[type], objects: Iterable[Any], own: frozenset[str]) -> None:
        self.memos = [(memo, memo.cache_info().misses) for memo in reached.memos]
        self.names = [
            (space, {name: space.get(name, _MISSING) for name in names}) for space, names in reached.names.values()
        ]
        self.classes = [(kind, dict(vars(kind))) for kind in (*reached.classes, *kinds)]
        self.cells = [(cell, _content(cell)) for cell in reached.cells.values()]
        held: list[Any] = [value for _, values in self.names for value in values.values()]
        held += [value for _, values in self.classes for value in values.values()]
        held += [content for _, content in self.cells]
        # Helper objects: those that modules hold, and those that code has a name for. Functions have attributes, too.
        helpers = {id(one): one for one in (*objects, *held) if _is_helper(one, own)}
        helpers |= {id(one): one for one in reached.functions}
        spaces = [vars(one) for one in helpers.values()]
        self.spaces = [(space, dict(space)) for space in spaces]
        held += [value for space in spaces for value in space.values()]
        containers = [one for one in (*held, *reached.containers) if type(one) in CONTAINERS]
        self.containers = [(one, one.copy()) for one in nested(containers)]

    def __deepcopy__(self, memo: dict[int, Any]) -> Outside:
        return self  # files and classes are not copied with a graph

    def put_back(self) -> None:
        """All as it was; memoised functions that have run since lose their results."""
        for space, before in self.spaces:
            if space.keys() != before.keys() or any(space[name] is not value for name, value in before.items()):
                fill(space, before)
        for space, before in self.names:
            for name, value in before.items():
                if space.get(name, _MISSING) is value:
                    continue
                if value is _MISSING:
                    del space[name]
                else:
                    space[name] = value
        for kind, values in self.classes:
            now = vars(kind)
            for name in [one for one in now if one not in values and not one.startswith("__")]:
                delattr(kind, name)
            for name, value in values.items():
                if now.get(name, _MISSING) is not value and not name.startswith("__"):
                    setattr(kind, name, value)
        for cell, content in self.cells:
            if _content(cell) is not content:
                cell.cell_contents = content
        for container, content in self.containers:
            if not alike(container, content):
                fill(container, content)
        for memo, misses in self.memos:
            if memo.cache_info().misses != misses:
                memo.cache_clear()


def _is_helper(value: Any, own: frozenset[str]) -> bool:
    if isinstance(value, (*_PLAIN, type, FunctionType, ModuleType)) or type(value) in CONTAINERS:
        return False
    return not _is_foreign(type(value).__module__, own) and isinstance(getattr(value, "__dict__", None), dict)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _root(module: str) -> str:
    return module.partition(".")[0]


@lru_cache(maxsize=4096)
def _is_foreign(module: str, own: frozenset[str]) -> bool:
    """Code of a package that is installed, unless modules of the network (with the roots `own`) come from it: its
    objects may be those of a logger, with threads of their own."""
    root = _root(module)
    if root in _FOREIGN or root in own:
        return root in _FOREIGN
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


_names_of: WeakKeyDictionary[CodeType, frozenset[str]] = WeakKeyDictionary()


def _names(code: CodeType) -> frozenset[str]:
    """All names in a function's code and in that of functions within it."""
    found = _names_of.get(code)
    if found is None:
        inner = [_names(one) for one in code.co_consts if isinstance(one, CodeType)]
        found = _names_of[code] = frozenset(code.co_names).union(*inner)
    return found
