"""HTML that cannot forget to escape: everything that is not :class:`Markup` already is escaped when it goes in."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from typing import Any

VOID = frozenset({"meta", "br", "hr"})
SIDES = {">": "end", "*": "prose"}

_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters
    "\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of text around
    "\ud800-\udfff\ufffe\uffff]"  # halves of characters, which no file can hold
)


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def plain(value: Any) -> str:
    """`value` as text without characters that hide or turn around what stands beside them."""
    return _UNSEEN.sub("\ufffd", str(value))


def escape(value: Any) -> Markup:
    """`value` as HTML: markup as it is, anything else as text."""
    return value if isinstance(value, Markup) else Markup(html.escape(plain(value)))


def join(parts: Iterable[Any]) -> Markup:
    """Parts one after another; None is passed over and lists are opened."""
    found = []
    for part in parts:
        if part is None:
            continue
        nested = isinstance(part, Iterable) and not isinstance(part, str)
        found.append(join(part) if nested else escape(part))
    return Markup("".join(found))


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """An element. Attributes: `class_` is ``class``, `aria_label` ``aria-label``; None and False are left out."""
    words = [name]
    for key, value in attributes.items():
        label = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(label)
        elif value is not None and value is not False:
            words.append(f'{label}="{escape(str(value))}"')
    opening = f"<{' '.join(words)}>"
    return Markup(opening if name in VOID else f"{opening}{join(children)}</{name}>")


def data(value: Any) -> Markup:
    """JSON that may stand in a ``script`` element: it holds no character that could end the element."""
    text = json.dumps(value, allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def table(
    caption: str,
    columns: Iterable[str],
    rows: Iterable[Iterable[Any]],
    *,
    footer: Iterable[Any] | None = None,
) -> Markup:
    """A table whose first column names its rows. Columns ``>name`` are aligned to the right; ``*name`` hold sentences.

    It scrolls within its place where it is wider than the screen, by keyboard too.
    """
    names = list(columns)
    sides = [SIDES.get(name[:1]) for name in names]

    def cells(row: Iterable[Any]) -> Markup:
        return join(
            tag("td", cell, class_=side) if place else tag("th", cell, scope="row", class_=side)
            for place, (cell, side) in enumerate(zip(row, sides, strict=True))
        )

    heads = [
        tag("th", name.lstrip("".join(SIDES)), scope="col", class_=side)
        for name, side in zip(names, sides, strict=True)
    ]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", heads)),
            tag("tbody", [tag("tr", cells(row)) for row in rows]),
            tag("tfoot", tag("tr", cells(footer))) if footer is not None else None,
        ),
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex="0",
    )


def details(summary: str, *children: Any) -> Markup:
    """What is shown when asked for."""
    return tag("details", tag("summary", summary), *children)


def paragraphs(texts: Iterable[Any], **attributes: Any) -> Markup:
    """A paragraph each."""
    return join(tag("p", text, **attributes) for text in texts)
