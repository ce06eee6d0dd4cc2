"""Types of arguments: what they accept, how they complete, and what they say when they cannot."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from morphsearch.arguments import MOST_SEED
from morphsearch.cli import dotted, names
from morphsearch.errors import InputError, UnknownName, UsageError, nearest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class RegisteredName(click.ParamType):
    """A name that a built-in or a plugin registered, such as a strategy's."""

    name = "name"

    def __init__(self, kind: str, *others: str) -> None:
        self.kind, self.others = kind, others

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name against the registry, unless it is one of the others."""
        return str(value) if value in self.others else names.check(self.kind, str(value), self.others)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Registered names with their summaries."""
        return names.complete_words(list(self.others), incomplete) + names.complete(self.kind, incomplete)


class SourceSpec(click.ParamType):
    """``name``, ``name:argument`` or ``package.module:function``; a bare name is checked against the registry.

    What has a colon, a dot or a slash is left to the layer below, which knows how to look for it.
    """

    name = "spec"

    def __init__(self, kind: str, *, arguments: str = ":?") -> None:
        self.kind = kind
        self.arguments = arguments

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check a bare name; leave paths and imports alone."""
        text = str(value).strip()
        if not text:
            raise UsageError(f"{names.label(param)} is empty", "", "name one; see `morphsearch plugins`")
        head = re.split(f"[{self.arguments}]", text, maxsplit=1)[0]
        if not re.search(r"[./\\]", head) and ":" not in text:
            names.check(self.kind, head)
        return text

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Registered names, then paths."""
        return names.complete(self.kind, incomplete) or names.complete_paths()


class SeedOrPath(SourceSpec):
    """A seed, or the path of a run directory or of a JSON file."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A Path for what is there as a folder or ends like a file of ours, text otherwise."""
        text = str(value).strip()
        if text and (text.endswith(".json") or Path(text).is_dir()):
            return Path(text)
        return super().convert(value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Registered names, or else paths."""
        return names.complete(self.kind, incomplete) or names.complete_paths()


class BudgetText(click.ParamType):
    """``METRIC=N%`` or ``METRIC<=N``; parsed by the loop, completed here."""

    name = "budget"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the metric's name, so that a slip costs no start-up; the loop parses the rest."""
        text = str(value).strip()
        metric = re.match(r"\s*([A-Za-z][\w.+-]*)\s*(?:<=|=)", text)
        if metric:
            names.check("cost_models", metric.group(1))
        return text

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Cost names followed by an equals sign."""
        return names.complete("cost_models", incomplete, suffix="=")


MOST_NUMBERS = 2**30


class Shape(click.ParamType):
    """``1,3,224,224``: the shape of the example input, batch included."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """A tuple of positive whole numbers."""
        if isinstance(value, Sequence) and not isinstance(value, str):
            parts: list[Any] = list(value)
        else:
            parts = [part for part in re.split(r"[,x\s]+", str(value).strip("()[] ")) if part]
        try:
            shape = tuple(int(str(part)) for part in parts)
        except ValueError:
            shape = ()
        if len(shape) < 2 or min(shape) < 1:
            raise UsageError(
                f"{names.label(param)} {value!r} is no shape",
                "a shape is whole numbers above 0, batch first: N,C,H,W",
                "write for example 1,3,224,224",
            )
        if math.prod(shape) > MOST_NUMBERS:  # the system would end the process, without a word
            raise InputError(
                f"{names.label(param)} {value!r} is {math.prod(shape):,} numbers",
                f"an example input holds at most {MOST_NUMBERS:,}, since the network is run on it",
                "take a smaller image, or a batch of 1",
            )
        return shape


class Number(click.ParamType):
    """A number within bounds; `metavar` is what help shows."""

    def __init__(
        self,
        kind: type[int] | type[float],
        *,
        least: float | None = None,
        above: float | None = None,
        below: float | None = None,
        most: float | None = None,
    ) -> None:
        self.kind, self.least, self.above, self.below, self.most = kind, least, above, below, most
        self.name = "n" if kind is int else "x"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """The number, of the kind that was asked for."""
        try:
            if isinstance(value, bool) or (self.kind is int and isinstance(value, float)):
                raise ValueError
            number = self.kind(value)
        except (TypeError, ValueError):
            number = math.nan
        low = (self.least is None or number >= self.least) and (self.above is None or number > self.above)
        high = (self.below is None or number < self.below) and (self.most is None or number <= self.most)
        if not (_finite(number) and low and high):
            name = names.label(param)
            default = getattr(param, "default", None)
            sample = default if isinstance(default, int | float) else self.least or (1 if self.kind is int else 0.5)
            raise UsageError(f"{name} {value!r}", f"{name} is {self._rule()}", f"write for example {name} {sample}")
        return number

    def _rule(self) -> str:
        bounds = ((self.least, "at least"), (self.above, "above"), (self.below, "below"), (self.most, "at most"))
        limits = " and ".join(
            f"{word} {bound if isinstance(bound, int) else f'{bound:g}'}" for bound, word in bounds if bound is not None
        )
        return f"{'a whole number' if self.kind is int else 'a number'}{', ' if limits else ''}{limits}"


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond every float
        return False


class KeyValue(click.ParamType):
    """``key=value``; the value is a number, true, false, none or text."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """A pair; pairs from a configuration file pass unchanged."""
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        key = key.strip().replace("-", "_")
        if equals and "." in key:
            raise dotted.refused(names.label(param), key, text.strip(), str(value))
        if not equals or not key.isidentifier():
            close = "lr=0.05" if names.label(param) == "--set" else "name=value"
            raise UsageError(f"{names.label(param)} {value!r}", "it reads KEY=VALUE", f"write for example {close}")
        return key, literal(text.strip())


def literal(text: str) -> Any:
    """A number, true, false, none or the text itself."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text.replace("_", ""))
        except ValueError:
            continue
    return text.strip("'\"")


MOST_SEEDS = 1000  # more is a slip


class Seeds(click.ParamType):
    """``3`` (that many, from 0) or ``0,7,42`` (these)."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """A list of distinct seeds."""
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        parts = [part.strip() for part in text.split(",")]
        counted = len(parts) == 1 and not isinstance(value, list | tuple)
        whole = all(re.fullmatch(r"\d{1,10}", part) and int(part) <= MOST_SEED for part in parts)
        if not whole or (counted and not 1 <= int(parts[0]) <= MOST_SEEDS):
            raise UsageError(
                f"{names.label(param)} {text!r}",
                f"it is a number of seeds, 1 to {MOST_SEEDS}, or seeds with commas, each at most {MOST_SEED}",
                "write 3, or 0,1,2",
            )
        if counted:
            return list(range(int(parts[0])))
        return list(dict.fromkeys(int(part) for part in parts))


class Device(click.ParamType):
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""

    name = "device"
    known = ("auto", "cpu", "cuda", "mps", "xpu")
    aliases: ClassVar[dict[str, str]] = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps"}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the kind of device; whether it is there is seen when it is used."""
        text = str(value).strip().lower()
        if not re.fullmatch(rf"({'|'.join(self.known)})(:\d+)?", text) or text.startswith("auto:"):
            raise unknown("device", self.aliases.get(text, str(value)), self.known, shown=str(value))
        return text

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Kinds of devices."""
        return names.complete_words(list(self.known), incomplete)


class NearChoice(click.Choice[str]):
    """A choice that gives a misspelt value its nearest names."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """One of the choices, whatever its case."""
        table = {str(choice).lower(): str(choice) for choice in self.choices}
        found = table.get(str(value).strip().lower())
        if found is None:
            raise unknown(names.label(param), str(value), table.values())
        return found


class NameList(click.ParamType):
    """Names with commas between them, each one of the known."""

    name = "names"

    def __init__(self, choices: Sequence[str] = (), *, kind: str = "") -> None:
        self.choices = tuple(choices)
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """A list without repetitions; empty for an empty text or ``none``."""
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        found = [str(part).strip() for part in parts if str(part).strip()]
        if [part.lower() for part in found] == ["none"]:
            return []
        for part in found:
            if self.kind:
                names.check(self.kind, part)
            elif part not in self.choices:
                raise unknown(f"value of {names.label(param)}", part, self.choices)
        return list(dict.fromkeys(found))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the last name of the list."""
        done, comma, last = incomplete.rpartition(",")
        words = list(names.known(self.kind)) if self.kind else list(self.choices)
        return names.complete_words([f"{done}{comma}{word}" for word in words], f"{done}{comma}{last}")


def unknown(kind: str, name: str, known: Iterable[str], *, shown: str = "") -> UsageError:
    """A misspelt value, the nearest first; the order of `known` is kept. `shown` is what was written, if not `name`."""
    choices = list(known)
    close = nearest(name, choices)
    return UnknownName(
        f"unknown {kind} {(shown or name)!r}",
        f"known: {', '.join(choices)}",
        f"did you mean {' or '.join(close)}?" if close else "choose one of the known values",
    )


def pairs(values: Iterable[tuple[str, Any]] | Mapping[str, Any]) -> dict[str, Any]:
    """The pairs of a repeatable ``key=value`` option; the last of a key wins."""
    return dict(values)
