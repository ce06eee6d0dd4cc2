"""Copies of networks: ``copy.deepcopy`` with a short way through ordinary modules.

Most of what ``deepcopy`` spends on a network goes into the dozen mostly empty dictionaries of every module.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from morphsearch.graph.state import COMPILED

_ATOMIC = (int, float, bool, str, bytes, type(None), type, complex)
_TABLES = (dict, OrderedDict)
_HOOKS = ("__deepcopy__", "__reduce__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__")


def clone(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy of `module`; `memo` maps the ids of what is known already (parameters, say) to what stands for it."""
    known = memo.get(id(module))
    if known is not None:
        return known  # type: ignore[no-any-return]
    kind = type(module)
    if not _ordinary(kind):
        twin: nn.Module = copy.deepcopy(module, memo)
        return twin
    twin = kind.__new__(kind)
    memo[id(module)] = twin
    state = twin.__dict__
    for key, value in vars(module).items():
        if key == COMPILED:
            continue
        kind = type(value)
        if kind in _ATOMIC:
            state[key] = value
        elif kind in _TABLES and not value and id(value) not in memo:
            state[key] = memo[id(value)] = kind()
        else:
            state[key] = _value(value, memo)
    return twin


def _value(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, _ATOMIC):
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    if isinstance(value, Tensor) and value.grad_fn is not None:
        # What a hook computes from parameters before every call (weight norm of old) cannot be copied with its history.
        memo[id(value)] = found = value.detach().clone()
        return found
    if isinstance(value, nn.Module):
        return clone(value, memo)
    if type(value) in _TABLES:
        table = type(value)()
        memo[id(value)] = table
        for key, inner in value.items():
            table[key if isinstance(key, _ATOMIC) else copy.deepcopy(key, memo)] = _value(inner, memo)
        return table
    if type(value) is tuple and all(isinstance(v, _ATOMIC) for v in value):
        return value
    if type(value) in (list, set) and all(isinstance(v, _ATOMIC) for v in value):
        memo[id(value)] = twin = type(value)(value)
        return twin
    return copy.deepcopy(value, memo)


_KNOWN: MutableMapping[type, bool] = WeakKeyDictionary()  # every rewrite makes classes
_PLAIN = {"__setstate__": _ConvNd.__setstate__}  # it only gives old pickles what they lack


def _ordinary(kind: type) -> bool:
    """The type says nothing of its own about how it is copied."""
    if kind not in _KNOWN:
        _KNOWN[kind] = (
            all(getattr(kind, name, None) in (getattr(nn.Module, name, None), _PLAIN.get(name)) for name in _HOOKS)
            and getattr(kind, "__reduce_ex__", None) is getattr(object, "__reduce_ex__", None)
            and getattr(kind, "__new__", None) is getattr(object, "__new__", None)
            and not any("__slots__" in vars(base) for base in kind.__mro__ if base is not object)
        )
    return _KNOWN[kind]
