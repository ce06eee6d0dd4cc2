"""Reads the arrays, strings and containers in a pickle, and runs nothing.

A pickle is a program for a small stack machine, which may import and call anything. This is another machine for the
same programs: it knows the operations that build plain data, and seven names, none of which leads to the real function.
What stands for an array only notes type, shape and bytes, and the array is made of them with ``numpy.frombuffer``. So
neither :mod:`pickle` nor NumPy's own unpickling code sees the file, and nothing in it decides how much memory is taken.
"""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

from morphsearch.errors import InputError

# Plain numbers only: no objects, no records, no strings.
_TYPES = {f"{kind}{size}" for kind, sizes in {"u": "1248", "i": "1248", "f": "248", "b": "1"}.items() for size in sizes}
_DEPTH = 20
_GLOBALS = {
    "numpy dtype": "type",
    "numpy ndarray": "array",
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    # Protocol 5 writes arrays by this one, and old protocols write bytes by the next.
    "numpy.core.numeric _frombuffer": "filled array",
    "numpy._core.numeric _frombuffer": "filled array",
    "_codecs encode": "bytes",
}
_PUSH = {
    "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class _Refused(Exception):
    """The pickle asks for something that is not admitted."""


@dataclass
class _Function:
    """What one of the known names leads to."""

    makes: str


class _Mark:
    """Where a group of items starts on the stack."""


@dataclass
class _Type:
    """What is known of a ``numpy.dtype``."""

    name: str
    order: str = "="

    def set_state(self, state: Any) -> None:
        order = _text(state[1]) if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise _Refused("a damaged array type")
        # "|" is for single bytes, which have no order.
        self.order = "=" if order == "|" else str(order)


@dataclass
class _Array:
    """What is known of an array."""

    type: Any = None
    shape: Any = ()
    fortran: Any = False
    raw: Any = None

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("a damaged array")
        _, self.shape, self.type, self.fortran, self.raw = state

    def build(self) -> np.ndarray[Any, Any]:
        raw = self.raw.encode("latin1") if isinstance(self.raw, str) else self.raw
        shape = self.shape
        if not (isinstance(self.type, _Type) and isinstance(raw, bytes | bytearray) and isinstance(shape, tuple)):
            raise _Refused("a damaged array")
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise _Refused("a damaged array")
        kind = np.dtype(self.type.order + self.type.name)
        if math.prod(shape) * kind.itemsize != len(raw):
            raise _Refused(f"an array of shape {shape} in {len(raw)} bytes")
        array = np.frombuffer(raw, kind).reshape(shape, order="F" if self.fortran else "C")
        return array.astype(kind.newbyteorder("="))


def loads(data: bytes, where: str) -> Any:
    """What is pickled in `data`: arrays of numbers, strings, bytes, numbers, None, lists, tuples and dicts.

    Texts of Python 2 come out as bytes, as with ``pickle.loads(data, encoding="bytes")``.

    Args:
        data: the pickle, of any protocol.
        where: the file, for messages.

    Raises:
        InputError: it asks for anything else, or is damaged.
    """
    try:
        return _finish(_run(data), 0, {})
    except _Refused as error:
        raise InputError(
            f"{where} asks for {error}",
            "a pickle can run any program, so only arrays of numbers, strings and containers are read from one",
            "this is not a standard batch: take the data set from its publisher, or use the binary version",
        ) from error
    except Exception as error:  # a damaged pickle empties the stack, names what was never noted, ends early ...
        raise InputError(
            f"{where} is damaged: {type(error).__name__}: {error}",
            "a batch is one whole pickle",
            "unpack the archive again, or download it anew",
        ) from error


def _run(data: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    # genops only splits the program into operations, each with its argument.
    for operation, found, _ in pickletools.genops(data):
        name: str = operation.name
        argument: Any = found
        if name in _PUSH:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name in ("SHORT_BINSTRING", "BINSTRING", "STRING"):
            stack.append(argument.encode("latin1"))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(_function(argument if name == "GLOBAL" else _name(stack)))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_call(stack.pop(), arguments))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], _Array | _Type):
                raise _Refused(f"a change to an object of type {_kind(stack[-1])}")
            stack[-1].set_state(state)
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            _contain(name, stack)
    raise EOFError("it ends early")  # genops itself raises first


def _contain(name: str, stack: list[Any]) -> None:
    """The operations that build and fill containers."""
    if name == "MARK":
        stack.append(_Mark)
    elif name == "EMPTY_LIST":
        stack.append([])
    elif name == "EMPTY_DICT":
        stack.append({})
    elif name == "EMPTY_TUPLE":
        stack.append(())
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        items = tuple(stack[-count:])
        del stack[-count:]
        stack.append(items)
    elif name == "TUPLE":
        stack.append(tuple(_since_mark(stack)))
    elif name == "LIST":
        stack.append(_since_mark(stack))
    elif name == "DICT":
        stack.append(_fill({}, _since_mark(stack)))
    elif name in ("APPEND", "APPENDS"):
        items_to_add = [stack.pop()] if name == "APPEND" else _since_mark(stack)
        if type(stack[-1]) is not list:
            raise _Refused(f"items of an object of type {_kind(stack[-1])}")
        stack[-1].extend(items_to_add)
    elif name in ("SETITEM", "SETITEMS"):
        pairs = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else _since_mark(stack)
        if type(stack[-1]) is not dict:
            raise _Refused(f"items of an object of type {_kind(stack[-1])}")
        _fill(stack[-1], pairs)
    elif name == "POP":
        stack.pop()
    elif name == "POP_MARK":
        _since_mark(stack)
    elif name == "DUP":
        stack.append(stack[-1])
    else:
        raise _Refused(f"the operation {name}")


def _since_mark(stack: list[Any]) -> list[Any]:
    """Take the items above the last mark, and the mark."""
    for place in range(len(stack) - 1, -1, -1):
        if stack[place] is _Mark:
            items = stack[place + 1 :]
            del stack[place:]
            return items
    raise ValueError("a group that never started")


def _fill(table: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Nothing else is hashed: the hash of nested tuples can take for ever.
        if type(key) not in (str, bytes, int):
            raise _Refused(f"a key of type {_kind(key)}")
        table[key] = value
    return table


def _name(stack: list[Any]) -> str:
    name, module = stack.pop(), stack.pop()
    if type(name) is not str or type(module) is not str:
        raise _Refused("a global without a name")
    return f"{module} {name}"


def _function(name: str) -> _Function:
    if name not in _GLOBALS:
        raise _Refused(f"the global {name.replace(' ', '.')}")
    return _Function(_GLOBALS[name])


def _call(function: Any, arguments: Any) -> Any:
    makes = function.makes if isinstance(function, _Function) else None
    if makes is None or not isinstance(arguments, tuple):
        raise _Refused(f"a call of an object of type {_kind(function)}")
    if makes == "array":
        return _Array()
    if makes == "filled array" and len(arguments) == 4:
        raw, kind, shape, order = arguments
        return _Array(kind, shape, order == "F", raw)
    if makes == "type" and arguments:
        name = _text(arguments[0])
        if not isinstance(name, str) or name not in _TYPES:
            raise _Refused(f"an array of type {name!r}")
        return _Type(name)
    if makes == "bytes" and len(arguments) == 2 and type(arguments[0]) is str and _text(arguments[1]) == "latin1":
        return arguments[0].encode("latin1")
    raise _Refused(f"{makes} in an unusual way")


def _finish(value: Any, depth: int, done: dict[int, Any]) -> Any:
    """Build the arrays, in place of what stands for them.

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
        found = {key: _finish(item, depth + 1, done) for key, item in value.items()}
    elif type(value) is list:
        # The labels are lists of thousands of numbers: no call for each.
        found = [item if type(item) is int else _finish(item, depth + 1, done) for item in value]
    elif type(value) is tuple:
        found = tuple(_finish(item, depth + 1, done) for item in value)
    elif value is None or type(value) in (str, bytes, bytearray, int, float, bool):
        return value
    else:
        raise _Refused(f"an object of type {_kind(value)}")
    done[id(value)] = found
    return found


def _text(value: Any) -> Any:
    """Python 2 pickled its texts as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def _kind(value: Any) -> str:
    return "mark" if value is _Mark else type(value).__name__.lstrip("_")
