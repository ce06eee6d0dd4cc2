"""Whether masks and the parameters that they were made for still belong together, in a network and in its copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from morphsearch.errors import UsageError

_WRAPPERS = ("module", "_orig_mod")  # of averages and parallel networks; of compiled ones


class Places:
    """Where a network holds the parameters that have masks.

    Args:
        model: the network. parameters: by name, as it holds them now.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        self.model = model
        self.shapes = {name: parameter.shape for name, parameter in parameters.items()}
        self._held = [(name, name.split("."), parameter) for name, parameter in parameters.items()]

    def check(self) -> None:
        """Refuse a network that holds other parameters by now. Takes microseconds, so it can be asked at every step.

        Raises:
            UsageError: as said; the message names one.
        """
        for name, (*path, own), parameter in self._held:
            module: nn.Module | None = self.model
            for part in path:
                module = _in(module._modules, part) if module is not None else None
            if module is None or _in(module._parameters, own) is not parameter:
                raise _exchanged(f"parameter {name} of the network is another one than at the start")
            if parameter.shape != self.shapes[name]:
                now, before = list(parameter.shape), list(self.shapes[name])
                raise _exchanged(f"parameter {name} of the network is {now}, and was {before} at the start")

    def in_copy(self, model: Any) -> dict[str, nn.Parameter]:
        """The same parameters of a copy of the network, by name. Averages (``AveragedModel``) and other wrappers are
        looked into.

        Raises:
            UsageError: it is no network, or another one.
        """
        if not isinstance(model, nn.Module):
            raise UsageError(
                f"apply() got a {type(model).__name__}",
                "it takes the network's copy: an nn.Module with parameters of the same names and shapes",
                "pass the copy itself, such as an AveragedModel of the network",
            )
        inner: Any = model
        while isinstance(inner, nn.Module):
            found = dict(inner.named_parameters(remove_duplicate=False))
            if self.shapes.keys() <= found.keys():
                break
            inner = next((getattr(inner, name) for name in _WRAPPERS if hasattr(inner, name)), None)
        else:
            own = dict(model.named_parameters(remove_duplicate=False))
            missing = next(name for name in self.shapes if name not in own)
            raise _other(model, f"has no parameter {missing}")
        for name, shape in self.shapes.items():
            if found[name].shape != shape:
                raise _other(model, f"has {name} of shape {list(found[name].shape)}, the network {list(shape)}")
            if not torch.is_floating_point(found[name]):
                raise _other(model, f"has {name} in {found[name].dtype}")
        return {name: found[name] for name in self.shapes}


def _in(store: Any, key: str) -> Any:
    return store[key] if key in store else None  # noqa: SIM401  # what scripted modules keep has no get()


def _exchanged(arrived: str) -> UsageError:
    return UsageError(
        arrived,
        "masks belong to the parameters of the network that was passed",
        "load weights in place (without assign=True), and make the Sparsifier after whatever replaces parameters "
        "(shrinking, parametrizing, wrapping)",
    )


def _other(model: nn.Module, why: str) -> UsageError:
    return UsageError(
        f"apply() got a {type(model).__name__} that {why}",
        "masks fit the network that was passed to Sparsifier, and copies of it",
        "pass a copy of that network, such as an AveragedModel of it, at the same widths",
    )
