"""The proof on the user's own network, before any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from morphsearch.arguments import named_arguments, require, require_module
from morphsearch.costs import cost
from morphsearch.errors import GraphError
from morphsearch.graph import ConvGraph, record
from morphsearch.graph.cloning import clone
from morphsearch.graph.precision import in_precision
from morphsearch.graph.recording import as_arguments
from morphsearch.graph.tensors import all_given, tensors_in
from morphsearch.graph.zeroed import with_zeros
from morphsearch.loop.behaviour import behaviour
from morphsearch.loop.checks import check_arguments
from morphsearch.strategies.widths import lowest as lowest_widths

TOLERANCE = 1e-6
SINGLE = 1e-4  # of networks whose code insists on single precision


@dataclass
class Trial:
    """One random keep set: how much was dropped, and the largest error relative to the largest output."""

    kept: int
    of: int
    error: float
    exact_expected: bool


@dataclass
class Verification:
    """What was proven.

    Attributes:
        exact: every trial without mixing groups stayed within `tolerance` of the seed with the dropped slices at zero.
        max_error: the largest relative error of those trials.
        mixes: group to the operations in which its units influence each other: removal there is not exact.
        frozen: group to the reason why its width cannot change.
        trials: all trials; those in which mixing groups shrank too are not expected to be exact.
        runs: what else the shrunk network did: "train" (one backward pass), "state_dict", "deepcopy". "ok", or why
            not; of what the seed does not do either it says so.
        groups, units: how many there are, and how many are free.
        precision, tolerance: "float64" and 1e-6; "float32" and 1e-4 where the network's code takes nothing else.
    """

    exact: bool
    max_error: float
    mixes: dict[str, list[str]]
    frozen: dict[str, str]
    trials: list[Trial]
    runs: dict[str, str]
    groups: dict[str, int]
    units: dict[str, int]
    graph: ConvGraph = field(repr=False)
    precision: str = "float64"
    tolerance: float = TOLERANCE

    def lowest(self, metric: str = "flops") -> int | float:
        """The lowest cost that this network can reach, every group at its floor."""
        return cost(self.graph, metric, lowest_widths(self.graph)).total

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the lowest FLOPs and parameters beside the seed's."""
        reach = {
            metric: {"seed": cost(self.graph, metric).total, "lowest": self.lowest(metric)}
            for metric in ("flops", "params")
        }
        return {
            "exact": self.exact,
            "max_error": self.max_error,
            "tolerance": self.tolerance,
            "precision": self.precision,
            "mixes": self.mixes,
            "frozen": self.frozen,
            "trials": [vars(trial) for trial in self.trials],
            "runs": self.runs,
            "groups": self.groups,
            "units": self.units,
            "costs": reach,
        }


@named_arguments
def verify(model: nn.Module, example_inputs: Any, *, trials: int = 3, seed: int = 0) -> Verification:
    """Shrink `model` at random keep sets in float64 and compare with the seed whose dropped slices are zero.

    A network whose code takes single precision alone (it calls ``x.float()``, say) is compared in that, to 1e-4. Works
    on a copy whose parameters and running statistics are drawn at random, so that nothing is equal by accident (a scale
    that starts at zero hides everything behind it).

    Raises:
        GraphError: the network cannot be recorded. UsageError: an argument of the wrong type.
    """
    require_module(model, kind=GraphError)
    whole = isinstance(trials, int) and not isinstance(trials, bool) and trials >= 1
    require(whole, "trials", trials, "a whole number, 1 or more: how many random keep sets are tried", "use 3")
    check_arguments(seed=seed)
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    twin, graph, dtype = _recorded(model, example_inputs, generator)
    tolerance = TOLERANCE if dtype == torch.float64 else SINGLE
    args, kwargs = inputs_like(example_inputs, generator, dtype)
    done: list[Trial] = []
    mixing = [name for name in graph.free if graph.groups[name].mixes]
    branches = [name for name in graph.free if not graph.groups[name].floor and name not in mixing]
    plans = [(False, False)] * trials + [(False, True)] * bool(branches) + [(True, False)] * bool(mixing)
    shrunk: nn.Module = twin
    for with_mixing, with_branches in plans:
        keep = random_keep(graph, rng, skip=() if with_mixing else mixing)
        keep, shrunk = _without(graph, keep, rng.permutation(branches).tolist() if with_branches else [])
        reference = zeroed(graph, keep).eval()
        with torch.no_grad():
            error = relative_error(reference(*args, **kwargs), shrunk(*args, **kwargs))
        kept = sum(len(positions) for positions in keep.values())
        total = sum(graph.groups[name].width for name in keep)
        done.append(Trial(kept, total, error, not with_mixing))
    expected = [trial.error for trial in done if trial.exact_expected]
    worst = max(expected, default=0.0)
    free = set(graph.free)
    return Verification(
        exact=bool(worst <= tolerance),
        max_error=worst,
        mixes={name: list(group.mixes) for name, group in graph.groups.items() if group.mixes},
        frozen={name: group.frozen for name, group in graph.groups.items() if group.frozen is not None},
        trials=done,
        runs=behaviour(shrunk, twin, args, kwargs),
        groups={"total": len(graph.groups), "free": len(free)},
        units={
            "total": graph.num_units,
            "free": sum(group.width for name, group in graph.groups.items() if name in free),
        },
        graph=graph,
        precision=str(dtype).removeprefix("torch."),
        tolerance=tolerance,
    )


def _recorded(
    model: nn.Module, example_inputs: Any, generator: torch.Generator
) -> tuple[nn.Module, ConvGraph, torch.dtype]:
    """A random copy of `model` and its graph, in double precision where the network runs in that."""
    for dtype in (torch.float64, torch.float32):
        twin = in_precision(clone(model, {}).cpu(), dtype).eval()
        randomise(twin, generator)
        args, kwargs = inputs_like(example_inputs, generator, dtype)
        try:
            with torch.no_grad():
                twin(*args, **kwargs)
        except Exception:  # whatever its code raises; in single precision the recording says what
            continue
        break
    return twin, record(twin, example_inputs), dtype


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Perturb every parameter and draw running statistics, in place."""
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.view_as_real(parameter) if parameter.is_complex() else parameter
            if not values.is_floating_point():
                continue
            noise = torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values)
            scale = values.std() if values.numel() > 1 else values.abs().mean()
            values.add_(noise * (0.1 * torch.nan_to_num(scale) + (0.1 if parameter.dim() <= 1 else 1e-3)))
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
                module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))


def inputs_like(
    example_inputs: Any, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Random inputs of the examples' shapes; integer tensors and other arguments as they are."""

    def draw(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(dtype)
        if isinstance(value, Tensor) and value.is_complex():
            return torch.randn(value.shape, generator=generator, dtype=torch.complex128).to(dtype.to_complex())
        return value

    args, kwargs = as_arguments(example_inputs)
    return tree_map(draw, args), tree_map(draw, kwargs)


def _without(
    graph: ConvGraph, keep: dict[str, list[int]], branches: list[str]
) -> tuple[dict[str, list[int]], nn.Module]:
    """Shrunk to `keep` and without half of `branches`, or as many of them as can go together: something of a
    concatenation must stay, and code that follows when all are gone may not when some are. With the keep set."""
    gone = branches[: (len(branches) + 1) // 2]
    while gone:
        without = keep | {name: [] for name in gone}
        try:
            if graph.gone_with(gone) is not None:
                return without, graph.shrink(without).eval()
        except GraphError:
            pass
        gone = gone[: len(gone) // 2]
    return keep, graph.shrink(keep).eval()


def random_keep(
    graph: ConvGraph, rng: np.random.Generator, skip: tuple[str, ...] | list[str] = ()
) -> dict[str, list[int]]:
    """Random positions of every free group, each group its own share between a tenth and all, never below the floor."""
    keep = {}
    for name in graph.free:
        group = graph.groups[name]
        if name in skip:
            continue
        least = group.floor or group.multiple
        count = max(least, round(group.width * rng.uniform(0.1, 1.0)) // group.multiple * group.multiple)
        keep[name] = sorted(int(i) for i in rng.permutation(group.width)[:count])
    return keep


def zeroed(graph: ConvGraph, keep: Mapping[str, list[int]]) -> nn.Module:
    """A copy of the seed in which the parameters of the units that `keep` drops are zero, and all parameters of layers
    that go with branches of which it keeps no unit."""
    dropped = np.zeros(graph.num_units + 1, bool)  # one more: there may be no units
    removal = graph.gone_with([name for name, positions in keep.items() if not len(positions)])
    for name, positions in keep.items():
        units = graph.units_of(name)
        gone = np.ones(units.size, bool)
        gone[list(positions)] = False
        dropped[units[gone]] = True
    if removal is not None:
        dropped[:-1] |= np.isin(graph.unit_group, list(removal.groups))
    return with_zeros(graph, dropped, removal.parameters if removal is not None else ())


def relative_error(reference: Any, found: Any) -> float:
    """Largest difference over largest value, over all output tensors; infinity where shapes differ."""
    worst = 0.0
    expected, actual = tensors_in(all_given(reference)), tensors_in(all_given(found))
    if len(expected) != len(actual):
        return float("inf")
    for a, b in zip(expected, actual, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.numel() and (a.is_floating_point() or a.is_complex()):
            scale = float(a.abs().max()) or 1.0
            worst = max(worst, float((a - b).abs().max()) / scale)
    return worst
