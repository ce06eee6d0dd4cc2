"""Weights that data mixes shrink to the right elements of their banks, and what cannot be followed says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphsearch.errors import GraphError
from morphsearch.graph import record
from morphsearch.graph.fresh import break_symmetry
from morphsearch.graph.recording import OUTPUT
from morphsearch.graph.rules.aten import ATEN
from morphsearch.loop.verification import relative_error, zeroed
from tests.graph import mixtures, proofs
from tests.graph.mechanisms import CASES, cbr, head, net
from tests.graph.mixtures import around, bank, of_every_image

assert mixtures.mixed_kernels.__name__ in CASES  # that file registers its networks
NOT_FOLLOWED = "its weight is computed from data"


def test_kernels_that_lie_flat_keep_the_right_elements() -> None:
    case = CASES["experts_of_several_images"]
    graph = record(proofs.in_double(case.build()), case.inputs)
    streams, inner = [0, 2, 3, 7], [1, 4, 5, 6, 11]
    small = graph.shrink({"stem.0": streams, "expand": inner})
    seed = graph.model
    expand = seed.expand.weight.view(4, 12, 8)[:, inner][:, :, streams]
    assert torch.equal(small.expand.weight, expand.flatten(1))
    assert torch.equal(small.depthwise.weight, seed.depthwise.weight.view(4, 12, 9)[:, inner].flatten(1))
    assert torch.equal(small.project.weight, seed.project.weight.view(4, 8, 12)[:, streams][:, :, inner].flatten(1))
    assert torch.equal(small.expand.bias, seed.expand.bias[:, inner])


def test_what_a_graph_holds_of_a_bank_takes_less_memory_than_one_of_its_kernels_in_double_precision() -> None:
    case = CASES["experts_of_several_images"]
    graph = record(case.build(), case.inputs)
    labels = [one for operation in graph.tape.operations if operation.kind == "mixture" for one in operation.outputs]
    assert len(labels) > 2
    for one in labels:
        sides = [side for side in (one.ids, one.second) if side is not None]
        assert sum(side.untyped_storage().nbytes() for side in sides) <= 8 * max(side.numel() for side in sides)
    assert not graph.tape.makings
    assert "bindings" not in vars(graph.resolution.bound)  # they have a number for every element of a flat bank
    assert {binding.tensor for binding in graph.bindings} >= {"expand.weight", "project.weight"}


def test_a_module_knows_the_sizes_of_its_bank() -> None:
    case = CASES["experts_of_several_images"]
    graph = record(case.build(), case.inputs)
    torch.manual_seed(0)
    other = graph.resize({"stem.0": 5, "expand": 9})
    layers = other.expand, other.depthwise, other.project
    assert [layer.weight_shape for layer in layers] == [(9, 5, 1, 1), (9, 1, 3, 3), (5, 9, 1, 1)]
    assert [layer.bias_shape for layer in layers] == [(9,), (9,), (5,)]
    assert [(layer.in_channels, layer.out_channels, layer.groups) for layer in layers] == [
        (5, 9, 1),
        (9, 9, 9),
        (9, 5, 1),
    ]
    torch.manual_seed(0)
    again = graph.resize({"stem.0": 5, "expand": 9})
    assert torch.equal(other.depthwise.weight, again.depthwise.weight)
    inherited = graph.shrink({"stem.0": range(5), "expand": range(9)})
    assert not torch.isclose(other.depthwise.weight, inherited.depthwise.weight).any()  # its own initialisation


def test_slices_of_a_flat_bank_belong_to_a_row_and_to_a_column() -> None:
    case = CASES["experts_of_several_images"]
    graph = record(case.build(), case.inputs)
    state = graph.model.state_dict()
    for binding in graph.bindings:
        assert binding.units.shape == (state[binding.tensor].shape[binding.dim],)
    rows, columns = (b for b in graph.bindings if b.tensor == "expand.weight" and b.dim == 1)
    assert np.array_equal(rows.units.reshape(12, 8)[:, 0], graph.units_of("expand"))
    assert np.array_equal(columns.units.reshape(12, 8)[0], graph.units_of("stem.0"))


def test_copies_of_kernels_that_lie_flat_learn_apart() -> None:
    case = CASES["experts_of_several_images"]
    graph = record(proofs.in_double(case.build()), case.inputs)
    doubled = np.full(graph.num_units, 1) + np.isin(np.arange(graph.num_units), graph.units_of("expand"))
    network, plan = graph.planned(doubled)
    break_symmetry(network, plan, 0.1, torch.Generator().manual_seed(0))
    weight = network.depthwise.weight.view(4, 24, 9)
    first, second = weight[:, ::2], weight[:, 1::2]
    assert torch.equal(first, graph.model.depthwise.weight.view(4, 12, 9))
    assert not torch.isclose(first, second).any()


@pytest.mark.parametrize("name", ["demodulated", "demodulated_for_one_image"])
def test_demodulation_is_exact_where_units_leave(name: str) -> None:
    # It sums squares over what it reads: zeros add nothing. Copies do, so it mixes all the same, and is not widened.
    case = CASES[name]
    graph = record(proofs.in_double(case.build()), case.inputs)
    for seed in range(3):
        proofs.shrinks_exactly(graph, case.inputs, seed)
    with pytest.raises(GraphError, match="computes with that weight"):
        graph.resize({"a.0": 12}, weights="widen")


class Dynamic(nn.Module):
    """Attention over kernels, inputs, outputs and places of a kernel (arXiv 2209.07947)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.read, self.rows = nn.Linear(inputs, inputs), nn.Linear(inputs, outputs)
        self.places, self.kernels = nn.Linear(inputs, 9), nn.Linear(inputs, 4)
        self.weight = bank(4, outputs, inputs, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        mean = x.mean((2, 3))
        x = x * self.read(mean).sigmoid().view(b, -1, 1, 1)
        shares = self.kernels(mean).softmax(1).view(b, -1, 1, 1, 1, 1)
        weight = self.places(mean).sigmoid().view(b, 1, 1, 1, 3, 3) * shares * self.weight.unsqueeze(0)
        weight = torch.sum(weight, dim=1).view(-1, self.inputs, 3, 3)
        x = F.conv2d(x.reshape(1, -1, h, w), weight, padding=1, groups=b).view(b, self.outputs, h, w)
        return x * self.rows(mean).sigmoid().view(b, -1, 1, 1)


def test_attention_over_everything() -> None:
    network = net(_in_a_row, a=cbr(3, 8), mixed=Dynamic(8, 6), b=cbr(6, 7), head=head(7))
    inputs = torch.zeros(2, 3, 8, 8)
    graph = record(proofs.in_double(network), inputs)
    assert graph.free == ["a.0", "mixed", "b.0"]
    proofs.shrinks_exactly(graph, inputs, 0)
    proofs.widens_exactly(graph, inputs)
    proofs.resizes(graph, inputs, 0.5)


def _in_a_row(s: nn.Module, x: Tensor) -> Tensor:
    return s.head(s.b(s.mixed(s.a(x))))


def _channel_by_channel(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
    """The images lie beside each other within each channel; the weights image by image."""
    n, c, h, w = x.shape
    weight = torch.einsum("bk,koihw->boihw", share, s.kernels).reshape(n * 6, 8, 3, 3)
    x = x.transpose(0, 1).reshape(1, n * c, h, w)
    return F.conv2d(x, weight, padding=1, groups=n).view(n, 6, h, w)


def _plus_what_a_layer_makes(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
    weight = torch.einsum("bk,koihw->boihw", share, s.kernels)
    return of_every_image(x, weight + s.more(x.mean((2, 3))).view(-1, 6, 8, 3, 3))


def _turned(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
    """A softmax of the mixture, over everything that the kernel reads."""
    weight = torch.einsum("bk,koihw->boihw", share, s.kernels).flatten(2).softmax(-1)
    return of_every_image(x, weight.view(-1, 6, 8, 3, 3))


@pytest.mark.parametrize("mixed", [_channel_by_channel, _plus_what_a_layer_makes, _turned])
def test_what_is_not_followed_is_frozen_and_says_so(mixed: Callable[..., Any]) -> None:
    inputs = torch.zeros(2, 3, 8, 8)
    more = nn.Linear(8, 6 * 8 * 9)
    graph = record(proofs.in_double(around(mixed, kernels=bank(4, 6, 8, 3, 3), more=more)), inputs)
    assert NOT_FOLLOWED in proofs.explained(graph)
    assert graph.free == ["b.0"]
    proofs.shrinks_exactly(graph, inputs, 0)
    proofs.resizes(graph, inputs, 1.5)


def test_a_layer_without_a_bias_that_makes_all_of_a_kernel_is_no_bank_of_ours() -> None:
    def mixed(s: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        return of_every_image(x, s.maker(share).view(-1, 6, 8, 3, 3))

    inputs = torch.zeros(2, 3, 8, 8)
    graph = record(proofs.in_double(around(mixed, maker=nn.Linear(4, 6 * 8 * 9, bias=False))), inputs)
    assert NOT_FOLLOWED in proofs.explained(graph)
    assert "b.0" in graph.free
    proofs.shrinks_exactly(graph, inputs, 0, skip=proofs.mixing(graph))


def test_a_bank_that_is_used_twice() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        for _ in range(2):
            x = x + s.mixed(x, s.routing(x.mean((2, 3))).sigmoid()).relu()
        return s.head(x)

    inputs = torch.zeros(2, 3, 8, 8)
    parts = {"routing": nn.Linear(8, 4), "mixed": mixtures.Experts(8, 8, 3), "head": head(8)}
    graph = record(proofs.in_double(net(forward, a=cbr(3, 8), **parts)), inputs)
    assert graph.free == ["a.0"]
    proofs.shrinks_exactly(graph, inputs, 0)
    proofs.widens_exactly(graph, inputs)
    proofs.resizes(graph, inputs, 0.5)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.build.__module__ == mixtures.__name__])
def test_a_rewritten_network_takes_any_number_of_images(name: str) -> None:
    case = CASES[name]
    graph = record(proofs.in_double(case.build()), case.inputs)
    mixes = [] if case.reason == mixtures.DEMODULATED else proofs.mixing(graph)
    keep = {group: list(range(0, graph.groups[group].width, 2)) for group in graph.free if group not in mixes}
    small, seed = graph.shrink(keep), zeroed(graph, keep)
    for images in (1, 2, 5):
        x = torch.randn(images, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(images))
        with torch.no_grad():
            assert relative_error(seed(x), small(x)) < 1e-12


def test_groups_that_nobody_may_change_are_the_experts_alone() -> None:
    case = CASES["mixed_kernels"]
    graph = record(case.build(), case.inputs)
    held = {name: group for name, group in graph.groups.items() if group.frozen not in (None, OUTPUT)}
    assert list(held) == ["share"]
    assert "weighs the kernels of kernels, of a fixed number" in str(held["share"].frozen)


def test_a_rule_that_fails_on_a_weight_freezes_no_units_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise ValueError("not like this")

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.head(s.b(F.conv2d(s.a(x), (s.weight * 2).flip(2), padding=1)))

    monkeypatch.setitem(ATEN, "aten::flip", failing)
    graph = record(
        net(forward, a=cbr(3, 8), weight=bank(6, 8, 3, 3), b=cbr(6, 12), head=head(12)), torch.zeros(2, 3, 8, 8)
    )
    assert graph.free == ["b.0"]
    assert NOT_FOLLOWED in str(graph.groups["a.0"].frozen)
