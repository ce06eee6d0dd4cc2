"""Modules of the seed run alone, as the recording saw them called.

A recording keeps what each module was called with and what it gave, so that what the trace of one gives is found
without the network around it, and without running the modules inside. Modules of the same code that were called with
tensors of the same sizes and ran the same operations on them are run once: a node of the others gave what stands at the
same place in the recording.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from morphsearch.graph.labels import Labels
from morphsearch.graph.modes import recording
from morphsearch.graph.outside import kept_outside
from morphsearch.graph.paths import modules_of
from morphsearch.graph.recording import default_rules, stand_ins
from morphsearch.graph.running import NodeFacts, Watch
from morphsearch.graph.state import as_it_was
from morphsearch.graph.tape import RawOperation, Tape, Values
from morphsearch.graph.through import Fixed, Seen, through_traces, traced
from morphsearch.graph.tracing import alike, comparable

WORTH = 2  # how many times fewer operations than the whole network runs modules alone must run


@dataclass(frozen=True)
class Part:
    """A module as it was called: the operations that its own code ran, on the seed's tape, and the modules inside, by
    path, of which it is known what they gave."""

    path: str
    given: Values
    steps: list[int]
    inside: dict[str, Values]

    def labels(self, operations: Sequence[RawOperation]) -> list[Labels]:
        """All that tensors in its code may have: of what it was given, of what modules inside gave, and of what its
        `operations` gave."""
        known = [labels for one in (self.given, *self.inside.values()) for _, labels in one.labels]
        return known + [labels for operation in operations for labels in operation.outputs]

    def within(self, path: str) -> str:
        """The name that a module or parameter at `path` has in this one."""
        return "" if path == self.path else path.removeprefix(f"{self.path}." if self.path else "")


def parts_of(seed: Tape, paths: Collection[str]) -> dict[str, Part]:
    """The modules at `paths`, each as a part of its own, without those that were called several times, or in a way that
    is not known."""
    if not seed.on_meta or seed.storages:
        return {}
    found: dict[str, Part] = {}
    for path in paths:
        call = seed.calls.get(path)
        if call is not None and call.given is not None:
            found[path] = Part(path, call.given, [], {})
    known = {path: call.made for path, call in seed.calls.items() if call is not None and call.made is not None}
    around: dict[str, list[tuple[Part, str | None]]] = {}
    for path in dict.fromkeys([*known, *(operation.module for operation in seed.operations)]):
        # From the module itself outwards: in each part the outermost module that is known hides what lies within.
        hidden: str | None = None
        around[path] = []
        for one in _outwards(path):
            if one in found:
                around[path].append((found[one], hidden))
            hidden = one if one in known else hidden
    for path, made in known.items():
        for part, hidden in around[path]:
            if hidden == path:
                part.inside[path] = made
    for index, operation in enumerate(seed.operations):
        for part, hidden in around[operation.module]:
            if hidden is None and operation.kind != "output":  # which no code runs
                part.steps.append(index)
    return found


def _outwards(path: str) -> Iterator[str]:
    """`path`, and the modules around it up to the network."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def run_alone(modules: Mapping[str, nn.Module], part: Part, tape: Tape, seed: Tape) -> bool:
    """Run one of the seed's modules, as it was called; False where its code does something else than it did then. Its
    operations come on `tape` after all of the seed's."""
    before = len(seed.operations)
    tape.operations, tape.pairs = list(seed.operations), seed.pairs
    try:
        with _as_called(modules, part, tape) as module:
            module(*_put(tape, part.given))
    except Exception:  # its keyword arguments are not known
        return False
    new = [(one.kind, one.module) for one in tape.operations[before:]]
    return new == [(seed.operations[i].kind, seed.operations[i].module) for i in part.steps]


def _put(tape: Tape, values: Values) -> Any:
    """The values, their tensors labelled as they were; lists are copied, since code may go on to fill them."""
    for tensor, labels in values.labels:
        tape.put(tensor, labels)
    return tree_map(lambda leaf: leaf, values.values)


@contextmanager
def _as_called(every: Mapping[str, nn.Module], part: Part, tape: Tape) -> Iterator[nn.Module]:
    """A module on shapes alone, in evaluation mode, under `tape`; modules inside give what they gave."""
    prefix = f"{part.path}." if part.path else ""
    modules = [one for one in every.items() if one[0] == part.path or one[0].startswith(prefix)]
    tape.on_meta = True
    own = [module for _, module in modules]
    with ExitStack() as stack:
        stack.enter_context(as_it_was(own))
        stack.enter_context(kept_outside(own))
        stack.enter_context(torch.no_grad())
        stack.enter_context(stand_ins(modules, tape, meta=True))
        for path, made in part.inside.items():
            every[path].forward = _Gave(tape, made)  # taken back with all that modules hold
        every[part.path].eval()
        with recording(tape, default_rules()):
            yield every[part.path]


@dataclass(eq=False)
class _Gave:
    """Stands for the forward method of a module of which it is known what it gave."""

    tape: Tape
    made: Values

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _put(self.tape, self.made)


def seen_alone(model: nn.Module, paths: Sequence[str], seed: Tape) -> dict[str, Seen | None]:
    """What traces of the modules at `paths` give, None for those that have none; nothing of modules that must be seen
    within the whole network, and nothing at all where that would be as quick."""
    parts = parts_of(seed, paths)
    if len(parts) < len(paths):
        return {}
    modules = modules_of(model)
    kinds: dict[Any, list[Part]] = {}
    for path, part in parts.items():
        kinds.setdefault(_kind(modules[path], part, seed) or path, []).append(part)
    if WORTH * sum(len(like[0].steps) for like in kinds.values()) > len(seed.operations):
        return {}
    found: dict[str, Seen | None] = {}
    for first, *others in kinds.values():
        one = _seen(model, modules, first, seed)
        if one is None:
            continue
        found[first.path] = one.seen
        for part in others:
            told = one.of(part, seed)
            alone = _seen(model, modules, part, seed) if told is None else None
            if told is not None or alone is not None:
                found[part.path] = alone.seen if alone is not None else told
    return found


def _kind(module: nn.Module, part: Part, seed: Tape) -> tuple[Any, ...] | None:
    """Equal for modules of which one may stand for the others; None where that cannot be said."""
    code = alike(module)
    values = [_sizes(one) for one in (part.given, *part.inside.values())]
    if code is None or None in values:
        return None
    ran = []
    for index in part.steps:
        one = seed.operations[index]
        sizes = tuple(labels.shape for labels in (*one.inputs, *one.outputs))
        own = tuple((role, part.within(name)) for role, name in one.parameters.items())
        ran.append((one.kind, part.within(one.module), len(one.inputs), sizes, own))
    return code, tuple(map(part.within, part.inside)), tuple(values), tuple(ran)


def _sizes(values: Values) -> tuple[Any, ...] | None:
    """Equal for values that are alike but for the numbers in tensors; None where that cannot be said."""
    leaves, structure = tree_flatten(values.values)
    places = {id(leaf): place for place, leaf in reversed(list(enumerate(leaves)))}
    found: list[Any] = []
    for leaf in leaves:
        plain = None if isinstance(leaf, Tensor) else comparable(leaf)
        if plain is None and not isinstance(leaf, Tensor):
            return None
        found.append(plain or (places[id(leaf)], leaf.shape, leaf.stride(), leaf.dtype))
    return repr(structure), tuple(found), tuple(places.get(id(tensor)) for tensor, _ in values.labels)


@dataclass(frozen=True)
class _One:
    """What was seen of the module that stands for others, None without a trace; `places`: of the labels in its code."""

    part: Part
    seen: Seen | None
    places: Mapping[int, int]

    def of(self, part: Part, seed: Tape) -> Seen | None:
        """The same of another module; None where it cannot be told."""
        if self.seen is None:
            return None
        labels = part.labels([seed.operations[index] for index in part.steps])
        facts = {name: self._moved(fact, part, labels) for name, fact in self.seen.facts.items()}
        told = {name: fact for name, fact in facts.items() if fact is not None}
        return Seen(self.seen.fixed, self.seen.lengths, told) if len(told) == len(facts) else None

    def _moved(self, fact: NodeFacts, part: Part, labels: Sequence[Labels]) -> NodeFacts | None:
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(fact.value)):
            return None
        own = fact.labels
        if own is None:
            return fact
        if own.parameter is None:
            place = self.places.get(id(own))
            return None if place is None else NodeFacts(labels[place], fact.several, fact.value)
        name = self.part.within(own.parameter)
        if name == own.parameter or not name:  # of another module, or of several parameters
            return None
        its = Labels(own.ids, own.shape, -1, f"{part.path}.{name}", own.second)
        return NodeFacts(its, fact.several, fact.value)


def _seen(model: nn.Module, modules: Mapping[str, nn.Module], part: Part, seed: Tape) -> _One | None:
    """Run a module through its trace; None where that is not what its code does."""
    tape = Tape(model, seed.identifiers, seed.next_id, seed.decisions, modules)
    module = modules[part.path]
    watches: list[tuple[Fixed, dict[str, int], Watch]] = []

    def through(given: Fixed) -> fx.Interpreter | None:
        lengths = vars(module)["forward"].lengths
        graph = traced(module, given, [tape], seed.graphs)
        if graph is not None:
            watches.append((given, lengths, Watch(module, graph, [tape])))
        return watches[-1][2] if watches else None

    with through_traces({module: through}) as several:
        if not run_alone(modules, part, tape, seed):
            return None
    if not watches or module in several:
        return _One(part, None, {})
    fixed, lengths, watch = watches[0]
    labels = part.labels(tape.operations[len(seed.operations) :])
    places = {id(one): place for place, one in reversed(list(enumerate(labels)))}
    return _One(part, Seen(fixed, lengths, watch.facts), places)


__all__ = ["Part", "parts_of", "run_alone", "seen_alone"]
