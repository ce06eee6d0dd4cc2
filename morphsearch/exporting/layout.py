"""Long lines of Python taken apart at their brackets, the way formatters do."""

from __future__ import annotations

WIDTH = 120
_OPEN, _CLOSE = "([{", ")]}"


def fit(line: str, width: int = WIDTH) -> list[str]:
    """One logical line (leading spaces included) as lines of at most `width` characters, where brackets allow it."""
    if len(line) <= width:
        return [line]
    found = _last_brackets(line)
    if found is None:
        return [line]
    start, end = found
    indent = " " * (len(line) - len(line.lstrip()))
    head, body, tail = line[: start + 1], line[start + 1 : end].strip().removesuffix(","), line[end:]
    if len(head) > width:
        return [line]
    inner = f"{indent}    "
    if len(inner) + len(body) <= width and not body.startswith("*"):
        return [head, inner + body, indent + tail]
    parts = split(body)
    if len(parts) == 1:
        return [head, *fit(inner + body, width), indent + tail]
    lines = [head]
    for part in parts:
        fitted = fit(f"{inner}{part},", width)
        lines += fitted
    return [*lines, indent + tail]


def split(text: str, comma: str = ",") -> list[str]:
    """The parts between commas that stand in no bracket and no string."""
    parts, depth, start = [], 0, 0
    for position, character in _code(text):
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
        elif character == comma and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts


def _last_brackets(line: str) -> tuple[int, int] | None:
    """Where the last outermost pair of brackets with something in it opens and closes."""
    depth, opened = 0, 0
    found = None
    for position, character in _code(line):
        if character in _OPEN:
            if depth == 0:
                opened = position
            depth += 1
        elif character in _CLOSE:
            depth -= 1
            if depth == 0 and line[opened + 1 : position].strip():
                found = (opened, position)
    return found


def _code(text: str) -> list[tuple[int, str]]:
    """Positions and characters outside of strings."""
    result = []
    quote, skip = "", False
    for position, character in enumerate(text):
        if skip:
            skip = False
        elif quote:
            if character == "\\":
                skip = True
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        else:
            result.append((position, character))
    return result


def paragraph(text: str, indent: str = "", width: int = WIDTH) -> list[str]:
    """Words set in lines of at most `width` characters."""
    import textwrap

    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
