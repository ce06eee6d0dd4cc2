"""Tables that are read by number (``nn.Embedding``): their columns are units, their rows stay."""

from __future__ import annotations

from typing import Any

from morphsearch.graph.labels import along
from morphsearch.graph.rules.binding import named, resolve_slot
from morphsearch.graph.rules.common import Rule, finish
from morphsearch.graph.tape import Tape


def embedding(otherwise: Rule) -> Rule:
    """`v x c` read by `...` gives `... x c`; `otherwise` is the rule for tables that are no parameter."""

    def rule(tape: Tape, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        table, index = args[:2]
        known = tape.labels(table)
        found = resolve_slot(tape, table, 1, "gate") if known is not None and known.parameter else None
        if found is None:
            otherwise(tape, func, args, kwargs, out)
            return
        rows = resolve_slot(tape, table, 0, "other")
        if rows is not None:
            tape.pin(rows[0], tape.where("a table that is read by number"))
        places = tape.activation(index)
        tape.pin(places.ids, tape.where("an index that is computed from channels"))
        made = along(found[0], out.dim() - 1, tuple(out.shape))
        finish(tape, func, [places], out, [made], parameters=named(tape, weight=table))

    return rule


__all__ = ["embedding"]
