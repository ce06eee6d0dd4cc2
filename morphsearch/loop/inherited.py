"""The network that inherited weights are of.

An architecture is widths, and a network at these widths is the one that the search trained, up to the order of units.
Not where forward code takes channels of one group by their place (the first quarter is shifted, channels are shuffled):
how many of a part are left depends on which units were kept, and with the same weights a network that was built from
widths computes something else. Which they were is in the files of the architecture and its parents.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from morphsearch.errors import GraphError, InputError
from morphsearch.files import load_into
from morphsearch.graph import record
from morphsearch.loop.architecture import FILE, Architecture
from morphsearch.loop.selection import from_positions
from morphsearch.loop.verification import inputs_like, relative_error

ALIKE = 1e-3  # relative: far above rounding in float32, far below what another network computes


def other_network(architecture: Architecture, *, allow_code: bool = False) -> nn.Module | None:
    """The network that the inherited weights were trained in, with them, where one that is built from the widths
    computes something else with them; None where it does not, or where files of parents do not tell.

    Raises:
        InputError: the seed cannot be built, or is not that of the architecture.
    """
    if architecture.path is None or architecture.path.parent.parent.name != "iterations":
        return None  # a copy, such as beside sparse weights
    seed = architecture.seed(allow_code=allow_code)
    built = architecture.apply(copy.deepcopy(seed))
    try:
        trained = _followed(architecture, seed)
        weights = architecture.weights()
        for network in (built, trained):
            load_into(network, weights)
    except (GraphError, InputError, RuntimeError):
        return None
    dtype = next((p.dtype for p in built.parameters() if p.is_floating_point()), torch.float32)
    args, kwargs = inputs_like(architecture.example_inputs(), torch.Generator().manual_seed(0), dtype)
    outputs = []
    for network in (trained, built):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            outputs.append(copy.deepcopy(network).eval()(*copy.deepcopy(args), **copy.deepcopy(kwargs)))
    return trained if relative_error(*outputs) > ALIKE else None


def _followed(architecture: Architecture, seed: nn.Module) -> nn.Module:
    """The seed cut as the search cut it, parent by parent."""
    chain = [architecture]
    while chain[0].parent is not None:
        if chain[0].path is None:
            raise InputError("an architecture without a file", "parents lie beside it", "load it from a run")
        chain.insert(0, Architecture.load(chain[0].path.parent.parent / chain[0].parent / FILE))
    graph = architecture.graph(seed)
    for one in chain:
        if one.kept.keys() != graph.groups.keys():
            raise InputError(f"architecture {one.name!r} does not say what it kept", "runs do", "load it from a run")
        network, plan = graph.planned(from_positions(graph, one.kept))
        graph = record(network, architecture.example_inputs(), decisions=plan.decisions or graph.decisions)
    return graph.model
