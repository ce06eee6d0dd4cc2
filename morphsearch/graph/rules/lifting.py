"""Arithmetic on parameters by which a weight is not zero where its parameter is: ``exp``, a mask that fills in ones."""

from __future__ import annotations

from itertools import product
from math import isnan
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from morphsearch.graph.labels import Labels
from morphsearch.graph.schemas import spoken_name
from morphsearch.graph.tape import unseen
from morphsearch.graph.tensors import tensors_in

# Of zeros they make zeros; division by a norm of zeros is for those who weigh them (a small number is added to it).
_KEEPING = frozenset("mul div neg abs sign sgn tanh sqrt round floor ceil trunc relu".split())
MOST_OTHERS = 3


def lifts(func: Any, args: Any, kwargs: Any, known: list[Labels | None], name: str) -> bool:
    """An element-wise operation on parameters alone gives something else than zero where `name` is zero.

    Args:
        known: the labels of the tensors among the arguments, in their order.
        name: the parameter that the result is a rearrangement of.
    """
    doing = spoken_name(func)
    if doing in _KEEPING:
        return False
    if doing in ("add", "sub") and len(known) > 1:
        return _reaches_further(known, name)
    others = [place for place, one in enumerate(known) if one is None or one.parameter != name]
    if len(others) > MOST_OTHERS:
        return True
    given = iter(range(len(known)))
    numbered = tree_map(lambda leaf: _At(next(given), leaf) if isinstance(leaf, Tensor) else leaf, (args, kwargs))
    for values in product((0.0, 1.0), repeat=len(others)):
        at = dict(zip(others, values, strict=True))
        if _of_zeros(func, numbered, at):
            return True
    return False


class _At:
    """A tensor among arguments, by its place."""

    def __init__(self, place: int, tensor: Tensor) -> None:
        self.place, self.dtype = place, tensor.dtype


def _of_zeros(func: Any, numbered: Any, at: dict[int, float]) -> bool:
    """What `func` gives for zeros, and for other tensors `at` a number each, is not zero."""

    def single(leaf: Any) -> Any:
        return torch.full((), at.get(leaf.place, 0.0), dtype=leaf.dtype) if isinstance(leaf, _At) else leaf

    with unseen():
        args, kwargs = tree_map(single, numbered)
        kwargs = {key: "cpu" if key == "device" else value for key, value in kwargs.items()}
        try:
            found = tensors_in(func(*args, **kwargs))[0]
        except Exception:  # not in this form: in doubt it does
            return True
        value = complex(found.item()) if found.is_complex() else float(found)
    return bool(value) and not (isinstance(value, float) and isnan(value))


def _reaches_further(known: list[Labels | None], name: str) -> bool:
    """What is added is the same along a dimension of the weight, so that it stays where one of its slices is zero.

    Of kernels (the last of four dimensions and more) no slice leaves.
    """
    whole = max((one.shape for one in known if one is not None), key=len)
    rank = len(whole)
    kept = max(2, rank - 2) if rank > 3 else rank
    for one in known:
        if one is None:
            return True
        if one.parameter == name:
            continue
        offset = rank - len(one.shape)
        if any(whole[d] > 1 and (d < offset or one.ids.shape[d - offset] == 1) for d in range(kept)):
            return True
    return False


__all__ = ["lifts"]
