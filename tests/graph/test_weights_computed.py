"""Weights that forward code computes from parameters: quantised, scaled, written over in part, normalised."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao import quantization

from morphsearch.errors import GraphError
from morphsearch.graph import record
from morphsearch.loop.verification import verify
from tests.graph import proofs

INPUTS = torch.zeros(2, 3, 8, 8)
Computed = Callable[["Layer", Tensor], Tensor]


class Layer(nn.Conv2d):
    """A convolution with a weight computed from its own, and parameters to do so."""

    def __init__(self, computed: Computed, **parts: Any) -> None:
        super().__init__(8, 6, 3, padding=1)
        self.computed = computed
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.computed(self, self.weight), self.bias, padding=1)


class Around(nn.Module):
    """`n 3 h w` to `n 5`, with `layer` reading units that are silent when they are zero (relu), or never."""

    def __init__(self, layer: nn.Module, *, silent: bool = True) -> None:
        super().__init__()
        self.first, self.layer = nn.Conv2d(3, 8, 3, padding=1), layer
        self.last, self.head = nn.Conv2d(6, 10, 3, padding=1), nn.Linear(10, 5)
        self.active = torch.relu if silent else torch.sigmoid

    def forward(self, x: Tensor) -> Tensor:
        x = self.active(self.layer(self.active(self.first(x))))
        return self.head(self.active(self.last(x)).mean((2, 3)))


def network(computed: Computed, *, silent: bool = True, **parts: Any) -> nn.Module:
    torch.manual_seed(0)
    return proofs.in_double(Around(Layer(computed, **parts), silent=silent))


def learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / 3)


def holds(graph: Any) -> None:
    """Removal is exact where nothing mixes, and other widths run and train."""
    for seed in range(3):
        proofs.shrinks_exactly(graph, INPUTS, seed, skip=proofs.mixing(graph))
    for factor in (0.5, 1.5):
        proofs.trains(proofs.resizes(graph, INPUTS, factor), INPUTS)


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_a_weight_scaled_by_its_width_mixes_what_it_reads() -> None:
    """Equalised learning rate (arXiv 1710.10196)."""
    model = network(lambda s, w: w * (1 / math.sqrt(w.shape[1] * 9)))
    graph = record(model, INPUTS)
    assert proofs.mixing(graph) == ["first"]
    assert graph.groups["first"].mixes == ("mul in layer, by a number that follows from a width",)
    holds(graph)
    assert verify(model, INPUTS).exact


NUMBERS: dict[str, Computed] = {
    "tensor": lambda s, w: w * torch.sqrt(torch.tensor(2 / w.shape[1], dtype=w.dtype, device=w.device)),
    "new_tensor": lambda s, w: w * w.new_tensor([1 / w.shape[1]]),
    "full_like": lambda s, w: w * torch.full_like(w, 1 / w.shape[1]),
    "a count of ones": lambda s, w: w / torch.ones_like(w).sum(1, keepdim=True),
    "an attribute": lambda s, w: w / s.in_channels,
    "limits": lambda s, w: w.clamp(-0.5 / w.shape[1], 0.5 / w.shape[1]),
    "a power": lambda s, w: w.abs() ** (1 / w.shape[1]),
}


@pytest.mark.parametrize("name", list(NUMBERS))
def test_numbers_that_follow_from_a_width_are_found_however_they_reach_a_weight(name: str) -> None:
    model = network(NUMBERS[name])
    graph = record(model, INPUTS)
    assert graph.free == ["first", "layer", "last"]
    assert proofs.mixing(graph) == ["first"]
    holds(graph)
    assert verify(model, INPUTS).exact


def test_attention_scaled_by_a_number_made_as_a_tensor_mixes() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Conv2d(8, 6, 1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (layer(x).flatten(2) for layer in (self.q, self.k, self.v))
            scale = torch.sqrt(torch.tensor(q.shape[1], dtype=q.dtype, device=q.device))
            return (v @ (q.transpose(1, 2) @ k / scale).softmax(-1).transpose(1, 2)).view(-1, 6, 8, 8)

    torch.manual_seed(0)
    graph = record(proofs.in_double(Around(Attention())), INPUTS)
    assert "tensor in layer, by a number that follows from a width" in proofs.explained(graph)
    assert proofs.mixing(graph) == ["layer.q"]
    holds(graph)


def test_a_scale_that_is_written_down_is_exact() -> None:
    graph = record(network(lambda s, w: w * (1 / math.sqrt(72))), INPUTS)
    assert graph.free == ["first", "layer", "last"]
    assert not proofs.mixing(graph)
    holds(graph)


# -- written over ------------------------------------------------------------------------------------------------------


def central_difference(s: Layer, w: Tensor) -> Tensor:
    y = w.clone()
    y[:, :, 1, 1] = y[:, :, 1, 1] - 0.7 * w.sum((2, 3))
    return y


def without_a_corner(s: Layer, w: Tensor) -> Tensor:
    w = w.clone()
    w[:, :, 0, 0] = 0
    return w


def without_a_column(s: Layer, w: Tensor) -> Tensor:
    w = w.clone()
    w[:, :, :, 0].zero_()
    return w


def with_a_cross(s: Layer, w: Tensor) -> Tensor:
    w = w.clone()
    w[:, :, :, 1:2] += s.upright
    w[:, :, 1:2] = s.lying
    return w


def without_the_negative(s: Layer, w: Tensor) -> Tensor:
    w = w.clone()
    w[w < 0] = 0
    return w


FOLLOWED = [central_difference, without_a_corner, without_a_column, with_a_cross, without_the_negative]


@pytest.mark.parametrize("computed", FOLLOWED)
def test_kernels_that_are_written_over_in_part_are_followed(computed: Computed) -> None:
    model = network(computed, upright=learned(6, 8, 3, 1), lying=learned(6, 8, 1, 3))
    graph = record(model, INPUTS)
    assert graph.free == ["first", "layer", "last"]
    assert not proofs.mixing(graph)
    holds(graph)


def doubled_rows(s: Layer, w: Tensor) -> Tensor:
    w = w.clone()
    w[::2].mul_(2)
    return w


def with_a_diagonal(s: Layer, w: Tensor) -> Tensor:
    w = w.clone()
    w[:, :, 1, 1].fill_diagonal_(1.0)
    return w


def without_the_third(s: Layer, w: Tensor) -> Tensor:
    w = w.clone()
    w[2] = 0
    return w


def without_some(s: Layer, w: Tensor) -> Tensor:
    w = w.clone()
    w[torch.tensor([2, 4])] = 0
    return w


def with_ones(s: Layer, w: Tensor) -> Tensor:
    w = w.clone()
    w[:, :, 0, 0] = torch.ones(6, 8, dtype=w.dtype, device=w.device)
    return w


@pytest.mark.parametrize(
    ("computed", "free", "why"),
    [
        (
            without_the_third,
            ["first", "last"],
            "some of the slices of layer.weight are written over, which the code says",
        ),
        (doubled_rows, ["first", "last"], "some of the slices of layer.weight are written over, which the code says"),
        (with_a_diagonal, ["last"], "some of the slices of layer.weight are written over, which the code says"),
        (without_some, ["last"], "part of layer.weight is written over"),
        (with_ones, ["last"], "part of layer.weight is written over"),
    ],
)
def test_what_is_written_over_otherwise_stays(computed: Computed, free: list[str], why: str) -> None:
    graph = record(network(computed), INPUTS)
    assert graph.free == free
    assert why in proofs.explained(graph)
    holds(graph)


@pytest.mark.parametrize("added", [False, True])
def test_data_that_is_written_into_a_weight_stays(added: bool) -> None:
    class Written(Layer):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight.clone()
            if added:
                weight[:, :, 1, 1].add_(x.mean((0, 2, 3)))
            else:
                weight[:, :, 1, 1] = x.mean((0, 2, 3))
            return F.conv2d(x, weight, self.bias, padding=1)

    torch.manual_seed(0)
    graph = record(proofs.in_double(Around(Written(lambda s, w: w))), INPUTS)
    assert graph.free == ["last"]
    assert "part of layer.weight" in proofs.explained(graph)
    holds(graph)


# -- zeros -------------------------------------------------------------------------------------------------------------

NEVER_ZERO: dict[str, Computed] = {
    "clamp": lambda s, w: w.clamp(min=0.01),
    "masked_fill": lambda s, w: w.masked_fill(s.mask, 0.1),
    "add": lambda s, w: w + s.row,
    "softplus": lambda s, w: w + F.softplus(s.spread) * 0.3,
    "pow": lambda s, w: w**2 + (w.abs() + 1) ** 2,
    "logsumexp": lambda s, w: w + torch.logsumexp(w, (2, 3), keepdim=True),
    "ge": lambda s, w: (w >= 0).to(w.dtype),
}


@pytest.mark.parametrize("name", list(NEVER_ZERO))
def test_a_weight_that_is_not_zero_where_its_parameter_is_mixes_what_is_never_silent(name: str) -> None:
    mask = nn.Buffer(torch.rand(6, 8, 3, 3) > 0.5)
    parts = {"mask": mask, "row": learned(6, 1, 1, 1), "spread": learned(6, 8, 3, 3)}
    graph = record(network(NEVER_ZERO[name], silent=False, **parts), INPUTS)
    assert proofs.mixing(graph) == ["first"]
    assert "by which the weight is not zero where" in proofs.explained(graph)
    holds(graph)
    silent = record(network(NEVER_ZERO[name], **parts), INPUTS)
    assert not proofs.mixing(silent)
    holds(silent)


ALWAYS_ZERO: dict[str, Computed] = {
    "tanh": lambda s, w: torch.tanh(w),
    "sign": lambda s, w: w.sign() * s.row.exp(),
    "masked_fill": lambda s, w: w.masked_fill(s.mask, 0.0),
    "clamp": lambda s, w: w.clamp(-0.1, 0.1),
    "quantised": lambda s, w: torch.fake_quantize_per_tensor_affine(w, 0.1, 0, -128, 127),
    "mean over places": lambda s, w: w - w.mean((2, 3), keepdim=True),
    "product": lambda s, w: w * torch.sigmoid(s.spread),
}


@pytest.mark.parametrize("name", list(ALWAYS_ZERO))
def test_a_weight_that_is_zero_where_its_parameter_is_mixes_nothing(name: str) -> None:
    mask = nn.Buffer(torch.rand(6, 8, 3, 3) > 0.5)
    parts = {"mask": mask, "row": learned(6, 1, 1, 1), "spread": learned(6, 8, 3, 3)}
    graph = record(network(ALWAYS_ZERO[name], silent=False, **parts), INPUTS)
    assert graph.free == ["first", "layer", "last"]
    assert not proofs.mixing(graph)
    holds(graph)


# -- norms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "mixes"), [(1, ["first"]), (0, ["layer"])])
def test_normalised_weights_are_followed(dim: int, mixes: list[str]) -> None:
    graph = record(network(lambda s, w: F.normalize(w, dim=dim)), INPUTS)
    assert graph.free == ["first", "layer", "last"]
    assert proofs.mixing(graph) == mixes
    holds(graph)


# -- single units ------------------------------------------------------------------------------------------------------


class OfEach(nn.Module):
    """A kernel for all channels and one for each, added; `first` says which is named first."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.all, self.each, self.first = learned(1, 1, 3, 3), learned(8, 1, 3, 3), first
        self.last = nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.all + self.each if self.first else self.each + self.all
        return self.last(F.conv2d(x, weight, padding=1, groups=self.each.shape[0]))


@pytest.mark.parametrize("first", [True, False])
def test_parameters_that_meet_can_be_told_apart_where_one_unit_is_left(first: bool) -> None:
    torch.manual_seed(0)
    graph = record(proofs.in_double(Around(OfEach(first))), INPUTS)
    assert "first" in graph.free
    proofs.keeps_exactly(graph, INPUTS, {name: [0] for name in graph.free})
    holds(graph)


class Rectified(nn.Module):
    """The larger of two lines for every channel, made from the image (arXiv 2003.10027)."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.lines, self.last = nn.Linear(8, 4), nn.Linear(4, 2 * 2 * 8), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        lines = self.lines(self.squeeze(x.mean((2, 3))).relu()).view(-1, x.shape[1], 4)
        x = x.permute(2, 3, 0, 1).unsqueeze(-1)
        return self.last((x * lines[..., :2] + lines[..., 2:]).amax(-1).permute(2, 3, 0, 1))


def test_what_meets_a_single_unit_is_not_broadcast_over_others() -> None:
    torch.manual_seed(0)
    graph = record(proofs.in_double(Around(Rectified())), INPUTS)
    assert {"first", "layer.squeeze"} <= set(graph.free)
    small = proofs.keeps_exactly(graph, INPUTS, {name: [0] for name in graph.free})
    again = record(small, INPUTS, decisions=graph.decisions)
    assert again.free == graph.free


@pytest.mark.parametrize(
    ("computed", "what"),
    [
        (lambda s, w: w.clamp(-0.1, 0.1), "clamp"),
        (lambda s, w: w + s.row, "add"),
        (lambda s, w: w.amax((2, 3), keepdim=True).expand_as(w), "amax"),
    ],
)
def test_copies_of_what_cannot_be_shared_out_are_refused(computed: Computed, what: str) -> None:
    graph = record(network(computed, row=learned(6, 1, 1, 1)), INPUTS)
    with pytest.raises(GraphError, match=f"{what} in layer computes with that weight"):
        graph.resize({"first": 12}, weights="widen")
    proofs.widens_exactly(graph, INPUTS, skip=["first"])


def test_what_is_added_to_whole_kernels_is_shared_out_with_them() -> None:
    graph = record(network(lambda s, w: w + s.middle, middle=learned(6, 8, 1, 1)), INPUTS)
    proofs.widens_exactly(graph, INPUTS)


# -- quantisation-aware training ---------------------------------------------------------------------------------------


def per_channel(s: Layer, w: Tensor) -> Tensor:
    scale, zero_point = s.scale.detach().abs() + 0.1, torch.zeros(w.shape[0], dtype=torch.int32, device=w.device)
    return torch.fake_quantize_per_channel_affine(w, scale.to(torch.float32), zero_point, 0, -128, 127)


def test_scales_of_channels_follow_the_channels() -> None:
    graph = record(network(per_channel, silent=False, scale=learned(6)), INPUTS)
    assert graph.free == ["first", "layer", "last"]
    assert not proofs.mixing(graph)
    assert "layer.scale" in {binding.tensor for binding in graph.bindings}
    holds(graph)


def one_range(own: bool) -> Any:
    """An observer that quantises whole tensors, or weights row by row."""
    observer = quantization.MovingAveragePerChannelMinMaxObserver if own else quantization.MovingAverageMinMaxObserver
    scheme = torch.per_channel_symmetric if own else torch.per_tensor_symmetric
    limits = {"quant_min": -128, "quant_max": 127, "dtype": torch.qint8}
    return {"observer": observer, "qscheme": scheme, **limits}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_networks_prepared_for_quantisation_shrink_and_say_that_ranges_are_shared(own: bool, fused: bool) -> None:
    kind = quantization.FusedMovingAvgObsFakeQuantize if fused else quantization.FakeQuantize
    activation = kind.with_args(observer=quantization.MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)]
    model = nn.Sequential(*parts).train()
    model.qconfig = quantization.QConfig(activation, kind.with_args(**one_range(own)))
    model = quantization.prepare_qat(model)
    model(torch.randn(2, 3, 8, 8))  # observers learn their sizes
    graph = record(model, INPUTS)
    assert graph.free == ["0", "2"] == proofs.mixing(graph)
    small = graph.shrink({"0": [1, 2, 7], "2": [0, 5]})
    assert small.get_buffer("0.weight_fake_quant.scale").shape == ((3,) if own else (1,))
    assert small(torch.randn(2, 3, 8, 8)).shape == (2, 4)
    graph.shrink({"0": [3], "2": [0]})
    wide = graph.resize({"0": 12, "2": 9}).train()
    wide(torch.randn(2, 3, 8, 8)).square().mean().backward()
    assert wide.get_parameter("2.weight").grad.shape == (9, 12, 3, 3)
    assert set(verify(model, INPUTS).runs.values()) == {"ok"}


def test_a_network_without_units_is_verified() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 64))
    found = verify(model, INPUTS)
    assert found.exact
    assert not found.graph.free


def test_parts_of_a_mixture_that_are_written_over_are_named_by_its_parameter() -> None:
    class Bank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.routing, self.kernels = nn.Linear(8, 3), learned(3, 6, 8, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            n, _, h, w = x.shape
            share = self.routing(x.mean((2, 3))).softmax(1).view(-1, 3, 1, 1, 1, 1)
            weight = (share * self.kernels).sum(1)
            weight[:, 2] = 0
            rows = weight.shape[1]
            x = F.conv2d(x.reshape(1, -1, h, w), weight.flatten(0, 1), padding=1, groups=n)
            return x.view(n, rows, h, w)

    torch.manual_seed(0)
    graph = record(proofs.in_double(Around(Bank())), INPUTS)
    assert graph.free == ["first", "last"]
    assert "some of the slices of layer.kernels are written over" in proofs.explained(graph)
    holds(graph)
