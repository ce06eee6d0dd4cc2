"""Code with sizes written into it: trace the one module that holds it, and replace what went wrong.

Most forward code follows its tensors and needs nothing. Where it cannot (``chunk`` when one half loses more than the
other,
a channel shuffle of uneven halves, ``view(b, 512)``), the smallest module that runs it is traced with ``torch.fx``, its
children left whole. The trace is then run inside a recording of the seed and inside one of the new network; a node that
moves channels and does not bring what it should is replaced by a selection of the right channels from its source.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch import fx, nn

from morphsearch.errors import GraphError
from morphsearch.graph.alone import seen_alone
from morphsearch.graph.edits import Patched, apply_edits
from morphsearch.graph.following import new_shape
from morphsearch.graph.labels import Labels
from morphsearch.graph.paths import modules_of
from morphsearch.graph.plan import Plan
from morphsearch.graph.recording import run_tape
from morphsearch.graph.repair import Repair
from morphsearch.graph.resolve import Resolution
from morphsearch.graph.running import Watch
from morphsearch.graph.steps import forget_frames
from morphsearch.graph.tape import Tape
from morphsearch.graph.through import Fixed, Seen, through_traces, traced
from morphsearch.graph.written import Site, watching, write


def patch_modules(
    seed: nn.Module,
    twin: nn.Module,
    paths: list[str],
    example_inputs: Any,
    tape: Tape,
    resolution: Resolution,
    plan: Plan,
    multiplicity: np.ndarray,
) -> nn.Module:
    """Replace, in `twin`, the modules at `paths` by traces that bring the right channels. Returns the network."""
    tapes: list[Tape] = []
    twin_modules = modules_of(twin)

    def blank_twin() -> Tape:
        tapes.append(Tape(twin, plan.ids, plan.first_free, tape.decisions))
        return tapes[-1]

    seen = seen_in(seed, paths, example_inputs, tape)

    def repair_of(path: str) -> Callable[[Fixed], fx.Interpreter | None]:
        def make(given: Fixed) -> fx.Interpreter | None:
            graph = traced(twin_modules[path], given, tapes, tape.graphs)
            if graph is not None and seen[path].fixed == given:
                repairs[path] = Repair(
                    twin_modules[path], graph, tapes, seen[path].facts, tape, resolution, plan, multiplicity
                )
            return repairs.get(path)

        return make

    repairs: dict[str, Repair] = {}
    own = [path for path in paths if path not in seen]
    untraced = _written(seed, own, example_inputs, tape)
    paths = [path for path in paths if path in seen]
    fit = partial(new_shape, tape=tape, resolution=resolution, multiplicity=multiplicity)
    with (
        through_traces({twin_modules[path]: repair_of(path) for path in paths}) as several,
        watching(
            {path: twin_modules[path] for path in own},
            tapes,
            untraced,
            fit,
            beside={path: twin_modules[path] for path in untraced if path not in own},
        ) as watches,
    ):
        try:
            run_tape(twin, example_inputs, blank=blank_twin, modes=(tape.on_meta,), like=tape)
        except GraphError as error:  # the check that follows says what is still wrong
            forget_frames(error)
    paths = [path for path in paths if twin_modules[path] not in several]
    known: Patched = {}
    for path in paths:
        repair = repairs.get(path)
        if repair is None or not repair.log.edits:
            continue
        # After the recording, since the modules held stand-ins for their parameters meanwhile.
        apply_edits(twin_modules[path], repair.graph, repair.log, known)
    for path, watch in watches.items():
        write(twin_modules[path], watch.edits)
    return twin


def _written(seed: nn.Module, paths: list[str], example_inputs: Any, tape: Tape) -> dict[str, dict[Site, list[Labels]]]:
    """What calls with sizes gave in the code of the seed's modules at `paths`, which cannot be traced, and in methods
    of others that this code calls."""
    if not paths:
        return {}
    modules = modules_of(seed)
    missing = [path for path in paths if path not in tape.written]
    if missing:
        tapes: list[Tape] = []

        def blank() -> Tape:
            tapes.append(Tape(seed, tape.identifiers, tape.next_id, tape.decisions))
            return tapes[-1]

        found: dict[str, dict[Site, list[Labels]]] = {path: {} for path in modules}
        beside = {path: module for path, module in modules.items() if path not in missing}
        with watching({path: modules[path] for path in missing}, tapes, found, beside=beside):
            run_tape(seed, example_inputs, blank=blank, modes=(tape.on_meta,), like=tape)
        tape.written |= {path: {} for path in missing} | {path: sites for path, sites in found.items() if sites}
    return {path: sites for path, sites in tape.written.items() if sites or path in paths}


def seen_in(seed: nn.Module, paths: list[str], example_inputs: Any, tape: Tape) -> dict[str, Seen]:
    """Run the seed through the traces of its modules at `paths`; those that cannot be traced, or are called in several
    ways, are left out. Every module is run once for all rewrites of a recording: the seed's code does not change."""
    missing = [path for path in paths if path not in tape.traces]
    if missing:
        tape.traces |= seen_alone(seed, missing, tape)
        missing = [path for path in missing if path not in tape.traces]
    if missing:
        _watch(seed, missing, example_inputs, tape)
    return {path: found for path in paths if (found := tape.traces[path]) is not None}


def _watch(seed: nn.Module, paths: list[str], example_inputs: Any, tape: Tape) -> None:
    """Fill ``tape.traces`` for `paths`; a module whose trace does not do what its code does is left out."""
    modules = modules_of(seed)
    fixed: dict[str, Fixed] = {}
    lengths: dict[str, dict[str, int]] = {}
    watches: dict[str, Watch] = {}
    tapes: list[Tape] = []

    def blank() -> Tape:
        tapes.append(Tape(seed, tape.identifiers, tape.next_id, tape.decisions))
        return tapes[-1]

    def watch(path: str) -> Callable[[Fixed], fx.Interpreter | None]:
        def make(given: Fixed) -> fx.Interpreter | None:
            own = vars(modules[path])["forward"]
            graph = traced(modules[path], given, tapes, tape.graphs)
            if graph is not None:
                fixed[path], lengths[path] = given, own.lengths
                watches[path] = Watch(modules[path], graph, tapes)
            return watches.get(path)

        return make

    try:
        with through_traces({modules[path]: watch(path) for path in paths}) as several:
            run_tape(seed, example_inputs, blank=blank, modes=(tape.on_meta,), like=tape)
    except GraphError as error:
        forget_frames(error)
        half = len(paths) // 2
        if not half:
            tape.traces[paths[0]] = None
            return
        _watch(seed, paths[:half], example_inputs, tape)
        _watch(seed, paths[half:], example_inputs, tape)
        return
    for path in paths:
        one = watches.get(path) if modules[path] not in several else None
        tape.traces[path] = Seen(fixed[path], lengths[path], one.facts) if one is not None else None
