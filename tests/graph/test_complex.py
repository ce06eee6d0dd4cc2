"""Networks with complex parameters and buffers: what meets those stays, everything else shrinks exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphsearch.costs import cost
from morphsearch.errors import InputError
from morphsearch.exporting import export
from morphsearch.graph import record
from morphsearch.graph.precision import in_precision
from morphsearch.loop import verify
from morphsearch.training.averaging import MovingAverage
from tests.costs.test_flops_operators import fvcore_flops
from tests.graph import proofs
from tests.graph.mechanisms import cbr, conv, head, net

IMAGE = torch.rand(2, 3, 8, 8)


class _Spectral(nn.Module):
    """The spectral convolution of Fourier neural operators (arXiv 2010.08895), as its authors wrote it."""

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.low = nn.Parameter(0.1 * torch.rand(channels, channels, modes, modes, dtype=torch.cfloat))
        self.high = nn.Parameter(0.1 * torch.rand(channels, channels, modes, modes, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        found, m = torch.fft.rfft2(x), self.modes
        out = torch.zeros(n, c, h, w // 2 + 1, dtype=torch.cfloat, device=x.device)
        out[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", found[:, :, :m, :m], self.low)
        out[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", found[:, :, -m:, :m], self.high)
        return torch.fft.irfft2(out, s=(h, w))


def fourier_neural_operator() -> nn.Module:
    return net(
        lambda s, x: s.c(F.gelu(s.b(F.gelu(s.spectral(y := s.a(x)) + s.skip(y))))),
        a=conv(3, 8, 1),
        spectral=_Spectral(8, 3),
        skip=conv(8, 8, 1),
        b=conv(8, 16, 1),
        c=conv(16, 2, 1),
    )


def global_filter() -> nn.Module:
    """A filter for each channel, in the frequencies (arXiv 2107.00645)."""
    weight = nn.Parameter(torch.randn(8, 8, 5, dtype=torch.cfloat))
    return net(
        lambda s, x: s.head(s.b(torch.fft.irfft2(torch.fft.rfft2(s.a(x), norm="ortho") * s.w, norm="ortho"))),
        a=cbr(3, 8),
        b=cbr(8, 6),
        head=head(6),
        w=weight,
    )


def one_complex_number() -> nn.Module:
    weight = nn.Parameter(torch.randn(1, dtype=torch.cfloat))
    return net(lambda s, x: s.head(s.b(s.a(x)) * s.w.abs()), a=cbr(3, 8), b=cbr(8, 6), head=head(6), w=weight)


def kernel_from_complex_weights() -> nn.Module:
    weight = nn.Parameter(torch.randn(8, 8, 3, 3, dtype=torch.cfloat))
    return net(
        lambda s, x: s.head(s.b(F.conv2d(s.a(x), s.w.real * 0.1, padding=1))),
        a=cbr(3, 8),
        b=cbr(8, 6),
        head=head(6),
        w=weight,
    )


def complex_convolution() -> nn.Module:
    return net(
        lambda s, x: s.head(s.b(s.w(s.a(x).to(s.w.weight.dtype)).abs())),
        a=cbr(3, 8),
        w=nn.Conv2d(8, 8, 3, padding=1, dtype=torch.cfloat),
        b=cbr(8, 6),
        head=head(6),
    )


class _Rotary(nn.Module):
    """Pairs of channels as complex numbers, turned by a table (arXiv 2104.09864)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = cbr(3, 8), cbr(8, 6), head(6)
        self.register_buffer("table", torch.polar(torch.ones(64, 4), torch.rand(64, 4)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        pairs = x.flatten(2).transpose(1, 2).unflatten(2, (-1, 2)).contiguous()
        turned = torch.view_as_real(torch.view_as_complex(pairs) * self.table).flatten(2)
        return self.head(self.b(turned.transpose(1, 2).reshape(x.shape)))


FORMS: dict[Callable[[], nn.Module], tuple[str, str, set[str]]] = {
    fourier_neural_operator: ("a", "the parameter spectral.low", {"b"}),
    global_filter: ("a.0", "the parameter w", {"b.0"}),
    one_complex_number: ("b.0", "the parameter w", {"a.0"}),
    kernel_from_complex_weights: ("a.0", "the parameter w", {"b.0"}),
    complex_convolution: ("a.0", "the parameter w.weight", {"b.0"}),
    _Rotary: ("a.0", "the buffer table", {"b.0"}),
}


@pytest.mark.parametrize("build", FORMS)
def test_what_meets_complex_numbers_stays_and_the_rest_is_free(build: Callable[[], nn.Module]) -> None:
    frozen, what, free = FORMS[build]
    torch.manual_seed(0)
    model = build()
    graph = record(model, IMAGE)
    assert set(graph.free) == free
    assert f"it meets {what}, whose numbers are complex" in str(graph.groups[frozen].frozen)
    for network, priced in ((model, graph), (graph.resize(proofs.scaled(graph, 0.5)), None)):
        found = cost(priced or record(network, IMAGE), "flops").total
        assert found == fvcore_flops(network, IMAGE)
        assert cost(priced or record(network, IMAGE), "params").total == sum(p.numel() for p in network.parameters())
    assert cost(graph, "flops", proofs.scaled(graph, 0.5)).total == found

    proof = verify(model, IMAGE)
    assert proof.exact
    assert proof.precision == "float64"
    assert proof.max_error < 1e-12
    assert set(proof.runs.values()) == {"ok"}
    double = record(proofs.in_double(model), IMAGE.double())
    proofs.shrinks_exactly(double, IMAGE.double(), 0)
    proofs.widens_exactly(double, IMAGE.double())
    proofs.resizes(double, IMAGE.double(), 0.5)


def test_both_parts_of_a_complex_number_leave_together() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        pairs = x.flatten(2).transpose(1, 2).unflatten(2, (-1, 2)).contiguous()
        squared = torch.view_as_real(torch.view_as_complex(pairs).square()).flatten(2)
        return s.head(s.b(squared.transpose(1, 2).unflatten(2, x.shape[2:])))

    inputs = IMAGE.double()
    graph = record(proofs.in_double(net(forward, a=cbr(3, 8), b=cbr(8, 6), head=head(6))), inputs)
    assert graph.groups["a.0"].channels == 2
    assert graph.widths["a.0"] == 4
    proofs.shrinks_exactly(graph, inputs, 0)


def test_double_precision_keeps_imaginary_parts() -> None:
    model = nn.ParameterList([torch.ones(1), torch.tensor([1 + 2j], dtype=torch.cfloat)])
    model.register_buffer("count", torch.zeros(1, dtype=torch.int64))
    assert [t.dtype for t in in_precision(model, torch.float64).state_dict().values()] == [
        torch.float64,
        torch.complex128,
        torch.int64,
    ]
    assert model[1].item() == 1 + 2j


def test_they_are_averaged_and_exported_but_not_as_source(tmp_path: Path) -> None:
    model = global_filter()
    average, before = MovingAverage(model, 0.9), model.w.detach().clone()
    with torch.no_grad():
        model.w.add_(1j)
    average.update(1000)
    with average.applied():
        assert torch.allclose(model.w, before + 0.1j)
    assert export(model, format="pt2", path=tmp_path / "network.pt2", example_inputs=IMAGE).notes == []
    with pytest.raises(InputError, match="w is complex"):
        export(model, format="python", path=tmp_path / "network.py", example_inputs=IMAGE)
