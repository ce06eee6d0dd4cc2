"""Finds functions in the user's own code: ``package.module:function`` and ``file.py:function``.

Both run code that morphsearch knows nothing about, so both need the user's word for it (``allow_code``).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from morphsearch.errors import InputError, UsageError, nearest

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_file(place: str) -> bool:
    """Whether `place`, the part before the last colon of a spec, names a Python file rather than a module."""
    return place.endswith(".py")


def find_function(spec: str, *, what: str, allow_code: bool) -> Callable[..., Any]:
    """The function that ``package.module:function`` or ``file.py:function`` names; imports its code.

    Args:
        spec: the text, without a query.
        what: what it is for, in messages ("model", "data").
        allow_code: the user's leave to run the code.

    Raises:
        UsageError: `allow_code` is false, or the text is no such spec.
        InputError: no such file, module or function, or the code raises while it is imported.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name.isidentifier() or not (is_file(place) or _MODULE.fullmatch(place)):
        raise UsageError(
            f"{what} {spec!r} does not parse",
            f"a {what} of your own reads package.module:function or file.py:function",
            f"write for example my_{what}.py:make",
        )
    if not allow_code:
        raise UsageError(
            f"{what} {spec!r} runs code of {place}",
            "code that is not part of morphsearch runs only with your leave",
            "read the code, then pass --allow-code (allow_code=True)",
        )
    module = _load_file(place, what) if is_file(place) else _load_module(place, what)
    return _function(module, name, place, what)


@contextlib.contextmanager
def neighbours(spec: str) -> Iterator[None]:
    """While it lasts, code from a ``file.py:function`` can import the files beside it; sys.path is put back after.

    The folder goes last, so that a neighbour never hides an installed module.
    """
    place = spec.rpartition(":")[0]
    if not is_file(place):
        yield
        return
    folder = str(Path(place).expanduser().resolve().parent)
    sys.path.append(folder)
    try:
        yield
    finally:
        # The code may have changed sys.path itself; only our own entry, the last of its name, goes.
        for position in range(len(sys.path) - 1, -1, -1):
            if sys.path[position] == folder:
                del sys.path[position]
                break


def describe(error: BaseException, place: str = "") -> str:
    """``Type: message``, with the line of `place` (a file or module) that raised, where the traceback has one."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError):
        return text
    wanted = Path(place).name if is_file(place) else place.rpartition(".")[2] + ".py"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == wanted]
    return f"{text} (line {lines[-1]} of {wanted})" if lines and place else text


def _load_file(place: str, what: str) -> ModuleType:
    path = Path(place).expanduser()
    try:
        source = path.read_bytes()
    except OSError as error:
        close = nearest(path.name, (other.name for other in path.parent.glob("*.py"))) if path.parent.is_dir() else []
        raise InputError(
            f"cannot read {place}: {error.strerror or error}",
            f"a {what} spec file.py:function needs a file that exists",
            f"did you mean {' or '.join(close)}?" if close else "check the path",
        ) from error
    path = path.resolve()
    # The name is made of the path and the text: unique, and the same for the same file, so that classes keep their
    # identity however often a spec is built, while an edited file is read anew.
    digest = hashlib.sha256(str(path).encode() + b"\0" + source).hexdigest()[:16]
    name = f"_morphsearch_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:  # never for a name that ends with .py
        raise AssertionError(f"no loader for {path}")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        with neighbours(f"{place}:"):
            found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(
            f"{place} cannot be imported: {describe(error, place)}",
            "the file is run once, to find the function in it",
            "repair it (python FILE shows the whole traceback); a script needs an if __name__ == '__main__' guard",
        ) from error
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_module(place: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(f"{error.name}.")):
            raise InputError(
                f"there is no module {error.name!r}, asked for by the {what} {place!r}",
                "package.module:function needs a package that is installed or on PYTHONPATH",
                f"install it, or name the file: {place.rpartition('.')[2]}.py:function",
            ) from error
        raise _broken(place, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(place, error) from error


def _broken(place: str, error: BaseException) -> InputError:
    return InputError(
        f"{place} cannot be imported: {describe(error, place)}",
        "the module is imported to find the function in it",
        f"repair it: python -c 'import {place}' shows the whole traceback",
    )


def _function(module: ModuleType, name: str, place: str, what: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and not key.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    close = nearest(name, own)
    arrived = f"{name} in {place} is a {type(found).__name__}" if found is not None else f"{place} has no {name!r}"
    raise InputError(
        arrived,
        f"a {what} spec names a function (or a class); {place} has {', '.join(sorted(own)) or 'none'}",
        f"did you mean {' or '.join(close)}?" if close else "name a function of that file",
    )
