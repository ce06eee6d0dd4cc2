"""Which node of a module's trace is which operation of the recording.

The trace of a module runs in place of its code, once, and every node is asked which operation made its tensor. One
module alone is run for that, as the recording saw it called; where that cannot be, the whole network is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import fx, nn

from morphsearch.graph.alone import Part, parts_of, run_alone
from morphsearch.graph.paths import modules_of
from morphsearch.graph.recording import run_tape
from morphsearch.graph.running import NodeFacts, Watch
from morphsearch.graph.tape import Tape
from morphsearch.graph.through import Fixed, through_traces, traced


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
    modules = modules_of(model)
    for path, part in parts_of(seed, missing).items():
        seed.watched |= _watched(model, modules, [path], seed, partial(_alone, modules, part, seed=seed)) or {}
    rest = [path for path in missing if path not in seed.watched]
    if rest:
        seed.watched |= _watched(model, modules, rest, seed, partial(_whole, model, example_inputs, seed=seed)) or {}
    return {path: seed.watched[path] for path in paths}


def _watched(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    paths: list[str],
    seed: Tape,
    run: Callable[[Tape], Mapping[int, int] | None],
) -> dict[str, Watched | None] | None:
    """What `run` shows of the modules at `paths`; it gives the seed's operations for those of its tape, or None."""
    tape = Tape(model, seed.identifiers, seed.next_id, seed.decisions, modules)
    watches: dict[str, Watch] = {}

    def through(path: str) -> Callable[[Fixed], fx.Interpreter | None]:
        def make(given: Fixed) -> fx.Interpreter | None:
            graph = traced(modules[path], given, [tape], seed.graphs)
            if graph is not None:
                watches[path] = Watch(modules[path], graph, [tape])
            return watches.get(path)

        return make

    with through_traces({modules[path]: through(path) for path in paths}) as several:
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


def _alone(modules: Mapping[str, nn.Module], part: Part, tape: Tape, seed: Tape) -> dict[int, int] | None:
    """Run one module, as it was called; None where that cannot be, or it does something else."""
    if not run_alone(modules, part, tape, seed):
        return None
    before = len(seed.operations)
    return dict(enumerate(range(before))) | dict(enumerate(part.steps, before))


__all__ = ["Watched", "watch"]
