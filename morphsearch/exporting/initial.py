"""How fresh weights are drawn, where that is not what the constructors of ``torch.nn`` do by themselves."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from morphsearch.exporting.literals import quoted, source
from morphsearch.exporting.steps import Unsupported
from morphsearch.exporting.whole import arguments, torch_class

OVERWRITES = frozenset(
    "normal_ uniform_ zero_ fill_ zeros_ ones_ constant_ trunc_normal_ xavier_uniform_ xavier_normal_ kaiming_uniform_"
    " kaiming_normal_ orthogonal_ dirac_ eye_ exponential_ bernoulli_ random_ log_normal_ geometric_ cauchy_".split()
)


class _Recorder(TorchFunctionMode):
    """Writes down what changes parameters in place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(tensor): name for name, tensor in model.named_parameters()}
        self.programs: dict[str, list[str] | None] = {}
        self.alive: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = resolve_name(func) or ""
        first = args[0] if args else kwargs.get("tensor")
        result = func(*args, **kwargs)
        if name == "torch.Tensor.data.__get__" and id(first) in self.names:
            self.alive.append(result)
            self.names[id(result)] = self.names[id(first)]
        elif name.endswith("_") and not name.endswith("__") and id(first) in self.names:
            self.note(self.names[id(first)], name, args[1:], {k: v for k, v in kwargs.items() if k != "tensor"})
        return result

    def note(self, parameter: str, name: str, args: Any, kwargs: Any) -> None:
        last = name.rpartition(".")[2]
        before = [] if last in OVERWRITES else self.programs.get(parameter, None)
        try:
            given = [source(arg) for arg in args] + [
                f"{key}={source(value)}" for key, value in kwargs.items() if key != "generator" or value is not None
            ]
        except Unsupported:
            before = None
        if before is None:
            self.programs[parameter] = None
            return
        if name.startswith("torch.nn.init."):
            step = f"nn.init.{last}({', '.join(['value', *given])})"
        else:
            step = f"value.{last}({', '.join(given)})"
        self.programs[parameter] = [*before, step]


def programs(model: nn.Module) -> dict[str, list[str]]:
    """For each parameter that is drawn otherwise than its constructor of ``torch.nn`` does, how: lines over ``value``.

    What is recorded is :func:`morphsearch.graph.fresh.initialise` on a copy, which draws the weights of every network
    that morphsearch builds from an architecture.
    """
    twin = copy.deepcopy(model)
    recorder = _Recorder(twin)
    own = {id(module) for module in twin.modules() if _by_itself(module)}
    with torch.random.fork_rng(devices=[]):
        for module in twin.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset) and id(module) not in own:
                with recorder:
                    reset()
        network = getattr(twin, "init_weights", None)
        if callable(network):
            with recorder:
                network()
    return {name: steps for name, steps in recorder.programs.items() if steps is not None}


def _by_itself(module: nn.Module) -> bool:
    base = torch_class(module)
    return (
        base is not None
        and arguments(module) is not None
        and getattr(type(module), "reset_parameters", None) is getattr(base, "reset_parameters", None)
    )


def method(model: nn.Module, drawn: dict[str, list[str]]) -> list[str]:
    """The method ``reset_parameters`` of the network's class; empty where the constructors do all of it."""
    raw = [name for name, value in model.named_parameters() if needs_values(model, name, value)]
    steps = dict(drawn)
    for name in raw:
        steps.setdefault(name, _measured(model.get_parameter(name)))
    for name, value in model.named_parameters():
        if name in steps and constant(value) and not _of_torch(model, name):
            del steps[name]
    if not steps:
        return []
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, lines in steps.items():
        groups.setdefault(tuple(lines), []).append(name)
    lines = [
        "",
        "    @torch.no_grad()",
        "    def reset_parameters(self) -> None:",
        '        """Draw fresh weights where the modules\' own initialisation is not the seed\'s."""',
    ]
    for program, names in groups.items():
        listed = ", ".join(quoted(name) for name in names) + ("," if len(names) == 1 else "")
        lines.append(f"        for name in ({listed}):")
        lines.append("            value = self.get_parameter(name)")
        lines += [f"            {step}" for step in program]
    return lines


def needs_values(model: nn.Module, name: str, value: Tensor) -> bool:
    """Whether neither a constructor of torch nor a constant gives this parameter its values."""
    return not constant(value) and not _of_torch(model, name)


def constant(value: Tensor) -> bool:
    """Whether all elements are the same."""
    flat = value.detach().reshape(-1)
    return bool(flat.numel()) and bool((flat == flat[0]).all())


def _of_torch(model: nn.Module, name: str) -> bool:
    module = model.get_submodule(name.rpartition(".")[0])
    base, given = torch_class(module), arguments(module)
    if base is None or given is None:
        return False
    with torch.device("meta"):
        made = base(**given)
    return name.rpartition(".")[2] in made._parameters


def _measured(value: Tensor) -> list[str]:
    flat = value.detach().double()
    return [f"nn.init.normal_(value, {float(flat.mean()):.6g}, {float(flat.std(correction=0)):.6g})"]
