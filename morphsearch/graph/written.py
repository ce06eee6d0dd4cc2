"""Sizes written into code that cannot be traced: the calls that hold them get others, in a copy of the source.

A module whose code branches or loops over sizes, or does something else in training, has no trace that stands for it
(:mod:`~morphsearch.graph.tracing`). What is wrong at other widths is nearly always a number in one call all the same:
``x.view(-1, 320)``, ``x.reshape(b, n, 3, self.heads, c // self.heads)`` with the `c` of another tensor,
``torch.split(x, self.hidden, 1)``. So the code runs as it is, once in the seed and once in the new network; every such
call is known by its place in the source; where its sizes are not those that its units need, they become numbers in a
copy of that method, which goes on to branch, loop and ask for its mode as before.
"""

from __future__ import annotations

import ast
import copy
import inspect
import linecache
import sys
import textwrap
import tokenize
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from morphsearch.graph import slices
from morphsearch.graph.creating import FUNCTIONS, METHODS, channels_made, sizes_of, with_size
from morphsearch.graph.following import told, with_images
from morphsearch.graph.labels import Labels
from morphsearch.graph.paths import PATCHED, class_written
from morphsearch.graph.sized_calls import edit_call
from morphsearch.graph.tape import Tape

EXPANDING = frozenset((Tensor.expand, Tensor.broadcast_to, torch.broadcast_to))
UNFLATTENING = frozenset((Tensor.unflatten, torch.unflatten))
VIEWS = frozenset((Tensor.view, Tensor.reshape, torch.reshape)) | EXPANDING
SPLITS = frozenset((Tensor.split, torch.split, Tensor.chunk, torch.chunk))
MAKING = FUNCTIONS | METHODS
WATCHED = VIEWS | UNFLATTENING | SPLITS | MAKING | slices.SLICING

_TORCH = str(Path(torch.__file__).parent)

_INNER = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<lambda>")

Place = tuple[int, int, int, int]  # first line, last line, first column, last column, in the file


@dataclass(frozen=True)
class Site:
    """A call in a method of a module, and how many times it had run before in this call of the module."""

    method: str
    place: Place
    turn: int


NewShape = Callable[[Labels], tuple[int, ...] | None]


@dataclass
class _Watch(TorchFunctionMode):
    """Sees the calls in a module's own code. In the seed (`new_shape` None) it keeps what they gave; in the new network
    it gives them the sizes that they need."""

    module: nn.Module
    tapes: list[Tape]
    seen: dict[Site, list[Labels]]
    new_shape: NewShape | None = None
    beside: Mapping[int, _Watch] = field(default_factory=dict)  # those of other modules, by the module's id
    edits: dict[tuple[str, Place], list[int | None] | None] = field(default_factory=dict)  # None: they contradict

    def __post_init__(self) -> None:
        super().__init__()
        self.turns: dict[tuple[str, Place], int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        watch, where = self._where(sys._getframe(1)) if func in WATCHED else (self, None)
        if where is None:
            return func(*args, **kwargs)
        return watch.called(func, args, kwargs, where)

    def called(self, func: Any, args: Any, kwargs: Any, where: tuple[str, Place]) -> Any:
        """A call at a place in the code of this module."""
        turn = self.turns[where] = self.turns.get(where, 0) + 1
        site = Site(*where, turn)
        if func in slices.SLICING:
            return self._sliced(func, args, kwargs, site)
        if self.new_shape is None:
            result = func(*args, **kwargs)
            parts = [result] if isinstance(result, Tensor) else list(result)
            tape = self.tapes[-1]
            labels = [tape.pair(part) or tape.labels(part) for part in parts]
            if all(one is not None and (one.parameter is None or func in VIEWS) for one in labels):
                self.seen[site] = labels  # type: ignore[assignment]
            return result
        known = self.seen.get(site)
        shapes = [self.new_shape(one) for one in known] if known is not None else []
        if known is None or any(shape is None for shape in shapes):
            return func(*args, **kwargs)
        if known[0].parameter is not None and func not in EXPANDING:
            with suppress(RuntimeError):  # of parameters it is not always known what a view should give
                return func(*args, **kwargs)
        if func in MAKING:
            return _made(self, func, args, kwargs, where, known[0])
        fit = _resized if func in VIEWS else _unflattened if func in UNFLATTENING else _split
        return fit(self, func, args, kwargs, where, shapes)  # type: ignore[arg-type]

    def _sliced(self, func: Any, args: Any, kwargs: Any, site: Site) -> Any:
        if self.new_shape is None:
            found = slices.taken(self.tapes[-1], args[0], args[1])
            if found:
                self.seen[site] = found
            return func(*args, **kwargs)
        known = self.seen.get(site)
        shapes = [self.new_shape(one) for one in known] if known is not None else []
        fitting = [shape for shape in shapes if shape is not None]
        bounds = slices.bounded(args[1], known, fitting) if known and len(fitting) == len(known) else None
        if bounds is None:
            return func(*args, **kwargs)
        dim, start, end = bounds
        if args[1][dim].indices(args[0].shape[dim]) != (start, end, 1):
            self.note((site.method, site.place), list(bounds))
            args = (args[0], slices.with_bounds(args[1], *bounds), *args[2:])
        return func(*args, **kwargs)

    def _where(self, frame: Any) -> tuple[_Watch, tuple[str, Place] | None]:
        while frame is not None and frame.f_code.co_filename.startswith(_TORCH):
            frame = frame.f_back  # some functions of PyTorch are written in Python
        method = frame
        while method is not None and method.f_code.co_name in _INNER:
            method = method.f_back  # a comprehension in the method
        if method is None:
            return self, None
        code: CodeType = method.f_code
        owner = method.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        # A method of another module, which this one's code calls beside its forward (the first state of a cell).
        watch = self if owner is self.module else self.beside.get(id(owner))
        if watch is None:
            return self, None
        name = next((name for name, found in _methods(type(watch.module)).items() if found.__code__ is code), None)
        if name is None:
            return self, None
        line, last, column, end = list(frame.f_code.co_positions())[frame.f_lasti // 2]
        if line is None or last is None or column is None or end is None:
            return self, None
        return watch, (name, (line, last, column, end))

    def note(self, where: tuple[str, Place], numbers: list[int | None]) -> None:
        """The sizes of a call; a call that needs different ones at different times gets none."""
        self.edits[where] = numbers if self.edits.get(where, numbers) == numbers else None


def _resized(
    watch: _Watch, func: Any, args: Any, kwargs: Any, where: tuple[str, Place], shapes: list[tuple[int, ...]]
) -> Any:
    wanted = shapes[0]
    sizes = list(args[1]) if len(args) == 2 and isinstance(args[1], (tuple, list)) else list(args[1:])
    if kwargs or len(sizes) != len(wanted) or not all(isinstance(size, int) for size in sizes):
        return func(*args, **kwargs)
    numbers = [None if size in (-1, wanted[dim]) else wanted[dim] for dim, size in enumerate(sizes)]
    beside = with_images(sizes, [dim for dim, number in enumerate(numbers) if number is not None])
    if func not in EXPANDING and beside is not None:
        numbers[beside] = -1
    if func in EXPANDING:
        known = told(args[0], sizes, wanted)
        numbers = [number if tells else None for number, tells in zip(numbers, known, strict=True)]
    if numbers.count(None) < len(numbers):
        new = [size if number is None else number for size, number in zip(sizes, numbers, strict=True)]
        watch.note(where, numbers)
        return args[0].expand(new) if func in EXPANDING else args[0].reshape(new)
    return func(*args, **kwargs)


def _unflattened(
    watch: _Watch, func: Any, args: Any, kwargs: Any, where: tuple[str, Place], shapes: list[tuple[int, ...]]
) -> Any:
    if kwargs or len(args) != 3 or not isinstance(args[1], int) or not all(isinstance(size, int) for size in args[2]):
        return func(*args, **kwargs)
    first = args[1] % args[0].dim()
    wanted = shapes[0][first : first + len(args[2])]
    numbers = [None if size in (-1, fit) else fit for size, fit in zip(args[2], wanted, strict=True)]
    if numbers.count(None) == len(numbers):
        return func(*args, **kwargs)
    watch.note(where, numbers)
    return args[0].unflatten(first, [size if fit is None else fit for size, fit in zip(args[2], numbers, strict=True)])


def _split(
    watch: _Watch, func: Any, args: Any, kwargs: Any, where: tuple[str, Place], shapes: list[tuple[int, ...]]
) -> Any:
    if not args or not isinstance(args[0], Tensor) or len(args) < 2:
        return func(*args, **kwargs)
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    sizes = [shape[dim] for shape in shapes]
    try:
        parts = func(*args, **kwargs)
        if [part.shape[dim] for part in parts] == sizes:
            return parts
    except RuntimeError:
        pass
    if sum(sizes) != args[0].shape[dim]:
        return func(*args, **kwargs)
    watch.note(where, list(sizes))
    return args[0].split(sizes, dim)


def _made(watch: _Watch, func: Any, args: Any, kwargs: Any, where: tuple[str, Place], labels: Labels) -> Any:
    """A tensor that is made: only the number of its channels is ours."""
    dim, sizes = channels_made(labels), sizes_of(func.__name__, args)
    wanted = watch.new_shape(labels) if watch.new_shape is not None else None
    if dim is None or wanted is None or len(sizes) != len(wanted) or sizes[dim] == wanted[dim]:
        return func(*args, **kwargs)
    watch.note(where, [wanted[dim] if place == dim else None for place in range(len(wanted))])
    return func(*with_size(func.__name__, args, dim, wanted[dim]), **kwargs)


def _methods(kind: type) -> dict[str, FunctionType]:
    """The plain functions of a class of somebody's own, by name."""
    found: dict[str, FunctionType] = {}
    for base in kind.__mro__:
        if base.__module__.startswith("torch.nn."):
            break
        for name, value in vars(base).items():
            if isinstance(value, FunctionType):
                found.setdefault(name, value)
    return found


@contextmanager
def watching(
    modules: Mapping[str, nn.Module],
    tapes: list[Tape],
    seen: Mapping[str, dict[Site, list[Labels]]],
    new_shape: NewShape | None = None,
    beside: Mapping[str, nn.Module] | None = None,
) -> Iterator[dict[str, _Watch]]:
    """While the network runs, the calls in the code of `modules` are seen; yields what was, by path.

    Args:
        beside: modules whose other methods are seen as well where the code of `modules` calls them.
        seen: what the calls gave in the seed; filled where `new_shape` is None.
    """
    others = {path: _Watch(module, tapes, seen[path], new_shape) for path, module in (beside or {}).items()}
    by_module = {id(watch.module): watch for watch in others.values()}
    watches: dict[str, _Watch] = {}
    stand_ins = []
    for path, module in modules.items():
        if "forward" in vars(module):
            continue  # one of several, chosen when the module was made
        watches[path] = _Watch(module, tapes, seen[path], new_shape, by_module)
        module.forward = _Watched(module.forward, watches[path])
        stand_ins.append(module)
    try:
        yield others | watches
    finally:
        for module in stand_ins:
            del module.forward


class _Watched:
    """Stands for the forward method of a module."""

    def __init__(self, call: Callable[..., Any], watch: _Watch) -> None:
        self.call, self.watch = call, watch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.watch:
            return self.call(*args, **kwargs)


def write(module: nn.Module, edits: Mapping[tuple[str, Place], list[int | None] | None]) -> bool:
    """Give `module` copies of its methods with other sizes; False (and nothing done) where one cannot be written."""
    methods = _methods(type(module))
    written: dict[str, FunctionType] = {}
    for name in {method for method, _ in edits}:
        own = {place: numbers for (method, place), numbers in edits.items() if method == name}
        if any(numbers is None for numbers in own.values()):
            return False
        new = _rewritten(methods[name], own)  # type: ignore[arg-type]
        if new is None:
            return False
        written[name] = new
    if written:
        base = class_written(module)
        members = {PATCHED: base, "__module__": base.__module__, "__doc__": base.__doc__}
        # What an earlier rewrite wrote stays, but not its class: they would be ever more, one on top of another.
        before = vars(type(module)) if type(module) is not base else {}
        former = {name: value for name, value in before.items() if isinstance(value, FunctionType)}
        module.__class__ = type(base.__name__, (base,), members | former | written)
    return True


_NUMBER = count()


def _rewritten(function: FunctionType, edits: Mapping[Place, list[int | None]]) -> FunctionType | None:
    """`function` with other sizes in the calls at these places; None where its source is not at hand or a call is not
    of a form that is known."""
    try:
        lines, first = inspect.getsourcelines(function)
        text = "".join(lines)
        plain = textwrap.dedent(text)
        tree = ast.parse(plain)
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):
        return None
    definition = tree.body[0]
    if len(tree.body) != 1 or not isinstance(definition, ast.FunctionDef) or definition.decorator_list:
        return None
    indent = len(lines[0]) - len(lines[0].lstrip())
    calls: dict[Place, ast.Call | ast.Subscript] = {
        (
            node.lineno + first - 1,
            (node.end_lineno or 0) + first - 1,
            node.col_offset + indent,
            (node.end_col_offset or 0) + indent,
        ): node
        for node in ast.walk(definition)
        if isinstance(node, (ast.Call, ast.Subscript))
    }
    if not _says(definition, function.__code__):
        return None  # the file is not what was imported, or has names that only the class itself knows
    for place, numbers in edits.items():
        node = calls.get(place)
        if isinstance(node, ast.Subscript):
            done = slices.edit(node, numbers)
        else:
            done = node is not None and edit_call(node, numbers)
        if not done:
            return None
    made = _compiled(definition, function)
    if made is None:
        return None
    closure = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells = tuple(closure[name] for name in made.co_freevars)
    new = FunctionType(made, function.__globals__, function.__name__, function.__defaults__, cells)
    new.__kwdefaults__ = copy.copy(function.__kwdefaults__)
    new.__qualname__, new.__module__, new.__doc__ = function.__qualname__, function.__module__, function.__doc__
    return new


def _says(definition: ast.FunctionDef, code: CodeType) -> bool:
    """The source compiles to the names and numbers of `code`. (Not to the same instructions: those of a call depend on
    what its file imports.)"""
    within: ast.stmt = definition
    if code.co_freevars:
        outer = ast.parse(f"def _cells({', '.join(code.co_freevars)}):\n    pass").body[0]
        assert isinstance(outer, ast.FunctionDef)
        outer.body, within = [definition], outer
    made = _code_of(compile(ast.Module([within], []), "<source>", "exec"), definition.name)
    return made is not None and _words(made) == _words(code)


def _words(code: CodeType) -> tuple[Any, ...]:
    inner = [_words(one) for one in code.co_consts if isinstance(one, CodeType)]
    plain = [repr(one) for one in code.co_consts if not isinstance(one, CodeType)]
    return code.co_varnames, sorted(code.co_names), sorted(code.co_freevars), sorted(plain), inner


def _compiled(definition: ast.FunctionDef, function: FunctionType) -> CodeType | None:
    """The code of a definition in the place of `function`: it has the same names from around it."""
    free = function.__code__.co_freevars
    source = ast.unparse(ast.fix_missing_locations(definition))
    if free:
        source = f"def _cells({', '.join(free)}):\n{textwrap.indent(source, '    ')}\n    return {definition.name}"
    filename = f"<{function.__qualname__} at other widths, {next(_NUMBER)}>"
    made = _code_of(compile(source + "\n", filename, "exec"), definition.name)
    if made is None or set(made.co_freevars) != set(free):
        return None
    lines = [line + "\n" for line in source.splitlines()]
    linecache.cache[filename] = (len(source), None, lines, filename)  # for tracebacks, and to be read again
    weakref.finalize(made, linecache.cache.pop, filename, None)
    return made


def _code_of(code: CodeType, name: str) -> CodeType | None:
    """The code of the function `name` defined somewhere in `code`."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found = constant if constant.co_name == name else _code_of(constant, name)
            if found is not None:
                return found
    return None
