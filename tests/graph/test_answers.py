"""Networks whose way depends on their data: every run of a recording goes the way of the first."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphsearch.graph import record
from morphsearch.loop.verification import relative_error, zeroed


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.wide(self.narrow(x).relu())


class Rounds(nn.Module):
    """As many rounds as there are places that score high, up to a few; a closer look at the best ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.score = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 1, 1)
        self.beside = Residual(16)
        self.block, self.look = nn.Conv2d(16, 16, 3, padding=1), nn.Conv1d(16, 12, 1)
        self.norm, self.head = nn.BatchNorm1d(12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x).relu()
        x = self.beside(x)
        scores = self.score(x).flatten()
        found = (scores > scores.mean()).nonzero()[:, 0]
        for _ in range(2 + len(found) % 5):
            x = self.block(x).relu()
        best = scores[found].topk(min(4, len(found))).indices
        closer = self.norm(self.look(x.flatten(2)[:, :, found[best]]))
        return self.head(closer.mean(2)), best


class Counting(nn.Module):
    """A number that follows from a width, made as a tensor, in a network that looks at its values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        if bool((x > 1e9).any()):
            return x.mean((1, 2, 3))
        return self.head(x.mean((2, 3)) / torch.tensor(float(x.shape[1])).sqrt().item())


class Checked(nn.Module):
    """Attention whose code looks at a value first, and caches what it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(64), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        if not bool(torch.isfinite(x).all()):
            raise ValueError("the image is not finite")
        x = F.relu(self.norm(self.wide(self.stem(x))), inplace=True)
        return self.head(F.max_pool2d(x, 2).mean((2, 3)))


@pytest.mark.parametrize("seed", range(4))
def test_what_the_data_chose_is_chosen_in_every_run(seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(1, 3, 12, 12)
    graph = record(Rounds().eval(), x)
    assert {"stem", "look"} <= set(graph.free), {n: g.frozen for n, g in graph.groups.items()}
    small = graph.shrink({"stem": range(0, 16, 2), "look": range(3, 9)}).eval()
    assert small.block.weight.shape == (8, 8, 3, 3)
    assert small(x)[0].shape == (1, 2)
    # Without the branch other places would score high: it could not be told from one that cannot be left out.
    assert graph.groups["beside.narrow"].floor == 0
    without = graph.shrink({"beside.narrow": []}).eval()
    assert isinstance(without.beside.narrow, nn.Identity)
    assert without(x)[0].shape == (1, 2)


def test_a_number_made_of_a_width_is_no_answer_of_the_data() -> None:
    graph = record(Counting().eval(), torch.randn(1, 3, 12, 12))
    assert not graph.on_meta
    assert any("div" in what for what in graph.groups["stem"].mixes), graph.groups["stem"]


def test_on_real_numbers_what_comes_out_is_exact_and_the_network_as_it_was() -> None:
    torch.manual_seed(0)
    model = Checked().double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    before = model(x)
    graph = record(model, x)
    keep = {"stem": range(1, 64, 3), "wide": range(40)}
    assert not graph.on_meta
    assert set(keep) <= set(graph.free)
    with torch.no_grad():
        assert relative_error(zeroed(graph, keep).eval()(x), graph.shrink(keep).eval()(x)) < 1e-12
        assert torch.equal(model(x), before)
