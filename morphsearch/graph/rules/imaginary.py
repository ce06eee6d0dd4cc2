"""Complex parameters and buffers (spectral weights of Fourier neural operators, rotary tables).

No slice of theirs ever leaves: to every rule they are made of parameters in a way that is not followed, and what they
meet is frozen, with their name.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from morphsearch.graph.tape import Tape
from morphsearch.graph.tensors import tensors_in


def meets_complex(tape: Tape, what: str, args: Any, kwargs: Any) -> str:
    """Freeze what an operation reads beside a complex parameter; returns what that is called, "" where there is none.

    Args:
        what: the operation, for the reason.
    """
    given = tensors_in((args, kwargs))
    name = next((name for tensor in given if (name := origin(tape, tensor))), "")
    for tensor in given if name else ():
        pair = tape.pair(tensor)
        labels = pair if pair is not None else tape.labels(tensor)
        if labels is not None and labels.parameter is None:
            reason = f"{tape.where(what)}: it meets {name}, whose numbers are complex"
            tape.pin(labels.ids, reason)
            if labels.second is not None:
                tape.pin(labels.second, reason)
    return name


def comes_from(tape: Tape, name: str, out: Any) -> None:
    """Say of what was computed from parameters alone that the complex one `name` is among them."""
    for tensor in tensors_in(out):
        labels = tape.labels(tensor)
        if labels is not None and labels.parameter is not None:
            tensor._morphsearch_complex = name  # type: ignore[attr-defined]


def origin(tape: Tape, tensor: Tensor) -> str:
    """The complex parameter that a tensor is or was computed from, "" for others."""
    name = tape.names.get(id(tensor), "")
    if name in tape.imaginary:
        return tape.imaginary[name]
    return getattr(tensor, "_morphsearch_complex", "")


__all__ = ["comes_from", "meets_complex", "origin"]
