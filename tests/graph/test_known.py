"""Indices that code makes of positions are known on shapes alone; those that meet data are not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from morphsearch.graph import record
from tests.graph import proofs
from tests.graph.mechanisms import cbr, head, net

IMAGE = torch.zeros(2, 3, 8, 8)


class Relative(nn.Module):
    """A learned vector for every distance between rows, looked up by an index that is computed on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = cbr(3, 8), head(8)
        self.table = nn.Parameter(torch.randn(15, 8))

    def distances(self, x: Tensor) -> Tensor:
        rows = torch.arange(x.shape[2], device=x.device)
        return rows[:, None] * 1.0 - rows[None, :] * 1.0 + (x.shape[2] - 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        found = self.table[self.distances(x).long()].mean(1)
        return self.head(x + found.t()[None, :, :, None])  # type: ignore[no-any-return]


def test_an_index_of_positions_is_recorded_on_shapes() -> None:
    model = proofs.in_double(Relative())
    graph = record(model, IMAGE)
    assert graph.on_meta
    assert graph.free == ["stem.0"]
    proofs.shrinks_exactly(graph, IMAGE, 0)


def test_numbers_made_of_positions_may_steer() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        for _ in range(int(torch.arange(3, device=x.device).max())):
            x = x + s.b(x)
        return s.head(x)

    graph = record(proofs.in_double(net(forward, a=cbr(3, 8), b=cbr(8, 8), head=head(8))), IMAGE)
    assert graph.on_meta
    assert sum(one.kind == "add" for one in graph.operations) == 2
    proofs.shrinks_exactly(graph, IMAGE, 0)


def test_positions_that_data_is_written_into_are_not_known() -> None:
    class Written(Relative):
        def distances(self, x: Tensor) -> Tensor:
            found = super().distances(x)
            first = found[0]  # another view of the same memory
            first += (x[0, 0, 0] > 1e9).double()
            return found

    graph = record(proofs.in_double(Written()), IMAGE)
    assert not graph.on_meta
    proofs.shrinks_exactly(graph, IMAGE, 0)


def test_positions_in_random_order_are_not_known() -> None:
    class Shuffled(Relative):
        def distances(self, x: Tensor) -> Tensor:
            return torch.randint_like(super().distances(x), 15)

    assert not record(proofs.in_double(Shuffled()), IMAGE).on_meta


def test_a_large_buffer_is_not_written_to() -> None:
    class Noting(Relative):
        notes: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("notes", torch.zeros(4, 2000, dtype=torch.int64))

        def distances(self, x: Tensor) -> Tensor:
            last = self.notes[-1]  # a view of it
            last += 1
            return super().distances(x) * self.notes[-1, :8]

    model = proofs.in_double(Noting())
    graph = record(model, IMAGE)
    assert not graph.on_meta
    assert not model.notes.any()
    assert not graph.shrink({"stem.0": [0, 3]}).get_buffer("notes").any()


def test_a_buffer_that_counts_keeps_its_number() -> None:
    class Counting(Relative):
        count: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros((), dtype=torch.int64))

        def distances(self, x: Tensor) -> Tensor:
            self.count += 1
            return super().distances(x) * self.count

    model = proofs.in_double(Counting())
    graph = record(model, IMAGE)
    assert graph.on_meta
    assert int(model.count) == 0
    assert int(graph.shrink({"stem.0": [0, 3]}).get_buffer("count")) == 0
