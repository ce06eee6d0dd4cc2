"""What every rewrite must hold, as checks on one network."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from morphsearch.graph import ConvGraph, record
from morphsearch.graph.precision import in_precision
from morphsearch.graph.recording import OUTPUT
from morphsearch.graph.tensors import tensors_in
from morphsearch.loop.verification import inputs_like, random_keep, randomise, relative_error, zeroed

TOLERANCE = 1e-6


def in_double(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy in float64 and evaluation mode, all weights and statistics random."""
    twin = in_precision(copy.deepcopy(model), torch.float64).eval()
    randomise(twin, torch.Generator().manual_seed(seed))
    return twin


def scaled(graph: ConvGraph, factor: float, skip: list[str] | tuple[str, ...] = ()) -> dict[str, int]:
    """Legal widths at `factor` times the seed's."""
    widths = {}
    for name in graph.free:
        if name not in skip:
            group = graph.groups[name]
            widths[name] = max(
                group.floor or group.multiple, int(group.width * factor) // group.multiple * group.multiple
            )
    return widths


def mixing(graph: ConvGraph) -> list[str]:
    """Free groups in which removal is not exact."""
    return [name for name in graph.free if graph.groups[name].mixes]


def outputs(model: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """What the network computes."""
    with torch.no_grad():
        return model(*call[0], **call[1])


def same_groups(graph: ConvGraph, network: nn.Module, inputs: Any, widths: dict[str, int]) -> None:
    """The rewritten network has the seed's groups, at the widths that were asked for."""
    assert record(network, inputs, check=False, decisions=graph.decisions).widths == graph.widths | widths


def shrinks_exactly(graph: ConvGraph, inputs: Any, seed: int, skip: list[str] | tuple[str, ...] = ()) -> nn.Module:
    """One random keep set: shrunk equals zeroed, names and groups stay."""
    return keeps_exactly(graph, inputs, random_keep(graph, np.random.default_rng(seed), skip=skip), seed)


def keeps_exactly(graph: ConvGraph, inputs: Any, keep: dict[str, list[int]], seed: int = 0) -> nn.Module:
    """The same of a given keep set."""
    call = inputs_like(inputs, torch.Generator().manual_seed(seed))
    shrunk = graph.shrink(keep)
    error = relative_error(outputs(zeroed(graph, keep), call), outputs(shrunk, call))
    assert error <= TOLERANCE, f"relative error {error:.3g} with keep={ {k: len(v) for k, v in keep.items()} }"
    assert list(shrunk.state_dict()) == list(graph.model.state_dict())
    same_groups(graph, shrunk, inputs, {name: len(kept) for name, kept in keep.items()})
    return shrunk


def widens_exactly(
    graph: ConvGraph, inputs: Any, factor: float = 1.5, skip: list[str] | tuple[str, ...] = ()
) -> nn.Module:
    """Net2Net widening computes what the seed computes."""
    widths = scaled(graph, factor, skip)
    call = inputs_like(inputs, torch.Generator().manual_seed(1))
    wide = graph.resize(widths, weights="widen")
    error = relative_error(outputs(graph.model, call), outputs(wide, call))
    assert error <= TOLERANCE, f"relative error {error:.3g} at widths {widths}"
    same_groups(graph, wide, inputs, widths)
    return wide


def resizes(graph: ConvGraph, inputs: Any, factor: float) -> nn.Module:
    """Fresh weights at other widths: the outputs keep their shapes, the groups are the seed's."""
    widths = scaled(graph, factor)
    call = inputs_like(inputs, torch.Generator().manual_seed(1))
    other = graph.resize(widths)
    before, after = tensors_in(outputs(graph.model, call)), tensors_in(outputs(other, call))
    assert [t.shape for t in before] == [t.shape for t in after]
    same_groups(graph, other, inputs, widths)
    return other


def trains(model: nn.Module, inputs: Any) -> None:
    """One forward and backward pass in training mode; every parameter that the network used has a gradient of its
    shape."""
    args, kwargs = inputs_like(inputs, torch.Generator().manual_seed(2))
    model.train()
    found = [t for t in tensors_in(model(*args, **kwargs)) if t.is_floating_point()]
    total: Tensor = sum((t.square().mean() for t in found), torch.zeros((), dtype=torch.float64))
    total.backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None for p in model.parameters())
    model.eval()


def explained(graph: ConvGraph) -> str:
    """All reasons for freezing and mixing, as one text."""
    parts = [group.frozen or "" for group in graph.groups.values()] + [
        m for g in graph.groups.values() for m in g.mixes
    ]
    return "\n".join(parts)


def free_share(graph: ConvGraph) -> float:
    """Share of the units that may leave, of all that are not the network's output."""
    inner = {name: group for name, group in graph.groups.items() if group.frozen != OUTPUT}
    free = sum(group.width for group in inner.values() if group.frozen is None)
    return free / max(1, sum(group.width for group in inner.values()))
