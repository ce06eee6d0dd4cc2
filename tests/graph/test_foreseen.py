"""Sizes in code that are foreseen give the network that a repair gives; what they cannot say is left to the repair."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from morphsearch.graph import checked, foreseen, record
from morphsearch.graph.edits import Patched, PatchLog, Resized
from morphsearch.graph.foreseen import _indexed
from tests.graph import proofs

IMAGE = torch.zeros(1, 3, 8, 8)


class Attention(nn.Module):
    """Heads whose width is written down."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        parts = self.qkv(x).reshape(b, n, 3, self.heads, self.width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        found = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return x + self.proj(found.transpose(1, 2).reshape(b, -1, self.width))


class Halves(Attention):
    """The two halves of its channels trade places first."""

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, 2)
        return super().forward(torch.cat([two, one], 2))


class Network(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, 16, 4, 4), nn.Sequential(*blocks), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


def made(monkeypatch: pytest.MonkeyPatch, model: nn.Module, *, foresees: bool) -> tuple[Any, int, int]:
    """The graph, how many modules were edited by what was foreseen, and how often a repair ran."""
    edited, repairs = [0], [0]
    repair = checked.patch_modules

    def edit(*args: Any) -> list[str] | None:
        found = foreseen.edit_foreseen(*args) if foresees else None
        edited[0] += len(found or ())
        return found

    def patch(*args: Any) -> nn.Module:
        repairs[0] += 1
        return repair(*args)

    with monkeypatch.context() as patched:
        patched.setattr(checked, "edit_foreseen", edit)
        patched.setattr(checked, "patch_modules", patch)
        graph = record(model, IMAGE)
        graph.shrink({name: range(0, graph.widths[name], 2) for name in graph.free})
    return graph, edited[0], repairs[0]


def test_what_is_foreseen_needs_no_repair_and_gives_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    model = proofs.in_double(Network(Attention(16, 2), Attention(16, 4)))
    graph, edited, repairs = made(monkeypatch, model, foresees=True)
    repaired, none, before = made(monkeypatch, model, foresees=False)
    assert (edited, repairs) == (4, 0), "two modules in the trial, two in the rewrite"
    assert not none
    assert before == 2
    assert graph.free == repaired.free
    keep = {name: list(range(1, graph.widths[name], 2)) for name in graph.free}
    small = proofs.keeps_exactly(graph, IMAGE, keep)
    x = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    assert torch.equal(small(x), repaired.shrink(keep)(x)), "other batches and images included"


def test_channels_that_trade_places_are_left_to_the_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, edited, repairs = made(monkeypatch, proofs.in_double(Network(Halves(16, 2))), foresees=True)
    assert graph.free
    assert not edited
    assert repairs
    keep = {name: [0, *range(graph.widths[name] // 2, graph.widths[name])] for name in graph.free}
    proofs.keeps_exactly(graph, IMAGE, keep)


def test_a_wrong_foresight_is_refused_by_the_check_and_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many elements in another layout: the network runs, and computes something else."""
    apply = foreseen.apply_edits

    def wrong(module: nn.Module, graph: fx.Graph, log: PatchLog, known: Patched) -> None:
        heads = next(edit for edit in log.edits if isinstance(edit, Resized) and edit.rank == 5)
        log.edits += [Resized(heads.node, 3, heads.size, 5), Resized(heads.node, 4, 2, 5)]
        apply(module, graph, log, known)

    model = proofs.in_double(Network(Attention(16, 2)))
    with monkeypatch.context() as patched:
        patched.setattr(foreseen, "apply_edits", wrong)
        graph, edited, repairs = made(monkeypatch, model, foresees=True)
        assert edited
        assert repairs
        keep = {name: list(range(1, graph.widths[name], 2)) for name in graph.free}
        proofs.keeps_exactly(graph, IMAGE, keep)
    assert graph.free == record(model, IMAGE).free


def test_widened_networks_are_not_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _, _ = made(monkeypatch, proofs.in_double(Network(Attention(16, 2))), foresees=True)
    monkeypatch.setattr(checked, "edit_foreseen", lambda *_: pytest.fail("copies of a unit lie side by side"))
    wide = graph.resize({name: graph.widths[name] + 1 for name in graph.free}, weights="fresh")
    assert wide(IMAGE.double()).shape == (1, 5)


@pytest.mark.parametrize(
    ("index", "dims"),
    [
        (0, [0]),
        (slice(1, None), [0]),
        ((slice(None), 2), [1]),
        ((Ellipsis, slice(0, 2)), [3]),
        ((None, slice(None), Ellipsis, None, 1), [3]),
        ((slice(None), [0, 1]), [0, 1, 2, 3]),
    ],
)
def test_an_index_takes_from_these_dimensions(index: Any, dims: list[int]) -> None:
    assert _indexed(index, 4) == dims
