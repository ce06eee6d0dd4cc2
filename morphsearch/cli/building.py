"""From the name of a network on the command line to the network, its graph and what is shown of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from morphsearch.errors import InputError, UnknownName, UsageError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from morphsearch.graph import ConvGraph
    from morphsearch.loop.architecture import Architecture
    from morphsearch.report.inspection import Inspection


@dataclass
class Built:
    """A seed with an example input, ready to be recorded."""

    spec: str
    model: nn.Module
    example: Tensor


@dataclass
class Recorded:
    """A recorded seed; `architecture` where an architecture was named."""

    spec: str
    graph: ConvGraph
    architecture: Architecture | None = None


def seed(spec: str, shape: tuple[int, ...] | None, *, allow_code: bool) -> Built:
    """Build a seed and an example input for it.

    Raises:
        UsageError: the example shape is neither given nor known.
    """
    import torch

    from morphsearch.models import build_seed

    torch.manual_seed(0)
    found = build_seed(spec, input_shape=shape[1:] if shape else None, allow_code=allow_code)
    full = shape or ((1, *found.input_shape) if found.input_shape else None)
    if full is None:
        raise UsageError(
            f"the example input of {spec} is not known",
            "a network is recorded by running it once on an input of the right shape",
            "add --input, for example --input 1,3,224,224",
        )
    try:
        example = torch.randn(full, generator=torch.Generator().manual_seed(0))
    except RuntimeError as error:  # torch has no type of its own for memory that is not there
        raise InputError(
            f"an example input of shape {','.join(map(str, full))} cannot be made here",
            "it must fit into memory, and the activations of the network with it",
            "check --input; smaller heights, widths and batches cost less",
        ) from error
    return Built(spec, found.model, example)


def graph(target: str | Path, shape: tuple[int, ...] | None, *, allow_code: bool) -> Recorded:
    """Record a seed, or the seed of an architecture.

    A factory that is named on the command line is the user's own wish; one that a file names needs `allow_code`.

    Raises:
        UsageError: a `shape` beside an architecture, which has one.
    """
    import torch

    from morphsearch.graph import record

    if isinstance(target, Path) and shape is not None:
        raise UsageError(
            f"--input {','.join(map(str, shape))} with {target}",
            "an architecture says what it was recorded with, and its costs were counted on that",
            "leave --input out, or name the seed instead",
        )
    with torch.no_grad():
        if isinstance(target, Path):
            architecture = load_architecture(target)
            return Recorded(str(target), architecture.graph(architecture.seed(allow_code=allow_code)), architecture)
        built = seed(target, shape, allow_code=True)
        return Recorded(target, record(built.model, built.example))


def inspection(
    target: str | Path,
    shape: tuple[int, ...] | None,
    costs: list[str],
    *,
    allow_code: bool,
    hardware: str | Path | None = None,
) -> Inspection:
    """Everything that ``inspect`` shows; `hardware` is that of a run, where one is named, by default."""
    from morphsearch.loop.hardware import check_depends, of_run
    from morphsearch.report.inspection import inspect

    check_depends(costs, hardware)
    found = graph(target, shape, allow_code=allow_code)
    architecture = found.architecture
    if isinstance(target, Path) and hardware is None:
        hardware = of_run(target)
    if architecture is None:
        return inspect(found.graph, costs, name=found.spec, hardware=hardware)
    name = f"{architecture.path or target}: {architecture.name} of {architecture.seed_spec}"
    widths = found.graph.check_widths(architecture.widths)
    return inspect(found.graph, costs, name=name, widths=widths, hardware=hardware)


def explain(graph: ConvGraph, name: str) -> str:
    """The graph's own explanation of a layer or group.

    Raises:
        UnknownName: neither a layer nor a group, with the nearest names.
    """
    known = [*graph.groups, *(layer for group in graph.groups.values() for layer in group.layers)]
    if name not in known:
        close = nearest(name, known)
        raise UnknownName(
            f"unknown layer or group {name!r}",
            f"this network has {len(graph.groups)} groups, and more layers; `morphsearch inspect` lists them",
            f"did you mean {' or '.join(close)}?" if close else f"take for example {known[0]}" if known else "",
        )
    return str(graph.explain(name))


def load_architecture(path: Path) -> Architecture:
    """The architecture in a file, or the last one of a run."""
    from morphsearch.loop.architecture import Architecture
    from morphsearch.loop.found import architectures

    return Architecture.load(architectures(path)[-1] if path.is_dir() else path)
