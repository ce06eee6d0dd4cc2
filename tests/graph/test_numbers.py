"""Numbers that follow from a width, and weights that read units which are not silent: what is not exact says so."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphsearch.errors import GraphError
from morphsearch.graph import record
from morphsearch.loop import verify
from tests.graph import proofs
from tests.graph.mechanisms import conv, net

IMAGE = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize(
    "number",
    [
        lambda n: n**-0.25,
        lambda n: math.sqrt(math.sqrt(n)),
        math.log,
        lambda n: 1 - 1 / n,
        lambda n: math.exp(-n / 10),
        lambda n: 1 / (n + 1),
        lambda n: torch.tensor(float(n)),
        lambda n: torch.sqrt(torch.tensor(float(n))),
    ],
)
def test_however_a_number_follows_from_a_width(number: Callable[[int], float]) -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.out(F.relu(s.c(F.relu(s.b(F.relu(x)) * number(x.shape[1])))))

    model = proofs.in_double(net(forward, a=conv(3, 16), b=conv(16, 12), c=conv(12, 10), out=conv(10, 3)))
    graph = record(model, IMAGE)
    assert {name for name in graph.free if graph.groups[name].mixes} >= {"a"}
    assert not graph.groups["c"].mixes
    assert verify(model, IMAGE).exact


def test_a_scale_of_all_that_was_chunked() -> None:
    """Both factors are scaled by the fourth root of the channels of queries, keys and values alike."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.qkv(s.a(x)).flatten(2)
        q, k, v = y.chunk(3, 1)
        scale = 1 / math.sqrt(math.sqrt(y.shape[1] // 3))
        weights = torch.softmax((q * scale).transpose(1, 2) @ (k * scale), -1)
        return s.out((v @ weights.transpose(1, 2)).view(x.shape[0], -1, 8, 8))

    model = proofs.in_double(net(forward, a=conv(3, 16), qkv=conv(16, 72), out=conv(24, 3)))
    graph = record(model, IMAGE)
    assert graph.free == ["a", "qkv", "qkv#2"]
    assert all("follows from a width" in "".join(graph.groups[name].mixes) for name in ("qkv", "qkv#2"))
    assert not graph.groups["a"].mixes
    assert verify(model, IMAGE).exact


def test_a_window_that_follows_from_a_width() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(s.a(x))
        return s.out(F.avg_pool2d(s.b(x), 1 + x.shape[1] // 4, stride=1).mean((2, 3)))

    model = proofs.in_double(net(forward, a=conv(3, 16), b=conv(16, 12), out=nn.Linear(12, 3)))
    graph = record(model, IMAGE)
    assert graph.groups["a"].mixes
    assert verify(model, IMAGE).exact


FIXED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "convolution": lambda s, y: F.conv2d(y, s.fixed[..., None, None]),
    "linear": lambda s, y: F.linear(y.movedim(1, -1), s.fixed).movedim(-1, 1),
    "product": lambda s, y: (y.movedim(1, -1) @ s.fixed.t()).movedim(-1, 1),
    "einsum": lambda s, y: torch.einsum("bchw,oc->bohw", y, s.fixed),
    "exponential": lambda s, y: F.conv2d(y, s.learned.exp()[..., None, None]),
    "one more": lambda s, y: F.conv2d(y, (s.learned + 1)[..., None, None]),
}


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("bent", [True, False])
def test_a_weight_that_does_not_leave_reads_what_a_unit_gives_at_zero(name: str, bent: bool) -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x)
        return s.out(FIXED[name](s, torch.sigmoid(y) if bent else F.relu(y)))

    parts = {"fixed": torch.rand(6, 8), "learned": nn.Parameter(torch.rand(6, 8))}
    model = proofs.in_double(net(forward, a=conv(3, 8), out=conv(6, 3), **parts))
    graph = record(model, IMAGE)
    assert "a" in graph.free
    assert bool(graph.groups["a"].mixes) is bent
    assert verify(model, IMAGE).exact


@pytest.mark.parametrize("added", ["image", "buffer", "parameter", "number"])
def test_what_is_added_is_read_though_a_unit_is_gone(added: str) -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        other = {"image": x[:, :1], "buffer": s.shift, "parameter": s.bias, "number": 0.5}[added]
        return s.out(F.conv2d(F.relu(s.a(x)) + other, s.fixed[..., None, None]))

    parts = {"fixed": torch.rand(6, 8), "shift": torch.rand(8, 1, 1), "bias": nn.Parameter(torch.rand(8, 1, 1))}
    model = proofs.in_double(net(forward, a=conv(3, 8), out=conv(6, 3), **parts))
    graph = record(model, IMAGE)
    assert "a" in graph.free
    assert bool(graph.groups["a"].mixes) is (added != "parameter")
    assert verify(model, IMAGE).exact


def test_positions_that_a_fixed_matrix_reads_stay() -> None:
    """Graph convolutions over joints: the adjacency is no weight whose rows could leave."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.b(F.relu(s.a(x)))
        n, _, t, v = y.shape
        return s.out(torch.einsum("nkctv,kvw->nctw", y.view(n, 3, -1, t, v), s.adjacency))

    inputs = torch.zeros(1, 3, 6, 5)
    model = proofs.in_double(net(forward, a=conv(3, 10), b=conv(10, 24), adjacency=torch.rand(3, 5, 5), out=conv(8, 3)))
    graph = record(model, inputs)
    assert "a" in graph.free
    assert "adjacency" not in graph.free
    assert verify(model, inputs).exact


def _map_of_a_class(s: nn.Module, y: Tensor) -> Tensor:
    return s.fc(y.mean((2, 3))) + (y * s.fc.weight[0][:, None, None]).sum(1).mean((1, 2))[:, None]


TWICE: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "there and back": lambda s, x: F.conv_transpose2d(F.relu(F.conv2d(x, s.w)), s.w),
    "its transpose": lambda s, x: F.linear(F.relu(F.linear(x.movedim(1, -1), s.w[..., 0, 0])), s.w[..., 0, 0].t()),
    "a map of what decides": lambda s, x: _map_of_a_class(s, s.a(x)),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_weight_that_is_used_twice_is_not_widened_in_silence(name: str) -> None:
    parts = {"w": nn.Parameter(torch.randn(8, 3, 3, 3)), "a": conv(3, 8), "fc": nn.Linear(8, 4)}
    graph = record(proofs.in_double(net(TWICE[name], **parts)), IMAGE)
    widths = dict.fromkeys(graph.free, 12)
    assert widths
    with pytest.raises(GraphError, match=r"widened[\s\S]*fresh"):
        graph.resize(widths, weights="widen")
    proofs.shrinks_exactly(graph, IMAGE, 0, skip=proofs.mixing(graph))


def test_a_number_that_follows_from_data_is_none_of_a_width() -> None:
    """It is another in the narrower network, and the same in the seed with the dropped units at zero."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(s.a(x))
        return s.out(s.b(x) / (1 + float(x.abs().max())))

    model = proofs.in_double(net(forward, a=conv(3, 16), b=conv(16, 12), out=conv(12, 3)))
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = record(model, image)
    assert not graph.on_meta
    assert graph.free == ["a", "b"]
    assert not any("follows from a width" in mix for group in graph.groups.values() for mix in group.mixes)
    assert verify(model, image).exact


def test_a_width_on_real_numbers_is_found_beside_data() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(s.a(x))
        return s.out(s.b(x) / (1 + float(x.abs().max())) / x.shape[1])

    model = proofs.in_double(net(forward, a=conv(3, 16), b=conv(16, 12), out=conv(12, 3)))
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = record(model, image)
    assert not graph.on_meta
    assert "follows from a width" in "".join(graph.groups["a"].mixes)
    assert verify(model, image).exact
