"""The exact state of a training as named tensors and JSON-ready data, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch.errors import InputError

MODEL, OPTIMIZER, GRADIENT = "model/", "optimizer/", "gradient/"


class RandomStream:
    """A random state of torch's own for one training: in place within :meth:`entered`, kept aside otherwise.

    So a training does not depend on what else draws random numbers, nor the other way round.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self._inside = False
        outer = self._get()
        torch.manual_seed(seed)
        self._kept = self._get()
        self._set(outer)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """`rng/cpu` and, on an accelerator, `rng/device` (uint8)."""
        return self._get() if self._inside else {name: value.clone() for name, value in self._kept.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from :attr:`tensors`; a device's part is kept as it is where `tensors` has none."""
        for name in self._kept:
            if name in tensors:
                self._kept[name] = tensors[name].to("cpu", torch.uint8).clone()
        if self._inside:
            self._set(self._kept)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """torch's random numbers come from this stream; afterwards from where they came before."""
        outer = self._get()
        self._set(self._kept)
        self._inside = True
        try:
            yield
        finally:
            self._kept = self._get()
            self._inside = False
            self._set(outer)

    def _get(self) -> dict[str, Tensor]:
        state = {"rng/cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["rng/device"] = torch.cuda.get_rng_state(self.device)
        elif self.device.type == "mps":
            state["rng/device"] = torch.mps.get_rng_state()
        return state

    def _set(self, state: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(state["rng/cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng/device"], self.device)
        elif self.device.type == "mps":
            torch.mps.set_rng_state(state["rng/device"])


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, ``model/<name>``, not copied."""
    return {MODEL + name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def load_model_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy ``model/<name>`` tensors into the model, in place.

    Raises:
        InputError: names or shapes differ.
    """
    own = model_tensors(model)
    given = {name: value for name, value in tensors.items() if name.startswith(MODEL)}
    problems = [f"{name.removeprefix(MODEL)} is missing" for name in own if name not in given]
    problems += [f"{name.removeprefix(MODEL)} is not in this network" for name in given if name not in own]
    problems += [
        f"{name.removeprefix(MODEL)} is {list(given[name].shape)} instead of {list(value.shape)}"
        for name, value in own.items()
        if name in given and given[name].shape != value.shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise InputError(
            f"the saved tensors do not fit the network: {'; '.join(problems[:3])}{more}",
            "a state belongs to a network with the same layers and widths",
            "resume with the architecture that the state was saved from, or start again in another folder",
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(given[name])


def gradient_tensors(model: nn.Module) -> dict[str, Tensor]:
    """``gradient/<name>`` of the parameters that have one: the state between batches that are accumulated."""
    return {GRADIENT + name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def load_gradient_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set every gradient to its ``gradient/<name>``, or to None."""
    for name, parameter in model.named_parameters():
        saved = tensors.get(GRADIENT + name)
        parameter.grad = None if saved is None else _laid_out_like(parameter, saved)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state: ``optimizer/<parameter>/<key>`` tensors (not copied), and other values as JSON."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMIZER}{name}/{key}"] = value
            elif value is not None:
                values.setdefault(name, {})[key] = value
    return tensors, values


def load_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> None:
    """Put back what :func:`optimizer_tensors` gave. Learning rates and the other options stay the optimizer's own.

    Raises:
        InputError: a tensor of a parameter that the model does not have.
    """
    parameters = dict(model.named_parameters())
    by_parameter: dict[str, dict[str, Any]] = {name: dict(value) for name, value in values.items()}
    for name, value in tensors.items():
        if name.startswith(OPTIMIZER):
            parameter_name, _, key = name.removeprefix(OPTIMIZER).rpartition("/")
            by_parameter.setdefault(parameter_name, {})[key] = value
    unknown = sorted(set(by_parameter) - set(parameters))
    if unknown:
        raise InputError(
            f"the saved optimizer state names {unknown[0]!r}",
            "optimizer state belongs to parameters of this network",
            "resume with the architecture that the state was saved from",
        )
    order = {id(p): i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    state = {
        order[id(parameters[name])]: {
            key: _laid_out_like(parameters[name], value) if isinstance(value, Tensor) else value
            for key, value in entries.items()
        }
        for name, entries in by_parameter.items()
        if id(parameters[name]) in order
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def lay_out_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Give state tensors the strides of their parameters, as they would have after :func:`load_optimizer_tensors`."""
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[key] = _laid_out_like(parameter, value)


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """A copy of `value`, with the parameter's device and strides where the shapes agree.

    Strides decide which kernels (vectorised or not) meet the values, hence the last bit.
    """
    if value.shape != parameter.shape:
        return value.detach().clone()
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()


def check_fits(
    tensors: Mapping[str, Tensor], state: Mapping[str, Any], own_tensors: Mapping[str, Tensor], own: Mapping[str, Any]
) -> None:
    """Refuse a saved `state` and `tensors` of another training than the one whose state is `own` and `own_tensors`.

    Raises:
        InputError: something is missing, or data, seed or recipe differ. Shapes are left to :func:`load_model_tensors`.
    """
    missing = [f"field {name!r}" for name in own if name not in state and name != "lr_scale"]
    missing += [f"tensor {n!r}" for n in own_tensors if n.startswith(("rng/cpu", "epoch/")) and n not in tensors]
    if missing:
        raise InputError(
            f"the saved state lacks {', '.join(missing[:3])}",
            "a state holds all that Trainer.state() gave",
            "take a state that is whole, or start again without it",
        )
    if state["train_images"] != own["train_images"]:
        raise InputError(
            f"the state is of a training on {state['train_images']} images, not {own['train_images']}",
            "training goes on exactly only on the same data",
            "resume with the data that it was started with, or start again in another folder",
        )
    saved_recipe = state["recipe"] if isinstance(state["recipe"], dict) else {}
    saved, asked = {"seed": state["seed"], **saved_recipe}, {"seed": own["seed"], **own["recipe"]}
    changed = [name for name in asked if saved.get(name) != asked[name] and name != "device"]
    if changed:
        raise InputError(
            f"the state was saved with {', '.join(f'{n}={saved.get(n)!r} instead of {asked[n]!r}' for n in changed)}",
            "training goes on exactly only by the same recipe and seed",
            "resume with that recipe and seed, or start again in another folder",
        )
