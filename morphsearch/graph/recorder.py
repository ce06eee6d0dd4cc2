"""Recording a network: the graph, proven on a trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from morphsearch.arguments import named_arguments, require_module
from morphsearch.errors import GraphError
from morphsearch.graph import branches
from morphsearch.graph.checked import freeze_again, freeze_what_fails
from morphsearch.graph.graph import ConvGraph
from morphsearch.graph.grouping import regrouped, with_created, with_mixtures, with_parts
from morphsearch.graph.paths import modules_of
from morphsearch.graph.recording import run_tape, uncollected
from morphsearch.graph.rules.mixtures import MIXED
from morphsearch.graph.rules.moving import CREATED
from morphsearch.graph.tape import Tape


@named_arguments
@uncollected()
def record(
    model: nn.Module, example_inputs: Any, *, check: bool = True, decisions: Mapping[str, str] | None = None
) -> ConvGraph:
    """Record `model` by running it once on `example_inputs`.

    Args:
        model: any network that runs on the inputs; it is left as it was.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments.
        check: prove on a trial that every free group can really change its width, and freeze those that cannot, with
            the operation that is in the way.
        decisions: :attr:`ConvGraph.decisions` of the same network at other widths, whose groups this one must have.

    Raises:
        GraphError: the network fails on these inputs, or has nothing that could be recorded.
    """
    require_module(model, kind=GraphError)
    scripted = next(
        (path for path, module in modules_of(model).items() if isinstance(module, torch.jit.ScriptModule)), None
    )
    if scripted is not None:
        what = f"the module {scripted}" if scripted else "the model"
        raise GraphError(
            f"{what} is a scripted module", "its code cannot be rewritten", "pass it before torch.jit.script"
        )
    compiled = next(
        (path for path, module in modules_of(model).items() if type(module).__name__ == "OptimizedModule"), None
    )
    if compiled is not None:
        what = f"the module {compiled}" if compiled else "the model"
        raise GraphError(
            f"{what} was compiled by torch.compile",
            "what is compiled cannot be watched or rewritten",
            "pass the network itself (what torch.compile was given, its _orig_mod), and compile it afterwards",
        )
    proving = check and decisions is None

    def recorded(chosen: Mapping[str, str]) -> ConvGraph:
        def blank() -> Tape:
            tape = Tape(model, decisions=decisions)
            tape.decisions |= chosen
            tape.keeps_calls = proving
            return tape

        tape, evaluated, on_meta = run_tape(model, example_inputs, blank=blank)
        return ConvGraph(model, example_inputs, tape, evaluated, {}, on_meta)

    def checked(chosen: Mapping[str, str]) -> ConvGraph:
        if decisions is None:
            graph = with_mixtures(lambda more: recorded({**chosen, **more}))
            mixed = {key: value for key, value in graph.tape.decisions.items() if key.endswith(MIXED)}
            graph = regrouped(graph, lambda more: recorded({**chosen, **mixed, **more}))
        else:
            graph = freeze_again(recorded(chosen), decisions)
        return freeze_what_fails(graph) if check else graph

    graph = checked({})
    if proving:
        graph = with_created(graph, checked)
        made = {key: value for key, value in graph.tape.decisions.items() if CREATED in key}
        graph = with_parts(graph, lambda more: checked({**made, **more}))
        graph.tape.decisions |= branches.may_go(graph)
        graph.decide()
        graph.tape.calls.clear()
    return graph


__all__ = ["record"]
