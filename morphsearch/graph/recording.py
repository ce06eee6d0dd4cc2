"""Recording a network by running it: on shapes alone where it allows that, on real numbers otherwise."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from morphsearch.errors import GraphError
from morphsearch.graph.answers import from_data
from morphsearch.graph.known import know
from morphsearch.graph.labels import RIGID, constant, forget_numbers
from morphsearch.graph.modes import Rules, recording
from morphsearch.graph.outside import kept_outside
from morphsearch.graph.paths import modules_of, parameters_of
from morphsearch.graph.rules import aten, layers
from morphsearch.graph.rules.multihead import OPENED
from morphsearch.graph.state import COMPILED, INTERNAL, State, as_it_was, held_by, put_back
from morphsearch.graph.tape import Tape
from morphsearch.graph.tensors import all_given, on_meta, tensors_in

_within = [0]  # how many of these contexts are open


@contextmanager
def uncollected() -> Iterator[None]:
    """Python's cyclic collector waits meanwhile: it would look through all that is recorded again and again. And what
    recordings share is given back at the end."""
    collecting = gc.isenabled()
    gc.disable()
    _within[0] += 1
    try:
        yield
    finally:
        _within[0] -= 1
        if collecting:
            gc.enable()
        if not _within[0]:
            forget_numbers()


def tidy() -> None:
    """Free what lies in cycles, where the collector waits: what failed leaves labels and tensors in such; other runs do
    not. This looks at what is new since the last time only."""
    if not gc.isenabled():
        gc.collect(0)


@contextmanager
def as_recorded(model: nn.Module, before: Tape) -> Iterator[None]:
    """Modules of a rewritten network hold what those of the network that it was made of held when that was recorded.

    What training has put into caches since is as wide as the channels are, and would be taken for constants.
    """
    modules = dict(modules_of(model))
    with as_it_was(modules.values()), kept_outside(modules.values()):
        if before.outside is not None:
            before.outside.put_back()
        put_back(modules, before.state.moved() if before.state is not None else {})
        yield


def default_rules() -> Rules:
    """The built-in rules and those that plugins brought through ``morphsearch_operations``."""
    from morphsearch.graph.rules.registered import plugin_rules

    functions: dict[Callable[..., Any], Callable[..., Any]] = dict(layers.FUNCTIONS)
    functions |= dict.fromkeys(aten.ADAPTIVE_POOLS, aten.adaptive_pool)
    rules = Rules(functions, dict(aten.ATEN), aten.fallback, aten.refuse, opened=dict(OPENED))
    plugin_rules(rules)
    return rules


def as_arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the network: a tensor, a tuple of arguments, or a dict of keyword
    arguments."""
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, dict):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    raise GraphError(
        f"the example inputs are a {type(example_inputs).__name__}",
        "they are a tensor, a tuple of positional arguments or a dict of keyword arguments",
        "pass for example torch.randn(1, 3, 32, 32)",
    )


def run_tape(
    model: nn.Module,
    example_inputs: Any,
    *,
    blank: Callable[[], Tape] | None = None,
    modes: tuple[bool, ...] = (True, False),
    like: Tape | None = None,
    afresh: bool = False,
) -> tuple[Tape, int, bool]:
    """Run `model` under a tape, in evaluation mode and, where that leaves parameters unused, in training mode too.

    Args:
        blank: makes the empty tape; it is called once for each attempt.
        modes: what to try: on shapes alone (True), on real numbers (False).
        like: an earlier recording: modules begin with the attributes that they had then, and what follows from data
            is told again (see :mod:`~morphsearch.graph.answers`), unless it is to be found `afresh`.

    Returns:
        The tape, the number of operations of the evaluation run, and whether it ran on shapes alone.

    Raises:
        GraphError: the network fails on the example inputs.
    """
    rules = default_rules()
    blank = blank or (lambda: Tape(model))
    only_shapes = any(parameter.is_meta for parameter in parameters_of(modules_of(model)).values())
    failure: Exception
    pending = [True] if only_shapes else list(modes)
    while pending:
        meta = pending.pop(0)
        tape = blank()
        if like is not None and not like.on_meta and not afresh:
            tape.answers = like.answers.again()
        try:
            count = _attempt(model, example_inputs, rules, tape, meta=meta, like=like)
            tape.makings.clear()  # rules alone look there, and a bank has a label for every element
            tape.aligned.clear()
            if not meta:
                tidy()
            return tape, count, meta
        except GraphError:
            raise
        except Exception as error:
            failure = error
            if meta and not only_shapes and False not in pending and "device meta" in str(error):
                pending.append(False)  # it makes tensors of its own now, as it did not when it was first recorded
    given = ", ".join(f"{tuple(t.shape)}" for t in tensors_in(example_inputs)) or "no tensor"
    message = str(failure).strip().splitlines()
    first = message[0] if message else ""
    mode = " in training mode" if tape.in_training else ""
    repair = "check the input shape (channels, height, width) and the number of arguments"
    if mode:
        repair = "record it on larger inputs: a branch that only runs in training needs them"
    elif isinstance(failure, TypeError) and "missing" in first and "required" in first:
        repair = "pass all its inputs, from Python: a tuple (x, y) or a dict by name; commands give a network one image"
    raise GraphError(
        f"the network fails on its example inputs ({given}){mode}: {type(failure).__name__}: {first}",
        "it must run on inputs of that shape before it can be recorded",
        repair,
    ) from failure


def _attempt(model: nn.Module, example_inputs: Any, rules: Rules, tape: Tape, *, meta: bool, like: Tape | None) -> int:
    """Fill the tape; returns the number of operations of the evaluation run."""
    tape.on_meta = meta
    modules = list(modules_of(model).items())
    parameters = parameters_of(dict(modules))
    dtype = next((p.dtype for p in parameters.values() if p.is_floating_point()), None)
    moved = like.state.moved() if like is not None and like.state is not None else {}
    with as_it_was(module for _, module in modules) as held, ExitStack() as stack:
        outside = stack.enter_context(kept_outside((module for _, module in modules), fresh=True))
        if like is not None and like.outside is not None:
            like.outside.put_back()
        if moved:
            put_back(dict(modules), moved)
            held = held_by(module for _, module in modules)
        if like is None or tape.remembers:  # a check would keep the network that it checked
            tape.state, tape.outside = State([path for path, _ in modules], held), outside
        for _, module in modules:
            vars(module).pop(COMPILED, None)  # compiled code cannot be watched; it comes back with what modules held
        stack.enter_context(torch.no_grad())
        stack.enter_context(stand_ins(modules, tape, meta=meta))
        began = State([path for path, _ in modules], held_by(module for _, module in modules))
        stack.enter_context(torch.random.fork_rng(devices=[], enabled=not meta))
        model.eval()
        _run(model, example_inputs, tape, rules, meta, dtype)
        count = len(tape.operations)
        used = {name for name, _ in tape.slots} | tape.read
        unused = [n for n, p in parameters.items() if n not in used and p.numel() > 1]
        if unused and any(n.rpartition(".")[0] not in tape.visited for n in unused):
            tape.in_training = True
            model.train()
            _run(model, example_inputs, tape, rules, meta, dtype)
        tape.caches = began.written()
    return count


def _run(model: nn.Module, example_inputs: Any, tape: Tape, rules: Rules, meta: bool, dtype: Any) -> None:
    def prepare(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)  # a network in double precision is recorded with the inputs of its float self
        elif dtype is not None and value.is_complex():
            value = value.to(dtype.to_complex())
        copy = value.detach().to("meta") if meta else value.detach().clone()
        tape.put(copy, constant(RIGID, tuple(value.shape)))
        from_data(copy)
        return copy

    args, kwargs = as_arguments(example_inputs)
    args, kwargs = tree_map(prepare, args), tree_map(prepare, kwargs)
    with recording(tape, rules):
        output = all_given(model(*args, **kwargs))
    tape.read_positions(output)
    given = tensors_in(output)
    if not given and not tape.in_training:
        raise GraphError(
            f"the network gives {_named(output)}, in which no tensor is found",
            "a network's output is a tensor, or a list, dict, dataclass or other object that holds tensors",
            "return the tensors themselves, so that what they are made of is known",
        )
    for tensor in given:
        labels = tape.labels(tensor)
        if labels is not None and labels.parameter is None:
            tape.pin(labels.ids, OUTPUT)
            tape.emit("output", [labels], [])


def _named(value: Any) -> str:
    return "nothing" if value is None else f"an object of type {type(value).__name__}"


OUTPUT = "it is the network's output"


@contextmanager
def stand_ins(modules: list[tuple[str, nn.Module]], tape: Tape, *, meta: bool) -> Iterator[None]:
    """Put meta tensors (or, for real runs, the tensors themselves, with buffers copied) in place of the network's
    own."""
    saved: list[tuple[dict[str, Any], str, Any]] = []
    twins: dict[int, Tensor] = {}
    try:
        for prefix, module in modules:
            for store, is_parameter in ((module._parameters, True), (module._buffers, False)):
                for key, tensor in store.items():
                    if tensor is None:
                        continue
                    name = f"{prefix}.{key}" if prefix else key
                    twin = twins.get(id(tensor))
                    if twin is None:
                        twin = _twin(tensor, is_parameter, meta, name)
                        twins[id(tensor)] = twin
                    saved.append((store, key, tensor))
                    tape.register(twin, name)
                    if tensor.is_complex():
                        tape.imaginary.setdefault(name, f"the {'parameter' if is_parameter else 'buffer'} {name}")
        for table, key, tensor in saved:
            table[key] = twins[id(tensor)]
        if meta:
            _move_attributes(modules)
        yield
    finally:
        for table, key, tensor in saved:
            table[key] = tensor


def _move_attributes(modules: list[tuple[str, nn.Module]]) -> None:
    """Tensors that modules keep as plain attributes (what their code caches) become meta tensors too."""

    def moved(value: Any) -> Any:
        return _twin(value, False, True, "") if isinstance(value, Tensor) and not value.is_meta else value

    for _, module in modules:
        values = vars(module)
        held = [(key, value) for key, value in values.items() if type(value) not in _ATOMIC and key not in INTERNAL]
        for key, value in held:
            if isinstance(value, Tensor):
                values[key] = moved(value)
            elif type(value) in (list, tuple) and any(isinstance(one, Tensor) for one in value):
                values[key] = type(value)(moved(one) for one in value)


_ATOMIC = frozenset((int, float, bool, str, type(None), dict, OrderedDict, set, type))  # hold no tensors that are moved


def _twin(tensor: Tensor, is_parameter: bool, meta: bool, name: str) -> Tensor:
    if torch.nn.parameter.is_lazy(tensor):
        raise GraphError(
            f"the parameter {name} is not initialised yet (a lazy module)",
            "every parameter must have its shape before recording",
            "run the network once on real data, then record it",
        )
    if tensor.is_quantized:
        what = "parameter" if is_parameter else "buffer"
        raise GraphError(
            f"the {what} {name} is quantised" if name else "a module keeps a quantised tensor",
            "morphsearch rewrites floating-point networks",
            "record the floating-point network, and quantise what comes out",
        )
    if is_parameter:
        return nn.Parameter(on_meta(tensor), requires_grad=False) if meta else tensor
    if not meta:
        return tensor.detach().clone()
    twin = on_meta(tensor)
    if not tensor.is_floating_point() and not tensor.is_complex() and not tensor.is_meta:
        know(twin, tensor.detach().cpu())  # an index must keep its numbers
    return twin
