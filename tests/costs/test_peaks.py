"""Activations and memory: exact against what runs, and every promise of a cost model."""

from __future__ import annotations

import runpy
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from morphsearch import costs
from morphsearch.costs import cost, vector
from morphsearch.costs.backward import backward
from morphsearch.costs.memory import TrainingMemoryCost
from morphsearch.costs.peak import Part, PeakCost
from morphsearch.costs.polynomial import Polynomial
from morphsearch.costs.running import lifetimes
from morphsearch.graph import record
from morphsearch.models import build_seed
from morphsearch.testing import NETWORKS, CostModelConformance, example_inputs

MIB = 2**20


class TestActivations(CostModelConformance):
    def cost_model(self) -> Any:
        return costs.get("activations")


class TestMemory(CostModelConformance):
    def cost_model(self) -> Any:
        return costs.get("memory")


class TestTrainingMemory(CostModelConformance):
    def cost_model(self) -> Any:
        return costs.get("memory-training")


class Written(TorchDispatchMode):
    """Elements of the floating-point results that are new, or written over."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, tuple) else out
        known = {t.untyped_storage()._cdata for t in args if isinstance(t, Tensor)}
        in_place = func._schema.name.endswith("_")
        real = isinstance(first, Tensor) and first.is_floating_point()
        if real and (in_place or first.untyped_storage()._cdata not in known):
            self.total += first.numel()
        return out


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v1", "digits_net", "vgg16_bn", *sorted(NETWORKS)])
def test_activations_are_the_elements_that_a_run_writes(name: str) -> None:
    if name in NETWORKS:
        model, x = NETWORKS[name](), example_inputs(2)
        x = x if isinstance(x, Tensor) else x[0]
    else:
        seed = build_seed(name)
        assert seed.input_shape
        model, x = seed.model.eval(), torch.randn(2, *seed.input_shape)
    with Written() as seen, torch.no_grad():
        model(x)
    assert cost(record(model, x), "activations").total * 2 == seen.total


class Wide(nn.Module):
    """One tensor of 4 MiB between small ones."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.up = nn.Conv2d(3, 256, 1, bias=False)
        self.act = nn.ReLU(inplace=in_place)
        self.down = nn.Conv2d(256, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


@pytest.mark.parametrize(("in_place", "tensors"), [(True, 1), (False, 2)])
def test_memory_counts_what_is_there_at_once(in_place: bool, tensors: int) -> None:
    graph = record(Wide(in_place), torch.randn(1, 3, 64, 64))
    found = cost(graph, "memory")
    weights, given, wide, narrow = 3 * 256 + 256 * 4, 3 * 4096, 256 * 4096, 4 * 4096
    # In place, the peak is while the second convolution reads the wide tensor and writes the narrow one.
    expected = weights + given + tensors * wide + (narrow if in_place else 0)
    assert found.total == pytest.approx(4 * expected / MIB, rel=1e-12)
    assert found.unit == "MiB"
    assert sum(found.per_layer.values()) == pytest.approx(found.total)


def test_memory_grows_with_the_batch_but_for_weights() -> None:
    model = Wide(in_place=True)
    one, two = (cost(record(model, torch.randn(n, 3, 64, 64)), "memory").total for n in (1, 2))
    weights = 4 * sum(p.numel() for p in model.parameters()) / MIB
    assert two - weights == pytest.approx(2 * (one - weights), rel=1e-12)


class Branches(nn.Module):
    """A tensor that waits for another branch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 64, 1, bias=False), nn.Conv2d(64, 64, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return y + self.b(torch.sigmoid(y))


def test_what_waits_for_another_branch_stays() -> None:
    graph = record(Branches(), torch.randn(1, 3, 32, 32))
    one = 64 * 1024 * 4 / MIB
    rest = 4 * (3 * 64 + 64 * 64 + 3 * 1024) / MIB
    assert cost(graph, "memory").total == pytest.approx(rest + 3 * one, rel=1e-12)


def test_training_keeps_what_the_derivatives_need() -> None:
    graph = record(Branches(), torch.randn(1, 3, 32, 32))
    one, given = 64 * 1024 * 4 / MIB, 4 * 3 * 1024 / MIB
    a, b = 4 * 3 * 64 / MIB, 4 * 64 * 64 / MIB
    # Of three tensors backward keeps sigmoid(y), which the convolution and the sigmoid need, and the network's output
    # stays with the caller. At the peak, the gradient of the sum waits for y while b and the sigmoid make theirs.
    expected = 2 * (a + b) + b + given + 5 * one
    assert TrainingMemoryCost().bind(graph).total(vector(graph, graph.widths)) == pytest.approx(expected, rel=1e-12)
    adam = TrainingMemoryCost(states=2).bind(graph).total(vector(graph, graph.widths))
    sgd = TrainingMemoryCost().bind(graph).total(vector(graph, graph.widths))
    assert float(adam - sgd) == pytest.approx(a + b, rel=1e-9)


@pytest.mark.parametrize(
    ("metric", "measure", "tolerance"), [("memory", "inference", 1e-3), ("memory-training", "training", 5e-3)]
)
def test_memory_is_what_the_allocator_hands_out(metric: str, measure: str, tolerance: float) -> None:
    benchmark = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "memory.py"))
    model, x = build_seed("resnet20").model, torch.randn(4, 3, 32, 32)
    graph = record(model, x)
    widths = {name: 8 + 3 * index for index, name in enumerate(graph.free)}
    _, measured = benchmark[measure](graph.resize(widths), x)
    assert cost(graph, metric, widths).total == pytest.approx(measured, rel=tolerance)


SAVING: dict[str, Any] = {
    "relu": F.relu,
    "relu, in place": lambda x: F.relu(x, inplace=True),
    "relu6": F.relu6,
    "relu6, in place": lambda x: F.relu6(x, inplace=True),
    "silu": F.silu,
    "silu, in place": lambda x: F.silu(x, inplace=True),
    "hardswish, in place": lambda x: F.hardswish(x, inplace=True),
    "leaky relu, in place": lambda x: F.leaky_relu(x, inplace=True),
    "elu": F.elu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "square root": lambda x: (x.square() + 1).sqrt(),
    "number": lambda x: 2 * x / 3 + 1,
    "itself": lambda x: x * x,
    "gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "sum": lambda x: x + x.roll(1, 2),
    "softmax": lambda x: x.softmax(2),
    "max pool": lambda x: F.max_pool2d(x, 2),
    "average pool": lambda x: F.avg_pool2d(x, 2),
    "global pool": lambda x: F.adaptive_avg_pool2d(x, 1),
    "resize": lambda x: F.interpolate(x, scale_factor=2),
    "cat": lambda x: torch.cat([x, x], 1),
    "pad by reflection": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "largest": lambda x: x.amax(2),
    "attention": lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
}


class After(nn.Module):
    """A convolution and a function of its result."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 16, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


@pytest.mark.parametrize("case", SAVING)
def test_what_derivatives_need_is_what_autograd_saves(case: str) -> None:
    model, x = After(SAVING[case]), torch.randn(2, 3, 16, 16)
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.numel() >= 256 and not isinstance(tensor, nn.Parameter):
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            kept.append(tensor)
        return tensor

    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    graph = record(model, x)
    step = backward(graph, lifetimes(graph))
    widths = list(graph.widths.values())
    sizes = [float(step.storages[s].size.at(widths)) for s in step.saved]
    assert step.unknown == ()
    assert sum(size for size in sizes if size >= 1024) == sum(saved.values())


def test_frozen_layers_need_no_gradients() -> None:
    model = build_seed("resnet20").model
    x = torch.randn(4, 3, 32, 32)
    whole = cost(record(model, x), "memory-training").total
    for parameter in [*model.stem.parameters(), *model.stages[0].parameters()]:
        parameter.requires_grad_(False)
    assert cost(record(model, x), "memory-training").total < 0.7 * whole


class Counting(nn.Module):
    """Runs otherwise the second time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv2d(3, 8, 1), [0]

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y.relu() if next(TURNS) else y.sigmoid().relu()


TURNS = cycle((True, False))  # what a recording does not put back


def test_a_network_that_runs_otherwise_the_second_time_is_priced_from_its_graph() -> None:
    graph = record(Counting(), torch.randn(1, 3, 8, 8), check=False)
    found = lifetimes(graph)
    assert not found.seen
    assert cost(graph, "memory").total > 0


def test_the_search_prices_every_moment_that_is_over_the_limit() -> None:
    # Two moments: the first belongs to group 0, the second, a little lower, to group 1.
    parts = [Part(Polynomial({(0,): 1.0}), "a"), Part(Polynomial({(1,): 1.0}), "b")]
    bound = PeakCost(2, parts, [frozenset({0}), frozenset({1})], "MiB")
    widths = torch.tensor([10.0, 9.0], dtype=torch.float64)
    assert bound.marginal(widths).tolist() == [1.0, 0.0]
    both = bound.pressure(widths, 5.0)
    assert both[0] > both[1] > 0
    assert bound.pressure(widths, 9.5).tolist()[0] > bound.pressure(widths, 9.5).tolist()[1]


@pytest.mark.parametrize("metric", ["activations", "memory", "memory-training", "latency"])
@pytest.mark.parametrize("branches", [1, 3])
def test_a_branch_that_is_left_out_costs_what_the_network_without_it_saves(metric: str, branches: int) -> None:
    model, x = build_seed("resnet20").model, torch.zeros(2, 3, 32, 32)
    graph = record(model, x)
    optional = [name for name, group in graph.groups.items() if group.floor == 0][1::2][:branches]
    assert len(optional) == branches
    widths = {**graph.widths, **dict.fromkeys(optional, 0)}
    hardware = "v100" if metric == "latency" else None
    rebuilt = record(graph.resize(widths), x)
    told = cost(graph, metric, widths, hardware=hardware).total
    assert told < cost(graph, metric, hardware=hardware).total
    assert told == pytest.approx(cost(rebuilt, metric, hardware=hardware).total, rel=1e-9)


class InPlace(nn.Module):
    """A residual block whose sum and activation are in place: without its branch, the sum leaves a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(inplace=True)
        self.first, self.norm = nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24)
        self.second, self.head = nn.Conv2d(24, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        y = self.second(self.relu(self.norm(self.first(x))))
        y += x
        return self.head(self.relu(y))


@pytest.mark.parametrize("metric", ["activations", "memory-training", "latency"])
def test_what_is_copied_where_a_branch_ended_is_priced(metric: str) -> None:
    x = torch.zeros(2, 3, 16, 16)
    graph = record(InPlace(), x)
    optional = [name for name, group in graph.groups.items() if group.floor == 0]
    widths = {**graph.widths, optional[0]: 0}
    hardware = "v100" if metric == "latency" else None
    rebuilt = record(graph.resize(widths), x)
    assert any(op.kind == "clone" for op in rebuilt.operations)
    told = cost(graph, metric, widths, hardware=hardware).total
    assert told == pytest.approx(cost(rebuilt, metric, hardware=hardware).total, rel=1e-9)


def test_code_written_anew_may_free_sooner_but_never_later() -> None:
    x = torch.zeros(2, 3, 16, 16)
    graph = record(InPlace(), x)
    optional = [name for name, group in graph.groups.items() if group.floor == 0]
    widths = {**graph.widths, optional[0]: 0}
    assert cost(graph, "memory", widths).total >= cost(record(graph.resize(widths), x), "memory").total


def test_gates_that_a_strategy_hangs_on_a_network_are_not_priced() -> None:
    model, x = build_seed("resnet20").model, torch.zeros(2, 3, 32, 32)
    graph = record(model, x)
    before = cost(graph, "memory").total
    handles = [module.register_forward_hook(lambda m, a, y: y * 1.5) for module in model.modules()]
    assert cost(graph, "memory").total == before
    for handle in handles:
        handle.remove()
