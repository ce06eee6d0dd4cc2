"""Reads the arrays, strings and containers in a pickle, and runs nothing.

A pickle is a program. The interpreter here knows five globals, none of which is the real one: they are inert
stand-ins that note down what an array is made of (type, shape, bytes), and the array is built afterwards with
``numpy.frombuffer``. So not even NumPy's own unpickling code sees the file.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from morphsearch.errors import InputError

# Plain numbers only: no objects, no records, no strings.
_TYPES = {f"{kind}{size}" for kind, sizes in {"u": "1248", "i": "1248", "f": "248", "b": "1"}.items() for size in sizes}
_DEPTH = 20


class _Refused(Exception):
    """The pickle asks for something that is not admitted."""


class _Type:
    """Stands for ``numpy.dtype``: its name and byte order."""

    __slots__ = ("name", "order")

    def __init__(self, name: Any = None) -> None:
        name = _text(name)
        if not isinstance(name, str) or name not in _TYPES:
            raise _Refused(f"an array of type {name!r}")
        self.name, self.order = name, "<"

    def __setstate__(self, state: Any) -> None:
        order = _text(state[1]) if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise _Refused("a damaged array type")
        self.order = str(order)


class _Array:
    """Stands for an array: what it is made of, until :meth:`build`."""

    __slots__ = ("fortran", "raw", "shape", "type")

    def __init__(self) -> None:
        self.type: Any = None
        self.shape: Any = ()
        self.raw: Any = b""
        self.fortran: Any = False

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("a damaged array")
        _, self.shape, self.type, self.fortran, self.raw = state

    def build(self) -> np.ndarray[Any, Any]:
        raw = self.raw.encode("latin1") if isinstance(self.raw, str) else self.raw
        shape = self.shape
        if not isinstance(self.type, _Type) or not isinstance(raw, bytes | bytearray) or not isinstance(shape, tuple):
            raise _Refused("a damaged array")
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise _Refused("a damaged array")
        # "=" and "|" (one byte, no order): as this machine has it.
        kind = np.dtype(self.type.order.replace("|", "=") + self.type.name)
        if math.prod(shape) * kind.itemsize != len(raw):
            raise _Refused(f"an array of shape {shape} in {len(raw)} bytes")
        array = np.frombuffer(raw, kind).reshape(shape, order="F" if self.fortran else "C")
        return array.astype(kind.newbyteorder("="))


class _Function:
    """A global that the pickle may call. Has no attributes that a pickle could set."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _Refused("a change to a function")

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a change to a function")

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)


def _new_array(*args: Any) -> _Array:
    return _Array()


def _new_type(*args: Any) -> _Type:
    return _Type(args[0] if args else None)


def _encode(*args: Any) -> bytes:
    """``_codecs.encode``, by which old protocols write bytes."""
    if len(args) != 2 or not isinstance(args[0], str) or args[1] != "latin1":
        raise _Refused("a text in an unusual encoding")
    return args[0].encode("latin1")


def _from_buffer(*args: Any) -> _Array:
    """``numpy._core.numeric._frombuffer(buffer, dtype, shape, order)``, by which protocol 5 writes arrays."""
    if len(args) != 4:
        raise _Refused("a damaged array")
    array = _Array()
    array.raw, array.type, array.shape, array.fortran = args[0], args[1], args[2], args[3] == "F"
    return array


def _globals() -> dict[tuple[str, str], _Function]:
    found = {("numpy", "dtype"): _Function(_new_type), ("numpy", "ndarray"): _Function(_new_array)}
    for package in ("numpy.core", "numpy._core"):
        found[f"{package}.multiarray", "_reconstruct"] = _Function(_new_array)
        found[f"{package}.numeric", "_frombuffer"] = _Function(_from_buffer)
    found["_codecs", "encode"] = _Function(_encode)
    return found


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._known = _globals()

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return self._known[module, name]
        except KeyError:
            raise _Refused(f"the global {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a persistent object")


def loads(data: bytes, where: str) -> Any:
    """What is pickled in `data`: arrays of numbers, strings, bytes, numbers, None, lists, tuples and dicts.

    Args:
        data: the pickle, of any protocol.
        where: the file, for messages.

    Raises:
        InputError: it asks for anything else, or is damaged.
    """
    try:
        return _finish(_Unpickler(data).load(), 0, {})
    except _Refused as error:
        raise InputError(
            f"{where} asks for {error}",
            "a pickle can run any program, so only arrays of numbers, strings and containers are read from one",
            "this is not a standard batch: take the data set from its publisher, or use the binary version",
        ) from error
    except Exception as error:  # a damaged pickle makes the interpreter raise anything, MemoryError included
        raise InputError(
            f"{where} is damaged: {type(error).__name__}: {error}",
            "a batch is one whole pickle",
            "unpack the archive again, or download it anew",
        ) from error


def _finish(value: Any, depth: int, done: dict[int, Any]) -> Any:
    """Build the arrays, in place of their stand-ins.

    What occurs several times is built once (`done`, by identity): nested references to one list would otherwise make a
    small file grow without bound.
    """
    if depth > _DEPTH:
        raise _Refused(f"containers more than {_DEPTH} deep")
    if id(value) in done:
        return done[id(value)]
    found: Any
    if isinstance(value, _Array):
        found = value.build()
    elif type(value) is dict:
        found = {_key(key): _finish(item, depth + 1, done) for key, item in value.items()}
    elif type(value) is list:
        # The labels are lists of thousands of numbers: no call for each.
        found = [item if type(item) is int else _finish(item, depth + 1, done) for item in value]
    elif type(value) is tuple:
        found = tuple(_finish(item, depth + 1, done) for item in value)
    elif value is None or type(value) in (str, bytes, bytearray, int, float, bool):
        return value
    else:
        raise _Refused(f"an object of type {type(value).__name__.lstrip('_')}")
    done[id(value)] = found
    return found


def _text(value: Any) -> Any:
    """Python 2 pickled its texts as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def _key(key: Any) -> Any:
    if type(key) in (str, bytes, int):
        return key
    raise _Refused(f"a key of type {type(key).__name__.lstrip('_')}")
