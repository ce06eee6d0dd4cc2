"""What the rules of ATEN operations share: arguments, and writing an operation down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from morphsearch.graph.labels import Labels
from morphsearch.graph.schemas import short_name
from morphsearch.graph.tape import Tape, unseen
from morphsearch.graph.tensors import tensors_in

Rule = Callable[[Tape, Any, Any, Any, Any], None]


def input_labels(tape: Tape, args: Any, kwargs: Any) -> list[Labels]:
    """Labels of the activations among the arguments, for the record."""
    return [labels for t in tensors_in((args, kwargs)) if (labels := _seen(tape, t)) is not None]


def _seen(tape: Tape, tensor: Tensor) -> Labels | None:
    labels = None if tape.name_of(tensor) is not None else tape.labels(tensor)
    return labels if labels is not None and labels.parameter is None else None


def finish(tape: Tape, func: Any, inputs: Sequence[Labels], out: Any, labels: Sequence[Labels], **extra: Any) -> None:
    outputs = tensors_in(out)
    tape.emit(short_name(func), inputs, labels, **extra)
    for tensor, own in zip(outputs, labels, strict=True):
        tape.put(tensor, own)


def plain_arguments(args: Any, kwargs: Any) -> dict[str, Any]:
    """Integer arguments, so that a graph can be read."""
    plain = [
        a for a in args if isinstance(a, int) or (isinstance(a, (list, tuple)) and all(isinstance(i, int) for i in a))
    ]
    return {"arguments": plain} if plain else {}


def numbers_in(args: Any, kwargs: Any, *, on_meta: bool = False) -> tuple[float, ...]:
    """Plain numbers among the arguments: where they depend on a width, removal is not exact (see ``rewrite.check``).

    On shapes alone (`on_meta`) a tensor of one number that has a value is one too: code made it of a number.
    """
    found: list[float] = []
    _collect_numbers((*args, *kwargs.values()), found, on_meta)
    return tuple(found)


def _collect_numbers(values: Any, found: list[float], on_meta: bool) -> None:
    for value in values:
        if isinstance(value, (int, float)):
            if not isinstance(value, bool):
                found.append(float(value))
        elif isinstance(value, Tensor):
            if on_meta and value.dim() == 0 and not value.is_meta and not value.is_complex():
                with unseen():
                    found.append(float(value))
        elif isinstance(value, (list, tuple)):
            _collect_numbers(value, found, on_meta)
