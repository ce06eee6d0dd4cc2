"""Other numbers in the source of a call that has sizes among its arguments (see :mod:`~morphsearch.graph.written`)."""

from __future__ import annotations

import ast

from morphsearch.graph.edits import EXPANDS
from morphsearch.graph.rules.moving import CREATING


def edit_call(call: ast.Call, numbers: list[int | None]) -> bool:
    """Put numbers into a call: of a view where they are not None, of a split all of them."""
    if not isinstance(call.func, ast.Attribute):
        return False
    name = call.func.attr
    # ``torch.split(x, ...)`` has its tensor among the arguments, ``x.split(...)`` before the dot.
    skip = 1 if isinstance(call.func.value, ast.Name) and call.func.value.id == "torch" else 0
    given = call.args[skip:]
    if name in CREATING:
        if not call.args:
            return False
        # ``torch.full(sizes, value)`` has its value behind them
        listed = isinstance(call.args[0], (ast.Tuple, ast.List)) or name.endswith("full")
        rest, call.args = (call.args[1:], call.args[:1]) if listed else ([], call.args)
        _put_sizes(call, 0, numbers)
        call.args += rest
        return True
    if name in ("split", "chunk"):
        if not given or any(isinstance(one, ast.Starred) for one in given):
            return False
        call.func.attr = "split"
        call.args[skip] = ast.List([ast.Constant(number) for number in numbers], ast.Load())
        return True
    if name == "unflatten":
        return len(given) == 2 and _put_along(given[1], numbers)
    if name not in ("view", "reshape", *EXPANDS) or not given:
        return False
    _put_sizes(call, skip, numbers)
    call.func.attr = name if name in EXPANDS else "reshape"
    return True


def _put_along(sizes: ast.expr, numbers: list[int | None]) -> bool:
    """Numbers among the sizes that one dimension is laid out along."""
    placed = _placed(sizes.elts, numbers) if isinstance(sizes, (ast.Tuple, ast.List)) else None
    if placed is None or not isinstance(sizes, (ast.Tuple, ast.List)):
        return False
    for position, number in placed.items():
        sizes.elts[position] = ast.Constant(number)
    return True


def _put_sizes(call: ast.Call, skip: int, numbers: list[int | None]) -> None:
    """Numbers among the sizes of a call, which are its arguments from `skip` on, or one of them that lists all."""
    given = call.args[skip:]
    listed = given[0] if len(given) == 1 and not isinstance(given[0], ast.Starred) and len(numbers) > 1 else None
    sizes = listed.elts if isinstance(listed, (ast.Tuple, ast.List)) else [] if listed is not None else given
    placed = _placed(sizes, numbers)
    if placed is None:
        whole: ast.expr = ast.Tuple(given, ast.Load()) if listed is None else listed
        call.args[skip:] = [_in_place_of(whole, numbers)]
    else:
        for position, number in placed.items():
            sizes[position] = ast.Constant(number)
        if listed is None:
            call.args[skip:] = sizes


def _placed(sizes: list[ast.expr], numbers: list[int | None]) -> dict[int, int] | None:
    """Which of the expressions `sizes` become which numbers; one of them may be unpacked where it keeps all of its own.
    None where another is in the way."""
    unpacked = [position for position, one in enumerate(sizes) if isinstance(one, ast.Starred)]
    before = unpacked[0] if unpacked else len(sizes)
    after = len(sizes) - before - 1 if unpacked else 0
    if len(unpacked) > 1 or len(numbers) < before + after or (not unpacked and len(sizes) != len(numbers)):
        return None
    if any(number is not None for number in numbers[before : len(numbers) - after]):
        return None
    places = [*range(before), *range(len(sizes) - after, len(sizes))]
    own = [*numbers[:before], *numbers[len(numbers) - after :]]
    return {place: number for place, number in zip(places, own, strict=True) if number is not None}


def _in_place_of(sizes: ast.expr, numbers: list[int | None]) -> ast.expr:
    """The sizes that an expression gives, with `numbers` where they are not None."""
    known = _written_before(sizes)
    if known is not None and len(known[1]) == len(numbers):  # by an earlier rewrite: its numbers make place for these
        sizes, before = known
        numbers = [old if new is None else new for new, old in zip(numbers, before, strict=True)]
    return _with_numbers(sizes, numbers)


def _with_numbers(sizes: ast.expr, numbers: list[int | None]) -> ast.expr:
    text = f"[size if number is None else number for number, size in zip({tuple(numbers)!r}, SIZES)]"
    found = ast.parse(text, mode="eval").body
    assert isinstance(found, ast.ListComp)
    assert isinstance(found.generators[0].iter, ast.Call)
    found.generators[0].iter.args[1] = sizes
    return found


def _written_before(sizes: ast.expr) -> tuple[ast.expr, list[int | None]] | None:
    """The expression and the numbers that `sizes` was made of; None where it was not."""
    iterated = sizes.generators[0].iter if isinstance(sizes, ast.ListComp) else None
    if not isinstance(iterated, ast.Call) or len(iterated.args) != 2:
        return None
    try:
        numbers = list(ast.literal_eval(iterated.args[0]))
    except (ValueError, TypeError):
        return None
    inner = iterated.args[1]
    return (inner, numbers) if ast.unparse(_with_numbers(inner, numbers)) == ast.unparse(sizes) else None


__all__ = ["edit_call"]
