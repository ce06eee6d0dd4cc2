"""Python source of constants, and the marks that stand for those that may differ between modules of one class.

While source is put together, a number is written as a *hole*: its value with a hint for its name, between characters
that no source contains (they are from Unicode's private use area, which ``repr`` escapes). Modules whose source is the
same but for their holes share a class, and the holes that differ become its arguments.
"""

from __future__ import annotations

import base64
import keyword
import math
import re
import zlib
from typing import Any

import torch
from torch import Tensor

from morphsearch.exporting.steps import Unsupported

HOLE, VALUE, END = "\ue000", "\ue001", "\ue002"
CHILD, CHILD_END = "\ue003", "\ue004"
FLAG, FLAG_END = "\ue005", "\ue006"
HOLES = re.compile(f"{HOLE}([^{VALUE}]*){VALUE}([^{END}]*){END}")
CHILDREN = re.compile(f"{CHILD}([0-9]+){VALUE}([^{CHILD_END}]*){CHILD_END}")
FLAGS = re.compile(f"{FLAG}(True|False){FLAG_END}")

RESERVED = frozenset("torch nn F math self Tensor namedtuple OrderedDict base64 json zlib training".split())
SMALL = 64
LARGEST = 2**22


def hole(value: Any, hint: str) -> str:
    """A constant that may differ between modules of one class."""
    return f"{HOLE}{hint}{VALUE}{source(value)}{END}"


def flag(value: bool) -> str:
    """True or false, which may be the mode."""
    return f"{FLAG}{value}{FLAG_END}"


def filled(text: str) -> str:
    """Source with every mark replaced by the value in it."""
    return FLAGS.sub(r"\1", HOLES.sub(r"\2", text))


def quoted(text: str) -> str:
    """A string literal with few escapes, but everything that is not plain ASCII escaped."""
    if text.count('"') > text.count("'"):
        inner = ascii('"' + text)
        inner = inner[2:-1] if inner[0] == "'" else inner[3:-1]
        return "'" + inner.replace("\\'", "'").replace("'", "\\'") + "'"
    inner = ascii("'" + text)  # the apostrophe makes ascii() choose double quotes, or escape
    inner = inner[2:-1] if inner[0] == '"' else inner[3:-1].replace("\\'", "'").replace('"', '\\"')
    return f'"{inner}"'


def source(value: Any) -> str:
    """Source of a plain constant.

    Raises:
        Unsupported: there is none.
    """
    if isinstance(value, bool) or value is None or value is Ellipsis:
        return "..." if value is Ellipsis else repr(value)
    if isinstance(value, int):
        return repr(int(value))
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else f'float("{float(value)}")'
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return str(value)
    if isinstance(value, torch.device):
        return f"torch.device({quoted(str(value))})"
    if isinstance(value, list):
        return f"[{', '.join(source(part) for part in value)}]"
    if isinstance(value, tuple):
        return f"({', '.join(source(part) for part in value)}{',' if len(value) == 1 else ''})"
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return source(value.item())  # a number of numpy
    raise Unsupported(f"a {type(value).__name__} is an argument of an operation, and has no source")


def identifier(text: str, default: str = "x") -> str:
    """A name for Python made of any text."""
    name = re.sub(r"[^0-9A-Za-z_]+", "_", text).strip("_")
    if not name or not name.isidentifier():
        name = f"{default}{name}" if name else default
    return f"{name}_" if keyword.iskeyword(name) or name in RESERVED else name


def comment(text: str) -> str:
    """Text that can stand in a comment or docstring: printable ASCII, no quotes that could end it, no backslash."""
    plain = text.encode("ascii", "backslashreplace").decode().replace("\\", "/").replace('"""', "'''")
    return "".join(character if character.isprintable() else " " for character in plain)


def tensor(value: Tensor, *, dtype: bool = True) -> str:
    """Source of an expression that gives the tensor.

    Raises:
        Unsupported: it is too large to be written into a source file.
    """
    value = value.detach().cpu().contiguous()
    shape = source(tuple(value.shape))
    end = f", dtype={value.dtype}" if dtype and value.dtype not in (torch.float32, torch.int64, torch.bool) else ""
    if value.is_complex() or value.is_quantized:
        raise Unsupported(f"a constant tensor is {value.dtype}")
    if not value.numel():  # an empty list would be of float numbers, and of one dimension
        return f"torch.zeros({shape}, dtype={value.dtype})"
    flat = value.reshape(-1)
    if value.dim() and bool((flat == flat[0]).all()):
        number = flat[0].item()
        if value.is_floating_point() and number in (0.0, 1.0):
            return f"torch.{'ones' if number else 'zeros'}({shape}{end})"
        kind = end or (f", dtype={value.dtype}" if not value.is_floating_point() else "")
        return f"torch.full({shape}, {source(number)}{kind})"
    if value.dtype == torch.int64 and value.dim() == 1 and value.numel() > 8:
        return f"indices({quoted(ranges(value.tolist()))})"
    if value.numel() <= SMALL:
        return f"torch.tensor({source(value.tolist())}{end})"
    data = zlib.compress(value.view(torch.uint8).numpy().tobytes(), 9)
    if len(data) > LARGEST:
        raise Unsupported(f"a constant tensor of shape {tuple(value.shape)} is too large for a source file")
    return f'unpacked("{base64.b64encode(data).decode()}", {shape}, {value.dtype})'


def ranges(numbers: list[int]) -> str:
    """``"0-3 7 9-10"`` for the numbers in this order."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1 and number >= 0 and parts[-1][0] >= 0:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


HELPERS = {
    "indices": '''def indices(text: str) -> Tensor:
    """Whole numbers from text: "0-2 5" is 0, 1, 2, 5."""
    ends = [[int(number) for number in part.split("-")] for part in text.split()]
    return torch.tensor([number for part in ends for number in range(part[0], part[-1] + 1)])''',
    "unpacked": '''def unpacked(text: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A constant tensor from its compressed bytes."""
    return torch.frombuffer(bytearray(zlib.decompress(base64.b64decode(text))), dtype=dtype).reshape(shape)''',
}
