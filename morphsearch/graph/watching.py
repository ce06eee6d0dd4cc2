"""Which node of a module's trace is which operation of the recording.

The trace of a module runs in place of its code, once, and every node is asked which operation made its tensor. One
module alone is run for that, as the recording saw it called; where that cannot be, the whole network is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from morphsearch.graph.modes import recording
from morphsearch.graph.outside import kept_outside
from morphsearch.graph.patch import Fixed, _all_running, _traced
from morphsearch.graph.paths import modules_of
from morphsearch.graph.recording import default_rules, run_tape, stand_ins
from morphsearch.graph.running import NodeFacts, Watch
from morphsearch.graph.state import as_it_was
from morphsearch.graph.tape import Tape


@dataclass(frozen=True)
class Watched:
    """The trace of a module; `makers`: of its nodes that are activations, the operation of the recording."""

    graph: fx.Graph
    makers: dict[str, int]


def watch(model: nn.Module, example_inputs: Any, seed: Tape, paths: Sequence[str]) -> dict[str, Watched | None]:
    """Watch the modules at `paths` of the network that `seed` recorded; None for those that cannot be traced.

    Each is watched once for all rewrites of a recording.

    Raises:
        GraphError: the trace of some module does not do what its code does.
    """
    missing = [path for path in paths if path not in seed.watched]
    alone = [path for path in missing if not any(path.startswith(f"{one}.") for one in missing if one)]
    for path in alone:
        inside = [one for one in missing if one == path or one.startswith(f"{path}.")]
        seed.watched |= _watched(model, inside, seed, partial(_alone, model, path, seed=seed)) or {}
    rest = [path for path in missing if path not in seed.watched]
    if rest:
        seed.watched |= _watched(model, rest, seed, partial(_whole, model, example_inputs, seed=seed)) or {}
    return {path: seed.watched[path] for path in paths}


def _watched(
    model: nn.Module, paths: list[str], seed: Tape, run: Callable[[Tape], Mapping[int, int] | None]
) -> dict[str, Watched | None] | None:
    """What `run` shows of the modules at `paths`; it gives the seed's operations for those of its tape, or None."""
    modules = modules_of(model)
    tape = Tape(model, seed.identifiers, seed.next_id, seed.decisions)
    watches: dict[str, Watch] = {}

    def through(path: str) -> Callable[[Fixed], fx.Interpreter | None]:
        def make(given: Fixed) -> fx.Interpreter | None:
            graph = _traced(modules[path], given, [tape], seed.graphs)
            if graph is not None:
                watches[path] = Watch(modules[path], graph, [tape])
            return watches.get(path)

        return make

    with _all_running({modules[path]: through(path) for path in paths}) as several:
        places = run(tape)
    if places is None:
        return None
    found: dict[str, Watched | None] = {}
    for path in paths:
        one = watches.get(path) if modules[path] not in several else None
        found[path] = Watched(one.graph, _makers(one.facts, places)) if one is not None else None
    return found


def _makers(facts: Mapping[str, NodeFacts], places: Mapping[int, int]) -> dict[str, int]:
    labels = {name: fact.labels for name, fact in facts.items() if fact.labels is not None}
    made = {name: places.get(one.producer) for name, one in labels.items() if one.parameter is None}
    return {name: operation for name, operation in made.items() if operation is not None}


def _whole(model: nn.Module, example_inputs: Any, tape: Tape, seed: Tape) -> dict[int, int]:
    """Run the network; a trace may do a little more than the code, so operations are counted among their kind."""
    run_tape(model, example_inputs, blank=lambda: tape, modes=(seed.on_meta,), like=seed)

    def numbered(one: Tape) -> dict[tuple[str, str, int], int]:
        seen: dict[tuple[str, str], int] = {}
        found = {}
        for index, operation in enumerate(one.operations):
            key = (operation.kind, operation.module)
            seen[key] = seen.get(key, 0) + 1
            found[*key, seen[key]] = index
        return found

    own = numbered(seed)
    return {index: own[key] for key, index in numbered(tape).items() if key in own}


def _alone(model: nn.Module, path: str, tape: Tape, seed: Tape) -> dict[int, int] | None:
    """Run the one module at `path`, as it was called; None where it is the network, was called several times, or does
    something else."""
    call = seed.calls.get(path) if path else None
    if call is None or not seed.on_meta or seed.storages:
        return None
    steps = [i for i, one in enumerate(seed.operations) if one.module == path or one.module.startswith(f"{path}.")]
    before = len(seed.operations)
    tape.operations, tape.pairs = list(seed.operations), seed.pairs
    try:
        with _as_called(model, path, tape):
            for tensor, labels in call.labels:
                tape.put(tensor, labels)
            model.get_submodule(path)(*call.args)
    except Exception:  # its keyword arguments are not known
        return None
    new = [(one.kind, one.module) for one in tape.operations[before:]]
    if new != [(seed.operations[i].kind, seed.operations[i].module) for i in steps]:
        return None
    return dict(enumerate(range(before))) | dict(enumerate(steps, before))


@contextmanager
def _as_called(model: nn.Module, path: str, tape: Tape) -> Iterator[None]:
    """The module at `path` on shapes alone, in evaluation mode, under `tape`."""
    modules = [one for one in modules_of(model).items() if one[0] == path or one[0].startswith(f"{path}.")]
    tape.on_meta = True
    own = [module for _, module in modules]
    with as_it_was(own), kept_outside(own), torch.no_grad(), stand_ins(modules, tape, meta=True):
        modules[0][1].eval()
        with recording(tape, default_rules()):
            yield


__all__ = ["Watched", "watch"]
