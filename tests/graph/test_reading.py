"""Reading a graph, and what recording and rewriting must leave alone."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

from morphsearch.errors import UnknownName
from morphsearch.graph import record
from tests import torchvision_shim
from tests.graph import proofs
from tests.graph.mechanisms import CASES, cbr, head, net


def residual() -> nn.Module:
    return CASES["residual"].build()


INPUTS = torch.zeros(2, 3, 8, 8)


def test_groups_are_in_network_order_and_name_their_layers() -> None:
    graph = record(residual(), INPUTS)
    assert graph.widths == {"stem.0": 8, "a.0": 5, "c.0": 6, "head.2": 5}
    assert graph.groups["a.0"].layers == ("a.0", "a.1", "b.0")
    assert graph.free == ["stem.0", "a.0", "c.0"]
    assert graph.num_units == 24
    assert [len(graph.units_of(name)) for name in graph.groups] == list(graph.widths.values())


def test_explain() -> None:
    graph = record(residual(), INPUTS)
    text = graph.explain("b.0")
    assert "stem.0: 8 units" in text
    assert "add" in text
    assert "read by a.0, c.0, head.2" in text
    assert "network's output" in graph.explain("head.2")
    with pytest.raises(UnknownName, match=r"did you mean"):
        graph.explain("sten.0")


def test_networkx() -> None:
    graph = record(residual(), INPUTS)
    drawn = graph.to_networkx()
    assert nx.is_directed_acyclic_graph(drawn)
    assert drawn.nodes["a.0:conv"]["parameters"] == {"weight": "a.0.weight"}
    assert nx.has_path(drawn, "stem.0:conv", "head.2:linear")
    assert next(data["kind"] for _, data in drawn.nodes(data=True)) == "conv"


def test_bindings_cover_every_parameter_that_was_used() -> None:
    graph = record(residual(), INPUTS)
    bound = {binding.tensor for binding in graph.bindings}
    assert {name for name, _ in graph.model.named_parameters()} <= bound
    for binding in graph.bindings:
        tensor = graph.model.state_dict()[binding.tensor]
        assert binding.units.shape == (tensor.shape[binding.dim],)


def test_parameter_shapes_follow_the_widths() -> None:
    graph = record(residual(), INPUTS)
    widths = graph.widths | proofs.scaled(graph, 0.5)
    half = graph.resize({name: widths[name] for name in graph.free})
    values = list(widths.values())
    for name, parameter in half.named_parameters():
        assert tuple(extent.at(values) for extent in graph.parameter_shapes[name]) == tuple(parameter.shape)


def test_the_network_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = torchvision_shim.build("googlenet").train()
    model.aux1.eval()
    calls = []
    model.conv1.register_forward_hook(lambda *_: calls.append(1))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    identities = [id(tensor) for tensor in [*model.parameters(), *model.buffers()]]
    flags = [module.training for module in model.modules()]
    before, random = dict(vars(model)), torch.get_rng_state()

    graph = record(model, torch.zeros(1, 3, 64, 64))
    graph.shrink({name: range(group.width // 2) for name, group in graph.groups.items() if name in graph.free})

    assert torch.equal(torch.get_rng_state(), random)
    assert [id(tensor) for tensor in [*model.parameters(), *model.buffers()]] == identities
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert dict(vars(model)).keys() == before.keys()
    for tensor in [*model.parameters(), *model.buffers()]:
        assert not vars(tensor)
        assert tensor.grad is None


@pytest.mark.parametrize("kind", [dict, OrderedDict, lambda: defaultdict(list), lambda: {"inner": {}}])
def test_what_forward_code_keeps_in_containers_is_put_back(kind: Callable[[], Any]) -> None:
    """Private ones and those within others too; else the network went on with tensors that have no numbers."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        kept, size = s._kept.get("inner", s._kept), tuple(x.shape[2:])
        if size not in kept:
            kept[size] = torch.linspace(0, 1, size[0], dtype=x.dtype, device=x.device).view(1, 1, -1, 1)
            s.order.append(size)
        return s.head(s.stem(x) + kept[size])

    model = net(forward, stem=nn.Conv2d(3, 8, 1), head=nn.Conv2d(8, 2, 1))
    model._kept, model.order = kind(), deque(maxlen=4)
    graph = record(model, INPUTS)
    assert model._kept == kind()
    assert not model.order
    assert model(torch.rand(2, 3, 8, 8)).isfinite().all()
    assert len(model.order) == 1
    shrunk = graph.shrink({"stem": range(3)})
    assert shrunk(torch.rand(2, 3, 8, 8)).isfinite().all()
    assert record(model, INPUTS).free == graph.free
    assert len(model.order) == 1


def test_real_recording_leaves_statistics_and_random_numbers_alone() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = nn.functional.dropout(s.a(x), 0.5, s.training)
        return s.head(x if float(x.abs().sum()) >= 0 else -x) + (s.aux(x) if s.training else 0)

    torch.manual_seed(0)
    model = net(forward, a=cbr(3, 8), head=head(8), aux=head(8)).train()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    graph = record(model, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert not graph.on_meta
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(vars(tensor) for tensor in [*model.parameters(), *model.buffers()])


def test_rewritten_networks_keep_mode_gradients_and_names() -> None:
    model = residual().train()
    model.get_parameter("a.0.weight").requires_grad_(False)
    model.stem.eval()
    graph = record(model, INPUTS)
    shrunk = graph.shrink({"a.0": [0, 4]})
    assert [m.training for m in shrunk.modules()] == [m.training for m in model.modules()]
    assert [name for name, p in shrunk.named_parameters() if not p.requires_grad] == ["a.0.weight"]
    assert list(shrunk.state_dict()) == list(model.state_dict())
    assert shrunk.get_submodule("a.0").out_channels == 2
    assert "Conv2d(8, 2" in repr(shrunk)
    with torch.no_grad():
        for parameter in shrunk.parameters():
            parameter.zero_()
    assert any(parameter.any() for parameter in model.parameters()), "weights are copies"


@pytest.mark.parametrize("name", ["residual", "shuffle_units", "c2f", "padded_shortcut", "view_written"])
def test_rewritten_networks_copy_and_load(name: str) -> None:
    case = CASES[name]
    graph = record(proofs.in_double(case.build()), case.inputs)
    shrunk = proofs.shrinks_exactly(graph, case.inputs, 3)
    twin = copy.deepcopy(shrunk)
    inputs = torch.randn(3, *case.inputs.shape[1:], dtype=torch.float64)  # another batch size than the example's
    with torch.no_grad():
        assert torch.equal(twin(inputs), shrunk(inputs))
        for parameter in twin.parameters():
            parameter.add_(1.0)
        twin.load_state_dict(shrunk.state_dict())
        assert torch.equal(twin(inputs), shrunk(inputs))


@pytest.mark.parametrize("name", ["residual", "shuffle_units", "padded_shortcut"])
def test_rewritten_networks_are_captured_whole(name: str) -> None:
    # What torch.compile does before it generates code, which takes a compiler and a minute.
    case = CASES[name]
    graph = record(proofs.in_double(case.build()), case.inputs)
    shrunk = proofs.shrinks_exactly(graph, case.inputs, 3)
    compiled = torch.compile(shrunk, backend="eager", fullgraph=True)
    inputs = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(compiled(inputs), shrunk(inputs))


def test_fresh_weights_are_fresh() -> None:
    model = residual()
    graph = record(model, INPUTS)
    other = graph.resize({"a.0": 4})
    assert not torch.equal(other.get_parameter("stem.0.weight"), model.get_parameter("stem.0.weight"))
    assert torch.equal(other.get_buffer("stem.1.running_var"), torch.ones(8))


class _Written(nn.Module):
    """Channels written into a tensor of another by position, which no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`n 3 h w` to `n 4`."""
        x = self.first(x)
        y = torch.zeros_like(x)
        y[:, :4] = x[:, 12:]
        y[:, 4:] = x[:, :12]
        return self.head(self.last(y).mean((2, 3)))


def test_what_a_trial_froze_stays_frozen_at_other_widths() -> None:
    inputs = torch.zeros(1, 3, 8, 8)
    graph = record(_Written(), inputs)
    tried = {key.removeprefix("frozen:") for key in graph.decisions if key.startswith("frozen:")}
    assert tried
    other = record(graph.resize({"last": 5}), inputs, check=False, decisions=graph.decisions)
    assert {name for name, group in other.groups.items() if group.frozen} >= tried
    assert other.widths == {**graph.widths, "last": 5}


class _Gated(nn.Module):
    """Four parts of one layer, whose size is written down, decide together."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Conv2d(3, 4 * 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`n 3 h w` to `n 4`."""
        a, b, c, d = torch.split(self.gates(x), 6, dim=1)
        return self.head((a.sigmoid() * b + c.tanh() * d.relu()).mean((2, 3)))


@pytest.mark.parametrize("kept", [[0], [5], [0, 1], [2, 5], [1, 3, 4], [0, 1, 2, 3], [0, 2, 3, 4, 5]])
def test_parts_of_one_layer_are_not_mistaken_for_each_other(kept: list[int]) -> None:
    # With two channels left, the second part of a split into sixes has two channels as well: the last gate's.
    inputs = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    graph = record(proofs.in_double(_Gated()), inputs)
    keep = {graph.free[0]: kept}
    shrunk, zeroed = graph.shrink(keep), proofs.zeroed(graph, keep)
    with torch.no_grad():
        torch.testing.assert_close(shrunk.eval()(inputs), zeroed.eval()(inputs))


class _Recurrent(nn.Module):
    """A convolutional recurrent cell (arXiv 1506.04214) whose first state is a row of zeros before it has a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.gates = nn.Conv2d(8 + 12, 4 * 12, 3, padding=1)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`n t 3 h w` to `n 4`."""
        sizes = (len(x), 12, *x.shape[-2:])
        state = cell = torch.zeros(math.prod(sizes), dtype=x.dtype).view(sizes)
        for time in range(x.shape[1]):
            read = torch.cat([self.stem(x[:, time]).relu(), state], 1)
            i, f, o, new = self.gates(read).split(12, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * new.tanh()
            state = o.sigmoid() * cell.tanh()
        return self.head(state.mean((2, 3)))


def test_only_what_is_in_the_way_is_frozen() -> None:
    inputs = torch.zeros(1, 2, 3, 6, 6)
    graph = record(_Recurrent(), inputs)
    assert graph.free == ["stem"]
    assert "conv in gates" in (graph.groups["gates"].frozen or "")
    double = record(proofs.in_double(_Recurrent()), inputs.double())
    proofs.shrinks_exactly(double, inputs.double(), 1)


@pytest.mark.parametrize("name", ["residual", "shuffle_units"])
def test_rewritten_networks_train_in_parallel(name: str) -> None:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    case = CASES[name]
    graph = record(case.build(), case.inputs)
    shrunk = graph.resize(proofs.scaled(graph, 0.5)).train()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(shrunk)
        wrapped(torch.randn(case.inputs.shape)).square().mean().backward()
        assert all(parameter.grad is not None for parameter in wrapped.parameters())
        # Who holds the group last ends its threads. A wrapped network does so with the interpreter locked, which one of
        # those threads may be waiting for.
        del wrapped
    finally:
        dist.destroy_process_group()


class _Stubborn(nn.Conv2d):
    """Initialises itself only at the size that it was built with."""

    def reset_parameters(self) -> None:
        if self.weight.shape[0] != 8:
            raise ValueError("eight filters, or none")
        super().reset_parameters()


def test_a_module_that_cannot_initialise_itself_gets_weights_like_its_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(_Stubborn(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    other = record(model, INPUTS).resize({"0": 6})
    before, after = model.get_parameter("0.weight"), other.get_parameter("0.weight")
    assert not torch.isin(after, before).any()
    torch.testing.assert_close(after.std(), before.std(), rtol=0.25, atol=0)


class _Classes(nn.Module):
    """Drops its background class after the softmax, as detectors do, and hands further rows on to a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scores, self.rest = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made = self.scores(self.conv(x).relu().mean((2, 3)))
        return made.softmax(1)[:, 1:3], self.rest(made[:, 3:])


def test_a_class_that_the_network_drops_stays_beside_those_that_it_gives() -> None:
    graph = record(_Classes(), INPUTS)
    parts = [group for group in graph.groups.values() if group.layers[0] == "scores"]
    assert [group.width for group in parts] == [1, 2, 2]
    assert ["no layer reads" in (group.frozen or "") for group in parts] == [True, False, False]
    assert parts[2].frozen is None
    smaller = graph.resize({"conv": 4, parts[2].name: 1})
    assert smaller.get_parameter("scores.weight").shape == (4, 4)
    assert [tuple(t.shape) for t in smaller(INPUTS)] == [(2, 2), (2, 3)]


@pytest.mark.parametrize("dims", [2, 3])
def test_rewritten_weights_keep_their_memory_format(dims: int) -> None:
    conv, transposed = (nn.Conv2d, nn.ConvTranspose2d) if dims == 2 else (nn.Conv3d, nn.ConvTranspose3d)
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    layers = (conv(3, 8, 3), conv(8, 8, 1), conv(8, 8, 3, groups=8), transposed(8, 6, 3), conv(6, 4, 1))
    graph = record(nn.Sequential(*layers).to(memory_format=last), torch.rand(2, 3, *[7] * dims))
    for rewritten in (graph.shrink({"0": [0, 2, 5]}), graph.resize({"0": 11, "3": 5})):
        for layer in rewritten:
            like = torch.empty_like(layer.weight).contiguous(memory_format=last)
            assert layer.weight.is_contiguous(memory_format=last)
            assert layer.weight.stride() == like.stride() or layer.weight.is_contiguous()
        assert not rewritten[0].weight.is_contiguous()
        assert not rewritten[3].weight.is_contiguous()
        assert rewritten[4].weight.stride(1) == 1, "of a kernel of one element the strides say it"
    plain = record(nn.Sequential(*layers).to(memory_format=torch.contiguous_format), torch.rand(2, 3, *[7] * dims))
    assert all(layer.weight.is_contiguous() for layer in plain.shrink({"0": [0, 2, 5]}))
