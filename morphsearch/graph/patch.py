"""Code with sizes written into it: trace the one module that holds it, and replace what went wrong.

Most forward code follows its tensors and needs nothing. Where it cannot (``chunk`` when one half loses more than the
other,
a channel shuffle of uneven halves, ``view(b, 512)``), the smallest module that runs it is traced with ``torch.fx``, its
children left whole. The trace is then run inside a recording of the seed and inside one of the new network; a node that
moves channels and does not bring what it should is replaced by a selection of the right channels from its source.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
from torch import fx, nn

from morphsearch.errors import GraphError
from morphsearch.graph.edits import apply_edits
from morphsearch.graph.recording import run_tape
from morphsearch.graph.repair import Repair, Watch
from morphsearch.graph.resolve import Resolution
from morphsearch.graph.rewrite import Plan
from morphsearch.graph.tape import Tape
from morphsearch.graph.tracing import trace


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
    watches: dict[str, Watch] = {}
    tapes: list[Tape] = []
    seed_modules, twin_modules = dict(seed.named_modules()), dict(twin.named_modules())

    def blank_seed() -> Tape:
        tapes.append(Tape(seed, tape.identifiers, tape.next_id, tape.decisions))
        return tapes[-1]

    def blank_twin() -> Tape:
        tapes.append(Tape(twin, plan.ids, plan.first_free, tape.decisions))
        return tapes[-1]

    graphs = {path: graph for path in paths if (graph := trace(seed_modules[path])) is not None}
    with _all_running(
        {seed_modules[path]: Watch(seed_modules[path], graph, tapes) for path, graph in graphs.items()}
    ) as running:
        run_tape(seed, example_inputs, blank=blank_seed, modes=(tape.on_meta,))
        watches = {path: running[seed_modules[path]] for path in graphs}
    repairs: dict[nn.Module, Repair] = {}
    for path in graphs:
        graph = trace(twin_modules[path])
        if graph is None or not watches[path].facts:
            continue
        repairs[twin_modules[path]] = Repair(
            twin_modules[path], graph, tapes, watches[path], tape, resolution, plan, multiplicity
        )
    with _all_running(repairs), suppress(GraphError):  # the check that follows says what is still wrong
        run_tape(twin, example_inputs, blank=blank_twin, modes=(tape.on_meta,))
    for path in graphs:
        repair = repairs.get(twin_modules[path])
        if repair is None or not repair.log.edits:
            continue
        patched = apply_edits(twin_modules[path], repair.module, repair.log)
        if path == "":
            return patched
        parent, _, name = path.rpartition(".")
        setattr(twin.get_submodule(parent), name, patched)
    return twin


@contextmanager
def _running(module: nn.Module, interpreter: fx.Interpreter) -> Iterator[None]:
    """Calls of `module` go through the interpreter."""
    assert isinstance(interpreter.module, fx.GraphModule)
    names = [n.target for n in interpreter.module.graph.nodes if n.op == "placeholder"]

    def forward(*args: Any, **kwargs: Any) -> Any:
        rest = [kwargs[str(name)] for name in names[len(args) :] if str(name) in kwargs]
        return interpreter.run(*args, *rest)

    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@contextmanager
def _all_running(interpreters: dict[nn.Module, Any]) -> Iterator[dict[nn.Module, Any]]:

    with ExitStack() as stack:
        for module, interpreter in interpreters.items():
            stack.enter_context(_running(module, interpreter))
        yield interpreters
