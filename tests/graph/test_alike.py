"""Traces are shared between modules that are alike, and only between those."""

from __future__ import annotations

import functools
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from morphsearch.graph import checked, record, rewrite
from morphsearch.graph.edits import PatchLog, Resized, apply_edits
from morphsearch.graph.tape import Tape
from morphsearch.graph.tracing import alike, trace


class Shuffle(nn.Module):
    """Shuffles channels in `groups` groups, a number that its code reads from an attribute."""

    def __init__(self, groups: int, width: int = 12) -> None:
        super().__init__()
        self.groups, self.unread = groups, width
        self.conv = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        n, _, h, w = x.shape
        return x.view(n, self.groups, 12 // self.groups, h, w).transpose(1, 2).reshape(n, 12, h, w)


class Activated(nn.Module):
    def __init__(self, act) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


def test_what_the_code_reads_tells_modules_apart():
    assert alike(Shuffle(2)) == alike(Shuffle(2, 20))
    assert alike(Shuffle(2)) != alike(Shuffle(3))
    assert alike(Activated(torch.relu)) == alike(Activated(torch.relu)) != alike(Activated(torch.sigmoid))
    assert alike(Activated(nn.ReLU())) != alike(Activated(nn.Sigmoid()))


def test_what_cannot_be_compared_is_never_alike():
    assert alike(Activated(functools.partial(torch.clamp, min=0.0))) is None
    memo = {}
    first = trace(Activated(functools.partial(torch.clamp, min=0.0)), memo=memo)
    assert first is not None
    assert not memo


def test_modules_of_one_trace_are_edited_apart_and_share_code_where_their_edits_are_the_same():
    memo, known = {}, {}
    modules = [Shuffle(2), Shuffle(2), Shuffle(2)]
    graphs = [trace(one, memo=memo) for one in modules]
    assert len(memo) == 1
    before = [node.format_node() for node in graphs[0].nodes]
    reshape = next(node.name for node in graphs[0].nodes if node.target == "reshape")
    x = torch.randn(2, 12, 3, 3)
    wanted = [one(x) for one in modules]
    for module, graph, size in zip(modules, graphs, (-1, -1, 12), strict=True):
        apply_edits(module, graph, PatchLog([Resized(reshape, 1, size, 4)]), known)
    assert [node.format_node() for node in graphs[0].nodes] == before
    for module, output in zip(modules, wanted, strict=True):
        assert torch.equal(module(x), output)
        assert isinstance(module, Shuffle)
    assert type(modules[0]) is type(modules[1]) is not type(modules[2])


def test_modules_with_other_numbers_are_patched_with_their_own():
    """Sizes stand in the code, so that every shuffle is traced and repaired; each with its own number of groups."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 12, 3)
            self.shuffles = nn.Sequential(Shuffle(2), Shuffle(3), Shuffle(2), Shuffle(4))
            self.head = nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.shuffles(self.stem(x)).mean((2, 3)))

    torch.manual_seed(0)
    model = Net().double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    graph = record(model, x)
    keep = {name: range(0, graph.widths[name], 2) for name in graph.free}
    small = graph.shrink(keep).eval()
    zeroed = Net().double().eval()
    zeroed.load_state_dict(model.state_dict())
    with torch.no_grad():
        parameters = dict(zeroed.named_parameters())
        for binding in graph.bindings:
            kept = {int(unit) for name in graph.free for unit in graph.units_of(name)[::2]}
            gone = [i for i, unit in enumerate(binding.units.tolist()) if unit >= 0 and unit not in kept]
            free = {int(unit) for name in graph.free for unit in graph.units_of(name)}
            gone = [i for i in gone if int(binding.units[i]) in free]
            parameters[binding.tensor].index_fill_(binding.dim, torch.tensor(gone, dtype=torch.int64), 0)
    assert len(graph.free) > 0
    torch.testing.assert_close(small(x), zeroed(x), rtol=1e-9, atol=1e-12)


class Stage(nn.Module):
    """Writes into the list it is given, as HRNet's stages do, and hands on two resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.fuse = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(2))

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        for i, branch in enumerate(self.branches):
            x[i] = branch(x[i])
        return [fuse(x[0] + x[1]) for fuse in self.fuse]


class TwoResolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stage = Stage()
        self.ends = nn.ModuleList(nn.Conv2d(8, 16, 1) for _ in range(2))
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        low, high = self.stage([x, x])
        y = torch.relu(self.ends[0](low)) + self.ends[1](high)
        return self.head((y + self.block(y)).mean((2, 3)))


def test_a_module_that_writes_into_its_list_of_inputs():
    """It is run by the trace of the network around it; a branch whose beginning another module computes stays."""
    graph = record(TwoResolutions(), torch.zeros(1, 3, 8, 8))
    floors = {name: group.floor for name, group in graph.groups.items() if group.frozen is None}
    assert floors["block.0"] == 0
    widths = {name: 0 if name == "block.0" else graph.widths[name] for name in graph.groups}
    assert graph.resize(graph.closed(widths))(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


class Gain(nn.Module):
    """A child that is asked for a number by name, not called."""

    def __init__(self, value: float, size: int) -> None:
        super().__init__()
        self.value, self.size = value, size

    def forward(self, x: Tensor) -> Tensor:
        return x * self.value

    def scaled(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], 12, self.size * self.size) * self.value


class Gained(nn.Module):
    def __init__(self, value: float, size: int) -> None:
        super().__init__()
        self.conv, self.gain, self.size = nn.Conv2d(12, 12, 1, bias=False), Gain(value, size), size

    def forward(self, x: Tensor) -> Tensor:
        return self.gain.scaled(self.conv(x)).view(x.shape[0], 12, *x.shape[2:])


def test_what_the_code_of_a_child_reads_tells_modules_apart():
    """The child's method is traced with the code that calls it, so its numbers become numbers of the trace."""
    assert alike(Gained(2.0, 8)) == alike(Gained(2.0, 8))
    assert alike(Gained(2.0, 8)) != alike(Gained(3.0, 8))
    model = nn.Sequential(
        nn.Conv2d(3, 12, 1),
        Gained(2.0, 8),
        Gained(3.0, 8),
        nn.AvgPool2d(2),
        Gained(5.0, 4),
        nn.Flatten(),
        nn.Linear(192, 5),
    )
    model = model.double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    graph = record(model, x)
    keep = {name: range(0, graph.widths[name], 2) for name in graph.free}
    assert len(keep) == 4
    small = graph.shrink(keep)
    with torch.no_grad():
        for binding in graph.bindings:
            dropped = torch.from_numpy((binding.units >= 0) & (binding.units < 48) & (binding.units % 2 == 1))
            tensor = model.get_parameter(binding.tensor)
            tensor.movedim(binding.dim, 0)[dropped] = 0.0
    assert torch.allclose(small(x), model(x), rtol=1e-9)


def test_trials_that_failed_keep_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every attempt at a patch the network, and on real numbers its activations, would stay to the end."""
    kept: list[weakref.ref[nn.Module]] = []
    alive: list[int] = []

    def rebuilt(*args: Any, **kwargs: Any) -> nn.Module:
        gc.collect()
        alive.append(sum(one() is not None for one in kept))
        network = rewrite.rebuild(*args, **kwargs)
        kept.append(weakref.ref(network))
        return network

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.shuffle, self.head = nn.Conv2d(3, 12, 3), Shuffle(2), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.shuffle(self.stem(x)).mean((2, 3)))

    monkeypatch.setattr(checked, "rebuild", rebuilt)
    graph = record(Net().double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64))
    graph.shrink({name: range(0, graph.widths[name], 2) for name in graph.free})
    assert len(alive) > 2
    assert alive == [0] * len(alive)


def test_traces_keep_no_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a network is recorded nobody collects cycles: recordings that a trace would keep alive pile up."""
    tapes: list[weakref.ref[Tape]] = []
    begin = Tape.__init__

    def begun(tape: Tape, *args: Any, **kwargs: Any) -> None:
        begin(tape, *args, **kwargs)
        tapes.append(weakref.ref(tape))

    monkeypatch.setattr(Tape, "__init__", begun)
    monkeypatch.setattr(checked, "tidy", lambda: None)
    monkeypatch.setattr(checked, "edit_foreseen", lambda *_: None)  # a repair runs
    model = nn.Sequential(nn.Conv2d(3, 12, 3), Shuffle(2), nn.Conv2d(12, 5, 1)).eval()
    gc.disable()
    try:
        graph = record(model, torch.randn(2, 3, 8, 8))
        assert graph.tape.traces, "a trace of the shuffle ran"
        assert len(tapes) > 3
        assert [one() for one in tapes if one() is not None] == [graph.tape]
    finally:
        gc.enable()
