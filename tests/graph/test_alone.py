"""Modules that are watched alone, one for all that are alike, tell what a run of the whole network tells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import morphsearch as ms
from morphsearch.graph.alone import seen_alone
from morphsearch.graph.patch import _watch
from morphsearch.graph.recording import run_tape
from morphsearch.graph.tape import Tape


class Scale(nn.Module):
    """A module of its own, so that what it gave is known."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None]


class Shuffled(nn.Module):
    """Two halves, of which one goes through layers; then their channels in turns."""

    def __init__(self, width: int, groups: int = 2) -> None:
        super().__init__()
        self.width, self.groups = width, groups
        self.conv = nn.Conv2d(width // 2, width // 2, 3, padding=1)
        self.scale = Scale(width // 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.split(self.width // 2, 1)
        y = torch.cat([a, self.scale(torch.relu(self.conv(b)))], 1)
        n, c, h, w = y.shape
        return y.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Attention(nn.Module):
    """Heads, a table of biases that a buffer indexes, and sizes in views."""

    def __init__(self, width: int, heads: int, places: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, width**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.rand(2 * places, heads))
        self.register_buffer("index", torch.randint(2 * places, (places, places)))

    def forward(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        weights = (q @ k.transpose(-2, -1) * self.scale + bias).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c)), size


class Blocks(nn.Module):
    """Blocks that are alike, two that are not, and code of the network's own around them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(*(Shuffled(8) for _ in range(4)), Shuffled(8, 4))
        self.down = nn.Conv2d(8, 12, 2, 2)
        self.attention = nn.ModuleList(Attention(12, 3, 16) for _ in range(5))
        self.token = nn.Parameter(torch.zeros(1, 1, 12))
        self.last = Shuffled(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.blocks(self.stem(x)))
        tokens, size = x.flatten(2).transpose(1, 2), (4, 4)
        for attention in self.attention:
            more, size = attention(tokens, size)
            tokens = tokens + more
        tokens = tokens + self.token
        x = self.last(tokens.transpose(1, 2).reshape(-1, 12, size[0], size[1]))
        return self.head(x.mean((2, 3)))


def _recorded(model: nn.Module, x: Any) -> Tape:
    def blank() -> Tape:
        tape = Tape(model)
        tape.keeps_calls = True
        return tape

    return run_tape(model, x, blank=blank)[0]


def _compare(alone: dict[str, Any], whole: dict[str, Any]) -> int:
    count = 0
    for path, seen in alone.items():
        other = whole[path]
        assert (seen is None) == (other is None)
        if seen is None:
            continue
        assert seen.fixed == other.fixed
        assert seen.lengths == other.lengths
        assert list(seen.facts) == list(other.facts)
        for name, fact in seen.facts.items():
            same = other.facts[name]
            assert fact.several == same.several
            assert type(fact.value) is type(same.value)
            if isinstance(fact.value, (int, float, tuple, list)) and not fact.several:
                assert fact.value == same.value
            assert (fact.labels is None) == (same.labels is None)
            if fact.labels is not None:
                assert fact.labels.shape == same.labels.shape
                assert fact.labels.parameter == same.labels.parameter
                assert torch.equal(fact.labels.full(), same.labels.full())
                count += 1
    return count


def test_what_is_seen_alone_is_what_a_run_of_the_network_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    from morphsearch.graph import alone

    model, x = Blocks().eval(), torch.rand(1, 3, 8, 8)
    ran: list[str] = []
    run = alone.run_alone

    def counted(modules: Any, part: Any, tape: Tape, seed: Tape) -> bool:
        ran.append(part.path)
        return run(modules, part, tape, seed)

    monkeypatch.setattr(alone, "run_alone", counted)
    tape = _recorded(model, x)
    shuffles = [f"blocks.{n}" for n in range(5)]
    found = seen_alone(model, [*shuffles, "last"], tape)
    assert list(found) == [*shuffles, "last"]
    assert ran == ["blocks.0", "blocks.4", "last"], "the first four are alike"
    _watch(model, list(found), x, again := _recorded(model, x))
    assert _compare(found, again.traces) > 40


def test_modules_whose_integers_are_their_own_are_not_taken_for_each_other() -> None:
    model, x = Blocks().eval(), torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        model.attention[2].index.fill_(1)
    tape = _recorded(model, x)
    paths = [f"attention.{n}" for n in range(5)]
    found = seen_alone(model, paths, tape)
    assert list(found) == paths
    _watch(model, paths, x, again := _recorded(model, x))
    assert _compare(found, again.traces) > 60
    indices = [next(one.value for one in found[path].facts.values() if isinstance(one.value, Tensor)) for path in paths]
    assert bool((indices[2] == 1).all())
    assert not bool((indices[3] == 1).all())


def test_the_network_itself_is_watched_without_running_what_is_inside() -> None:
    model, x = Blocks().eval(), torch.rand(1, 3, 8, 8)
    tape = _recorded(model, x)
    before = model.blocks[0].forward
    found = seen_alone(model, [""], tape)
    _watch(model, [""], x, again := _recorded(model, x))
    assert _compare(found, again.traces) > 5
    assert model.blocks[0].forward == before
    assert "forward" not in vars(model.blocks[0])


class Listing(nn.Module):
    """Gives a list, which the code around goes on to fill."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, self.conv(x)]


class Filling(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.parts, self.conv = width, Listing(width), nn.Conv2d(3 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.parts(x)
        parts.append(torch.relu(x))
        return self.conv(torch.cat(parts, 1).view(-1, 3 * self.width, 8, 8))


def test_a_list_that_code_fills_is_as_it_was_for_whoever_looks_next() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *(Filling(8) for _ in range(3)), nn.Conv2d(8, 4, 1)).eval()
    x = torch.rand(1, 3, 8, 8)
    tape = _recorded(model, x)
    _watch(model, ["2"], x, again := _recorded(model, x))
    if again.traces["2"] is None:
        pytest.skip("older forms of PyTorch do not trace code that fills a list")
    for _ in range(2):
        found = seen_alone(model, ["2"], tape)
        assert list(found) == ["2"]
        assert _compare(found, again.traces) >= 4


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 1), Shuffled(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(self.stem(x))).mean((2, 3))


def test_a_module_that_is_called_twice_is_seen_within_the_network() -> None:
    model, x = Twice().eval(), torch.rand(1, 3, 8, 8)
    assert seen_alone(model, ["block"], _recorded(model, x)) == {}


class Table(nn.Module):
    """Gives its parameter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(1, width, 1, 1))

    def forward(self) -> Tensor:
        return self.weight


class Given(nn.Module):
    """Its code has a size, and adds a parameter that a module inside gave."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table, self.out = nn.Conv2d(8, 16, 1), Table(16), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = (self.conv(x) + self.table()).view(-1, 2, 8, 4, 4).flatten(1, 2)
        return x + self.out(torch.relu(y))


def test_a_parameter_that_a_module_gave_is_still_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *(Given() for _ in range(6)), nn.Flatten(), nn.LazyLinear(3)).eval()
    x = torch.rand(1, 3, 4, 4)
    model(x)
    paths = [str(number) for number in range(1, 7)]
    found = seen_alone(model, paths, _recorded(model, x))
    _watch(model, paths, x, again := _recorded(model, x))
    assert list(found) == paths
    assert _compare(found, again.traces) > 20
    graph = ms.record(model, x)
    inner = [name for name in graph.free if name.endswith(".conv")]
    assert len(inner) == 6
    smaller = graph.shrink({name: [0, 1, 2, 3, 8, 9, 10, 11] for name in inner})
    assert smaller.get_submodule("3.table").weight.shape[1] == 8
    with torch.no_grad():
        for number in range(1, 7):
            dropped = [4, 5, 6, 7, 12, 13, 14, 15]
            model[number].conv.weight[dropped] = 0
            model[number].conv.bias[dropped] = 0
            model[number].table.weight[:, dropped] = 0
            model[number].out.weight[:, dropped] = 0
    torch.testing.assert_close(smaller(x), model(x), rtol=1e-5, atol=1e-6)
