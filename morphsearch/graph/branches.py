"""Whole branches that go: the network without groups whose units all left, and the layers that go with them.

What goes is what :mod:`~morphsearch.graph.flow` says. The rule of exactness: *every parameter of a layer that goes is
taken for zero*. So a residual branch adds nothing any more, not even the constant that the shift of its last norm or
the bias of its last layer would have added, and a dense input brings no channels. The module in which the branch met
the rest gets the code of its trace without it; modules that nobody calls any more give their place to an
``nn.Identity``, so that names stay what they were. The result is recorded again, and must have the operations,
parameters and units of the seed without those that went.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import fx, nn

from morphsearch.errors import GraphError
from morphsearch.graph.coupling import Coupling
from morphsearch.graph.edits import Trace, give_code
from morphsearch.graph.flow import Removal
from morphsearch.graph.paths import modules_of
from morphsearch.graph.plan import Plan, make_plan
from morphsearch.graph.recording import run_tape
from morphsearch.graph.resolve import Group, Resolution
from morphsearch.graph.rewrite import rebuild
from morphsearch.graph.steps import Mismatch
from morphsearch.graph.tape import Tape
from morphsearch.graph.tracing import name_of
from morphsearch.graph.watching import Watched, watch

if TYPE_CHECKING:
    from morphsearch.graph.graph import ConvGraph

# Decisions about branches: groups that may lose all their units, groups that have, and what groups were called before.
MAY_GO, GONE, NAMED = "may go:", "gone:", "named:"
LEFT = "all its units have left, and its layers with them"

MOST_TRIES = 24  # rewrites that are tried to find the branches that may go all at once

_SUMS = frozenset((operator.add, operator.iadd, operator.sub, operator.isub))
_SUM_NAMES = frozenset("add add_ sub sub_ __add__ __iadd__ __radd__".split())


def decided(resolution: Resolution, decisions: Mapping[str, str]) -> Resolution:
    """`resolution` with the names and floors that were decided, and with the groups that are gone, of width 0."""
    names = {key[len(NAMED) :]: name for key, name in decisions.items() if key.startswith(NAMED)}
    groups: dict[str, Group] = {}
    for found, group in resolution.groups.items():
        name = names.get(found, found)
        floor = 0 if MAY_GO + name in decisions and group.frozen is None else group.floor
        groups[name] = replace(group, name=name, floor=floor)
    for key in decisions:
        if key.startswith(GONE) and key[len(GONE) :] not in groups:
            name = key[len(GONE) :]
            groups[name] = Group(name, width=0, floor=0, frozen=LEFT)
    return replace(resolution, groups=groups)


def may_go(graph: ConvGraph) -> dict[str, str]:
    """Decisions on the groups that may lose all their units, each and all at once.

    Two branches that end in each kind of module are tried, and proven by recording: modules of one type that run the
    same operations have the same code. (Every later rewrite is recorded again in any case.)
    """
    coupling = Coupling(graph)

    def good(found: set[str]) -> bool:
        removal = graph.gone_with(found)
        return removal is not None and coupling.stays(removal)

    may = {name: found for name in graph.free if good({name}) and (found := graph.gone_with([name])) is not None}
    alone = coupling.robust(sorted(may, key=lambda name: len(may[name].joins)))
    left = _extend(graph, set(), alone, good)
    of_module = _kinds(graph)
    removals = {name: found for name, found in may.items() if name in left}
    kinds = {
        name: frozenset(of_module[graph.tape.operations[join].module] for join in removal.joins)
        for name, removal in removals.items()
    }
    joins = {name: len(removals[name].joins) for name in kinds}  # those that end in fewest places are quickest tried
    once: set[frozenset[Kind]] = set()  # kinds of which some did not go, but others may
    for _ in range(MOST_TRIES):
        same: dict[frozenset[Kind], list[str]] = {}
        for name, kind in kinds.items():
            same.setdefault(kind, []).append(name)
        failed = _failure(graph, {name for like in same.values() for name in sorted(like, key=joins.__getitem__)[:2]})
        if failed is None:
            return {MAY_GO + name: "its branch can be left out" for name in kinds}
        blamed = {name for name in kinds if failed in removals[name].operations}
        if blamed:  # an operation that still runs, elsewhere than where its branch ends
            again = {kinds[name] for name in blamed} & once
            once |= {kinds[name] for name in blamed}
            kinds = {name: kind for name, kind in kinds.items() if name not in blamed and kind not in again}
            continue
        wide = {name for name, kind in kinds.items() if len(_places(graph, removals[name])) > 1}
        if wide and len(wide) < len(kinds):  # what ends in several modules may be to blame, not their code
            kinds = {name: kind for name, kind in kinds.items() if name not in wide}
            continue
        wrong = of_module[graph.tape.operations[failed].module] if failed >= 0 else None
        kinds = {name: kind for name, kind in kinds.items() if wrong is not None and wrong not in kind}
    return {}


def _extend(graph: ConvGraph, chosen: set[str], more: list[str], good: Callable[[set[str]], bool]) -> set[str]:
    """`chosen` with as many of `more` as stay good together: all at once, else each half in turn."""
    if not more or good(chosen | set(more)):
        return chosen | set(more)
    if len(more) == 1:
        return chosen
    half = len(more) // 2
    return _extend(graph, _extend(graph, chosen, more[:half], good), more[half:], good)


def _failure(graph: ConvGraph, names: set[str]) -> int | None:
    """The operation that is in the way of all these groups going at once; None where none is."""
    try:
        if names:
            _recorded_without(graph, names, trial=True)
    except Mismatch as mismatch:
        return mismatch.operation
    return None


def _places(graph: ConvGraph, removal: Removal) -> set[str]:
    """The modules in which what goes met the rest."""
    return {graph.tape.operations[join].module for join in removal.joins}


Kind = tuple[str, ...]


def _kinds(graph: ConvGraph) -> dict[str, Kind]:
    """Of modules by path: their type, and the operations that their own code runs."""
    types = {path: type(module) for path, module in modules_of(graph.model).items()}
    found: dict[str, list[str]] = {}
    for operation in graph.tape.operations:
        kind = types.get(operation.module)
        own = found.setdefault(operation.module, [f"{kind.__module__}.{kind.__qualname__}" if kind else ""])
        own.append(operation.kind)
    return {path: tuple(own) for path, own in found.items()}


@dataclass
class Rest:
    """A network without branches: its graph, and for each of its `v` units the seed's."""

    graph: ConvGraph
    units: np.ndarray


def without(graph: ConvGraph, names: Iterable[str]) -> Rest:
    """The network without groups and all that goes with them, else as wide as the seed.

    Raises:
        Mismatch: a module whose code cannot be traced is in the way, or another network came out than should.
    """
    from morphsearch.graph.checked import freeze_again

    rest = _recorded_without(graph, names, trial=False)
    tape, groups = rest.graph.tape, list(graph.groups)
    # Groups are called after their first layer, which may be gone: they keep their names.
    for name in rest.graph.groups:
        members = rest.graph.units_of(name)
        if members.size:
            former = groups[graph.unit_group[rest.units[members[0]]]]
            tape.decisions |= {NAMED + name: former} if former != name else {}
    rest.graph.decide()
    return replace(rest, graph=freeze_again(rest.graph, tape.decisions))


def _recorded_without(graph: ConvGraph, names: Iterable[str], *, trial: bool) -> Rest:
    """What :func:`without` proves, before groups are given the seed's names; a `trial` is on shapes alone, or else with
    the seed's own parameters."""
    from morphsearch.graph.graph import ConvGraph as Graph

    removal = graph.gone_with(names)
    if removal is None:
        raise Mismatch(-1, "what these groups compute cannot be left out")
    watched = _ends(graph, removal)  # first: it is told there that some code cannot be traced
    plan = make_plan(graph.tape, graph.resolution, ~np.isin(graph.unit_group, list(removal.groups)) * np.int64(1))
    twin = rebuild(graph.model, graph.tape, plan, meta=trial and graph.on_meta, share=trial and not graph.on_meta)
    new_modules = modules_of(twin)
    for path, found in watched.items():
        _edit(graph, path, new_modules[path], found, removal)
    groups = list(graph.groups)
    decisions = graph.decisions | {GONE + groups[one]: LEFT for one in removal.groups}

    def blank() -> Tape:
        tape = Tape(twin, decisions=decisions)
        tape.remembers = not trial or not graph.on_meta
        return tape

    try:
        tape, evaluated, on_meta = run_tape(
            twin,
            graph.example_inputs,
            blank=blank,
            modes=(graph.on_meta,),
            like=graph.tape,
        )
    except GraphError as error:
        raise Mismatch(min(removal.joins), error.arrived) from error
    _check_operations(graph.tape, tape, removal)
    tape.decisions = {key: name for key, name in decisions.items() if not key.startswith(NAMED)}
    rest = Graph(twin, graph.example_inputs, tape, evaluated, {}, on_meta)
    return Rest(rest, _same_units(graph, rest, removal, plan))


def _ends(graph: ConvGraph, removal: Removal) -> dict[str, Watched]:
    """The traces of the modules where branches end.

    Raises:
        Mismatch: the code of one of them cannot be traced.
    """
    paths = sorted({graph.tape.operations[join].module for join in removal.joins})
    try:
        watched = watch(graph.model, graph.example_inputs, graph.tape, paths)
    except GraphError as error:  # the trace of some module does not do what its code does
        raise Mismatch(min(removal.joins), error.arrived) from error
    found: dict[str, Watched] = {}
    for path in paths:
        one = watched[path]
        if one is None:
            join = next(i for i in sorted(removal.joins) if graph.tape.operations[i].module == path)
            raise Mismatch(join, "its module's code cannot be traced")
        found[path] = one
    return found


def _edit(graph: ConvGraph, path: str, module: nn.Module, watched: Watched, removal: Removal) -> None:
    """Take what is gone out of the code of `module`."""
    traced = Trace(module, copy.deepcopy(watched.graph))
    nodes = list(traced.graph.nodes)
    gone = {node for node in nodes if watched.makers.get(node.name) in removal.operations}
    idle = {node for node in nodes if not node.users and node.op != "output"}
    for node in nodes:
        if node in gone or not gone & set(node.all_input_nodes):
            continue
        rest = [one for one in node.all_input_nodes if one not in gone]
        if node.op in ("call_function", "call_method") and _is_sum(node) and len(rest) == 1:
            if any(_writes(module, user) for user in node.users):
                with traced.graph.inserting_before(node):
                    rest = [traced.graph.call_method("clone", (rest[0],))]
            node.replace_all_uses_with(rest[0])
        elif node.op != "output":
            node.args = tuple(_kept(argument, gone) for argument in node.args)
            node.kwargs = {key: _kept(argument, gone) for key, argument in node.kwargs.items()}
    needed = _needed([node for node in traced.graph.nodes if node.op in ("output", "placeholder")])
    # What nobody reads stays where it has nothing to do with the branch: it may write somewhere.
    aside = [node for node in idle if node.op != "placeholder" and not _needed([node]) & gone]
    needed |= _needed(aside)
    if needed & gone - {node for node in gone if node.op == "placeholder"}:
        raise Mismatch(min(removal.joins), f"the code of {path or 'the network'} uses the branch in another way too")
    called = {str(node.target) for node in traced.graph.nodes if node.op in ("call_module", "get_attr")}
    for node in reversed(list(traced.graph.nodes)):
        if node not in needed:
            traced.graph.erase_node(node)
    left = {str(node.target) for node in traced.graph.nodes if node.op in ("call_module", "get_attr")}
    give_code(module, traced)
    _take_out(graph, path, module, called - left, removal)


def _is_sum(node: fx.Node) -> bool:
    return node.target in _SUMS or getattr(node.target, "__name__", node.target) in _SUM_NAMES


def _writes(module: nn.Module, node: fx.Node) -> bool:
    """Whether a node may write into what it is given."""
    if node.op == "call_module":
        return any(getattr(one, "inplace", False) for one in module.get_submodule(str(node.target)).modules())
    name = name_of(node)
    written = name.startswith("i") and node.target is getattr(operator, name, None)
    return bool(node.kwargs.get("inplace")) or True in node.args[1:] or name.endswith("_") or written


def _kept(argument: Any, gone: set[fx.Node]) -> Any:
    """`argument` without what is gone in its lists."""
    if isinstance(argument, dict):
        return {key: _kept(value, gone) for key, value in argument.items()}
    if isinstance(argument, (list, tuple)):
        inner = [_kept(value, gone) for value in argument]
        listed = [value for value in inner if not isinstance(value, fx.Node) or value not in gone]
        return type(argument)(listed if all(isinstance(value, fx.Node) for value in inner) else inner)
    return argument


def _needed(nodes: list[fx.Node]) -> set[fx.Node]:
    """`nodes` and all that they are computed from."""
    found: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += node.all_input_nodes
    return found


def _take_out(graph: ConvGraph, path: str, module: nn.Module, targets: set[str], removal: Removal) -> None:
    """Take modules and parameters that the code of `module` no longer asks for out of it."""
    for target in sorted(targets):
        full = f"{path}.{target}" if path else target
        parent, _, name = target.rpartition(".")
        owner = module.get_submodule(parent)
        if isinstance(owner._modules.get(name), nn.Module):
            ran = [i for i, one in enumerate(graph.tape.operations) if f"{one.module}.".startswith(f"{full}.")]
            if ran and removal.operations.issuperset(ran):
                owner._modules[name] = nn.Identity()
        elif full in removal.parameters:
            (owner._parameters if name in owner._parameters else owner._buffers)[name] = None


def _check_operations(seed: Tape, tape: Tape, removal: Removal) -> None:
    """The network that came out does what the seed did, without what went."""

    def done(one: Tape, but: frozenset[int]) -> list[tuple[str, str]]:
        steps = [(o.kind, o.module) for i, o in enumerate(one.operations) if i not in but]
        return [step for step in steps if step[0] != "clone"]

    sums = frozenset(i for i in removal.joins if seed.operations[i].kind in ("add", "sub"))
    wanted = done(seed, removal.operations | sums)
    found = done(tape, frozenset())
    if wanted != found:
        extra = next((step for step, other in zip_longest(found, wanted) if step != other), None)
        still = [i for i in sorted(removal.operations) if (seed.operations[i].kind, seed.operations[i].module) == extra]
        raise Mismatch([*still, min(removal.joins)][0], "the network without this branch does something else")
    names = {name for operation in tape.operations for name in operation.parameters.values()}
    if names & removal.parameters or removal.parameters & tape.shapes.keys():
        raise Mismatch(min(removal.joins), "parameters of the branch are still in use")


def _same_units(graph: ConvGraph, found: ConvGraph, removal: Removal, plan: Plan) -> np.ndarray:
    """`v` int64: the seed's unit for every unit of the network without branches.

    Raises:
        Mismatch: units or groups are not those of the seed without those that are gone.
    """
    wrong = Mismatch(min(removal.joins), "its channels are coupled in another way without this branch")
    units = np.full(found.num_units, -1, np.int64)
    before, after = graph.resolution.unit_of, found.resolution.unit_of
    identifiers = graph.tape.identifiers
    for slot, ids in found.tape.slots.items():
        if slot not in plan.gather:
            raise wrong
        old, new = before[identifiers[slot][plan.gather[slot]]], after[ids]
        if old.size != new.size or ((old >= 0) != (new >= 0)).any():
            raise wrong
        held = new >= 0
        units[new[held]] = np.where(units[new[held]] < 0, old[held], units[new[held]])
        if (units[new[held]] != old[held]).any():
            raise wrong
    staying = np.nonzero(~np.isin(graph.unit_group, list(removal.groups)))[0]
    if not np.array_equal(np.sort(units), staying):  # where the first of several makers went, they come later
        raise wrong
    # Neighbours mostly are of one group: it is enough to look where either group changes.
    new, old = found.unit_group, graph.unit_group[units]
    starts = np.flatnonzero(np.append(True, (np.diff(new) != 0) | (np.diff(old) != 0))[: new.size])
    pairs = set(zip(new[starts].tolist(), old[starts].tolist(), strict=True))
    if len(pairs) != len({one for one, _ in pairs}) or len(pairs) != len({one for _, one in pairs}):
        raise wrong
    return units
