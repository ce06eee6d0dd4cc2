"""What a rewritten network must do beside computing the right numbers: train, load its weights, be copied."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch.graph.cloning import clone
from morphsearch.graph.tensors import all_given, tensors_in


def behaviour(model: nn.Module, seed: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """What `model`, a rewrite of `seed`, did on a call: "ok" or the reason why not, and whether the seed does.

    It is copied as it is before it was trained: what hooks computed or kept with its history cannot be copied after.
    """
    seen: dict[str, str] = {}
    for name, action in (
        ("deepcopy", copy.deepcopy),
        ("state_dict", lambda network: network.load_state_dict(network.state_dict())),
        ("train", lambda network: _train(network, seed, args, kwargs)),
    ):
        seen[name] = _outcome(action, model)
        if seen[name] != "ok" and _outcome(action, clone(seed, {})) != "ok":
            seen[name] = f"neither does the seed: {seen[name]}"
    return {name: seen[name] for name in ("train", "state_dict", "deepcopy")}


def _outcome(action: Callable[[nn.Module], Any], model: nn.Module) -> str:
    try:
        action(model)
    except Exception as error:  # the report names whatever the network raises
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return "ok"


def _train(model: nn.Module, seed: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """One backward pass; nothing where nothing is left that the seed trains."""
    if _backward(model, args, kwargs):
        return
    twin = clone(seed, {})
    if not _backward(twin, args, kwargs):
        return
    trained = {name for name, parameter in twin.named_parameters() if parameter.grad is not None}
    left = sorted(trained & {name for name, _ in model.named_parameters()})
    if left:
        raise RuntimeError(f"no output depends on {left[0]}, as the seed's do")


def _backward(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether some output depends on a parameter; the gradients are then there."""
    model.train()
    try:  # batch norm cannot train on one image
        given = model(*[_twice(value) for value in args], **kwargs)
    except Exception:  # dimension 0 is no batch
        given = model(*args, **kwargs)
    outputs = [tensor for tensor in tensors_in(all_given(given)) if tensor.requires_grad]
    if outputs:
        sum(((t.abs() if t.is_complex() else t).float().square().mean() for t in outputs), torch.zeros(())).backward()
    return bool(outputs)


def _twice(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == 1:
        return torch.cat([value, value])
    return value
