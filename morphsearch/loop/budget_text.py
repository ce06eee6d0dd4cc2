"""What budgets say: ``flops=50%``, ``params<=1.2M``, ``memory<=64MiB``, and falling schedules of them, from text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from morphsearch import plugins
from morphsearch.costs import get as get_cost
from morphsearch.errors import UsageError

_PATTERN = re.compile(
    r"^\s*([A-Za-z][\w.+-]*)\s*(<=|=)\s*((?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*(%|[A-Za-z]*)\s*$"
)
_RULE = "a budget reads METRIC=N% (of the seed's cost) or METRIC<=N, as in flops=50%, params<=1.2M"
_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
# Units that measure the same thing: a suffix of one family is converted to the cost model's unit.
_FAMILIES = (
    {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3},
    {"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "kb": 1e3, "mb": 1e6, "gb": 1e9, "bytes": 1.0},
)


_SPELT = {"kib": "KiB", "mib": "MiB", "gib": "GiB", "kb": "KB", "mb": "MB", "gb": "GB"}


@dataclass(frozen=True)
class Budget:
    """One bound. Exactly one of `percent` (of the seed's cost) and `amount` (in the cost model's unit) is set."""

    text: str
    metric: str
    percent: float | None = None
    amount: float | None = None

    def limit(self, seed_cost: float) -> float:
        """The bound in the cost model's unit."""
        return self.amount if self.amount is not None else (self.percent or 0.0) * seed_cost / 100


def parse_budget(text: str) -> Budget:
    """Parse ``METRIC=N%`` (of the seed) or ``METRIC<=N`` with an optional K, M, G or the metric's unit.

    Raises:
        UsageError: the text does not parse, or bounds nothing.
        UnknownName: no cost model of that name.
    """
    found = _PATTERN.match(text) if isinstance(text, str) else None
    if not found:
        raise UsageError(f"budget {text!r} does not parse", _RULE, "write for example --budget flops=50%")
    metric, relation, digits, suffix = found.groups()
    plugins.record("cost_models", metric)
    value = float(digits.replace("_", ""))
    if not 0 < value < float("inf"):
        raise UsageError(f"budget {text!r} leaves nothing", "a budget is more than zero", "write for example flops=50%")
    if suffix == "%":
        return Budget(text.strip(), metric, percent=value)
    if relation == "=":
        raise UsageError(
            f"budget {text!r} is neither a share nor a bound",
            _RULE,
            f"write {metric}={digits}% or {metric}<={digits}{suffix}",
        )
    return Budget(text.strip(), metric, amount=value * _scale(suffix, metric, text))


def parse_schedule(text: str) -> list[Budget]:
    """Parse ``METRIC=N%,N%,...`` or ``METRIC<=N,N,...``: budgets of one metric that fall from morph to morph.

    Raises:
        UsageError: one does not parse, they do not fall, or shares of the seed and bounds are mixed.
        UnknownName: no cost model of that name.
    """
    if not isinstance(text, str) or "," not in text:
        return [parse_budget(text)]
    head = re.match(r"^\s*[A-Za-z][\w.+-]*\s*(?:<=|=)", text)
    if head is None:
        parse_budget(text)  # says how a budget reads
        raise AssertionError(text)
    parts = [part.strip() for part in text[head.end() :].split(",")]
    example = "write for example flops=80%,65%,50%, or params<=1.2M,800K"
    if not all(parts):
        place = parts.index("") + 1
        raise UsageError(f"budget {text!r} has no value at place {place}", "commas stand between the budgets", example)
    if len({part.endswith("%") for part in parts}) > 1 and all(re.match(r"\.?\d", part) for part in parts):
        raise UsageError(
            f"budget {text!r} mixes shares of the seed and bounds",
            "all budgets of a schedule are of one kind, so that it can be seen to fall",
            example,
        )
    digits = [part for part in parts[1:] if re.match(r"\d{3}(?!\d)", part)]
    if parts[0].isdigit() and len(digits) == len(parts) - 1 and not float(parts[0]) > float(digits[0][:3]) > 0:
        raise UsageError(
            f"budget {text!r} has commas within a number",
            "commas stand between the budgets of a schedule",
            f"write {head.group().strip()}{'_'.join(parts)}, or use K, M and G",
        )
    budgets = [parse_budget(f"{head.group().strip()}{part}") for part in parts]
    sizes = [budget.limit(100.0) for budget in budgets]
    for before, after, one, other in zip(sizes, sizes[1:], parts, parts[1:], strict=False):
        if after >= before:
            falling = [part for _, part in sorted(zip(sizes, parts, strict=True), key=lambda pair: -pair[0])]
            raise UsageError(
                f"budget {text!r} {'rises' if after > before else 'stays'} from {one} to {other}",
                "the budgets of a schedule fall: each morph goes on from the network before it",
                f"write {head.group().strip()}{','.join(dict.fromkeys(falling))}",
            )
    return budgets


def schedule_length(texts: str | Sequence[str]) -> int:
    """How many budgets follow one another: 1 without a schedule.

    Raises:
        UsageError: schedules of different lengths, or one that does not parse.
    """
    return length_of([parse_schedule(text) for text in as_list(texts)])


def length_of(schedules: Sequence[Sequence[Budget]]) -> int:
    """The common length of those that are schedules."""
    long = [schedule for schedule in schedules if len(schedule) > 1]
    lengths = sorted({len(schedule) for schedule in long})
    if len(lengths) > 1:
        told = " and ".join(f"{len(schedule)} for {schedule[0].metric}" for schedule in long)
        raise UsageError(
            f"the schedules of the budgets have different lengths: {told}",
            "schedules go forward together, a budget of each for every morph; a single budget holds in all",
            "give every schedule as many budgets",
        )
    return lengths[0] if lengths else 1


def as_list(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _scale(suffix: str, metric: str, text: str) -> float:
    """What a number with `suffix` is multiplied by to be in the cost model's unit."""
    unit = str(getattr(get_cost(metric), "unit", ""))
    lowered = suffix.lower()
    if lowered in _SCALES and lowered and any(unit.lower() in family for family in _FAMILIES) and unit != "bytes":
        own = next(family for family in _FAMILIES if unit.lower() in family)
        close = [word for word in (f"{lowered}ib", f"{lowered}b", f"{lowered}s") if word in own]
        units = ", ".join(_SPELT.get(word, word) for word in own)
        raise UsageError(
            f"budget {text!r} ends in {suffix!r} alone",
            f"{metric} is counted in {unit}, so a bound says its unit: {units}",
            f"write {text.strip().removesuffix(suffix)}{_SPELT.get(close[0], close[0]) if close else unit}",
        )
    for family in _FAMILIES:
        if unit.lower() in family and lowered in family:
            return family[lowered] / family[unit.lower()]
    words = {unit, unit.removesuffix("s"), metric, metric.removesuffix("s"), ""}
    for word in sorted((word.lower() for word in words), key=len, reverse=True):
        if lowered.endswith(word) and lowered.removesuffix(word) in _SCALES:
            return _SCALES[lowered.removesuffix(word)]
    raise UsageError(
        f"budget {text!r} ends in {suffix!r}",
        f"{metric} is counted in {unit or 'plain numbers'}, and a bound may end in K, M or G",
        f"use {unit or 'no suffix'}, K, M or G, or no suffix at all",
    )
