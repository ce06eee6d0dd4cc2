"""Whole branches go: the network that comes out, what is left of it, and where it is not legal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import morphsearch as ms
from morphsearch.errors import GraphError
from morphsearch.graph import ConvGraph, record
from morphsearch.loop.selection import from_positions
from morphsearch.loop.verification import randomise, zeroed
from morphsearch.models import build_seed
from tests.torchvision_shim import models


def prepared(model: nn.Module, shape: tuple[int, ...]) -> tuple[ConvGraph, Tensor]:
    model = model.double().eval()
    randomise(model, torch.Generator().manual_seed(0))
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return record(model, x), x


def removable(graph: ConvGraph) -> list[str]:
    return [name for name, group in graph.groups.items() if not group.floor]


def reference(graph: ConvGraph, names: list[str]) -> nn.Module:
    """The seed with the parameters of the groups, and of all layers that go with them, at zero."""
    return zeroed(graph, {name: [] for name in names}).eval()


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.one, self.two = nn.Conv2d(6, 4, 1), nn.Sequential(nn.Conv2d(6, 3, 1), nn.ReLU(), nn.Conv2d(3, 5, 3, 1, 1))
        self.head = nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(torch.cat([self.one(x), self.two(x)], 1)))


class Gated(nn.Module):
    """A squeeze-and-excite gate inside a branch: its constant goes with the branch, not alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 1)
        self.squeeze, self.excite = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        inner = torch.relu(self.conv1(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(inner.mean((2, 3), keepdim=True)))))
        return self.conv2(inner * gate) + x


NETWORKS = {
    "basic": (lambda: build_seed("resnet20").model, (2, 3, 16, 16), 9),
    "padded shortcut": (lambda: build_seed("resnet20?shortcut=A").model, (2, 3, 16, 16), 7),
    "in-place": (lambda: models().resnet18(weights=None, num_classes=4), (2, 3, 32, 32), 8),
    "bottleneck": (lambda: build_seed("resnet50?num_classes=4&stem=cifar").model, (2, 3, 8, 8), 32),
    "inverted": (lambda: models().mobilenet_v2(weights=None, num_classes=4), (2, 3, 32, 32), 10),
    "dense": (
        lambda: models().DenseNet(growth_rate=4, block_config=(3, 2), num_init_features=8, bn_size=2, num_classes=4),
        (2, 3, 32, 32),
        10,
    ),
    "gated": (Gated, (2, 3, 8, 8), 1),
    "inception": (Inception, (2, 3, 8, 8), 1),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_branch_leaves_nothing_behind(network: str) -> None:
    build, shape, count = NETWORKS[network]
    graph, x = prepared(build(), shape)
    names = removable(graph)
    assert len(names) == count
    for chosen in (names[:1], names[1::2], names):
        if not chosen:
            continue
        shrunk = graph.shrink({name: [] for name in chosen}).eval()
        expected = reference(graph, chosen)(x).detach()
        assert float((shrunk(x).detach() - expected).abs().max()) <= 1e-9 * float(expected.abs().max())
        removal = graph.gone_with(chosen)
        assert removal is not None
        left = {name for name, _ in graph.model.named_parameters()} - removal.parameters
        assert {name for name, _ in shrunk.named_parameters()} == left

        widths = graph.check_widths(dict.fromkeys(chosen, 0))
        assert ms.cost(graph, "params", widths).total == sum(p.numel() for p in shrunk.parameters())
        assert ms.cost(graph, "flops", widths).total == ms.cost(record(shrunk, x, check=False), "flops").total
        shrunk.train()
        shrunk(x).square().mean().backward()
        assert all(p.grad is not None for p in shrunk.parameters())


def test_layers_of_a_branch_are_no_longer_called() -> None:
    graph, x = prepared(build_seed("resnet20").model, (2, 3, 16, 16))
    shrunk = graph.shrink({"stages.1.1.conv1": []})
    called: set[str] = set()
    for name, module in shrunk.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    shrunk(x)
    assert "stages.1.1" in called
    assert not {f"stages.1.1.{layer}" for layer in ("conv1", "bn1", "conv2", "bn2")} & called


def test_where_nothing_is_left_a_branch_must_stay() -> None:
    graph, _ = prepared(build_seed("vgg16_bn?num_classes=4").model, (2, 3, 32, 32))
    assert removable(graph) == []
    with pytest.raises(GraphError, match="use at least 1"):
        graph.shrink({next(iter(graph.free)): []})
    inception, _ = prepared(Inception(), (2, 3, 8, 8))
    (name,) = removable(inception)
    other = "two.2" if name == "one" else "one"
    with pytest.raises(GraphError, match="use at least 1"):
        inception.shrink({name: [], other: []})


def test_branches_and_units_leave_together_and_again() -> None:
    graph, x = prepared(build_seed("resnet20").model, (2, 3, 16, 16))
    keep = {"stages.1.0.conv1": [], "stages.0.1.conv1": [1, 4], "stages.1.0.conv2": list(range(0, 32, 3))}
    multiplicity_kept = {name: len(units) for name, units in keep.items()}
    network, plan = graph.planned(from_positions(graph, keep))
    smaller = record(network, x, decisions=plan.decisions)
    # Groups keep their names although the layer that one was called after is gone, and so does what is gone.
    assert smaller.widths == {**graph.widths, **multiplicity_kept}
    assert smaller.groups["stages.1.0.conv1"].frozen is not None
    assert torch.allclose(network.eval()(x), zeroed(graph, keep).eval()(x), rtol=1e-9, atol=1e-12)

    again = smaller.shrink({"stages.2.1.conv1": [], "stages.0.1.conv1": [1]}).eval()
    assert again(x).shape == (2, 10)
    assert not [name for name, _ in again.named_parameters() if name.startswith(("stages.2.1.", "stages.1.0.conv"))]


def test_fresh_weights_without_a_branch() -> None:
    graph, x = prepared(models().resnet18(weights=None, num_classes=4), (2, 3, 32, 32))
    network = graph.resize({"layer2.1.conv1": 0, "layer1.0.conv1": 96}).double()
    assert network.eval()(x).shape == (2, 4)
    assert not list(network.get_submodule("layer2.1.conv1").parameters())
    assert network.get_submodule("layer1.0.conv1").weight.shape[0] == 96


class _Scales(nn.Module):
    """Each scale adds the one before it (Res2Net, arXiv 1904.01169)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.ModuleList(nn.Conv2d(8, 3, 1) for _ in range(4)), nn.Conv2d(12, 8, 1)
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third, last = [enter(x).relu() for enter in self.enter]
        one = self.convs[0](first).relu()
        two = self.convs[1](one + second).relu()
        return x + self.leave(torch.cat([one, two, self.convs[2](two + third).relu(), last], 1))


class _Halves(nn.Module):
    """One path reads the first half of the channels, another the second (SKNet with split inputs, arXiv 1903.06586)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.leave = nn.Conv2d(6, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(x, 4, 1)
        return x + self.leave((self.first(first) + self.second(second)).relu())


@pytest.mark.parametrize(("block", "blocks", "count"), [(_Scales, 1, 5), (_Halves, 2, 1)])
def test_every_set_of_branches_that_may_go_can_go(block: type[nn.Module], blocks: int, count: int) -> None:
    torch.manual_seed(0)
    stem, head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
    graph, x = prepared(nn.Sequential(stem, *(block() for _ in range(blocks)), head), (2, 3, 8, 8))
    names = removable(graph)
    assert len(names) == count
    for chosen in range(1, 2 ** len(names)):
        gone = [name for number, name in enumerate(names) if chosen >> number & 1]
        if graph.gone_with(gone) is None:  # something of a concatenation must stay
            continue
        network, plan = graph.planned(from_positions(graph, {name: [] for name in gone}))
        torch.testing.assert_close(network.eval()(x), reference(graph, gone)(x))
        smaller = record(network, x, decisions=plan.decisions)
        assert smaller.widths == {**graph.widths, **dict.fromkeys([*gone, *_also(graph, gone)], 0)}


def test_verify_takes_branches_that_can_go_together() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), _Scales(), nn.Conv2d(8, 4, 1))
    for seed in range(4):  # some halves of the branches leave nothing of the concatenation, or cannot go
        found = ms.verify(block, torch.zeros(2, 3, 8, 8), trials=1, seed=seed)
        assert found.exact
        assert len(found.trials) == 2


def _also(graph: ConvGraph, gone: list[str]) -> list[str]:
    """The groups that go with others."""
    removal = graph.gone_with(gone)
    assert removal is not None
    return [name for number, name in enumerate(graph.groups) if number in removal.groups]
