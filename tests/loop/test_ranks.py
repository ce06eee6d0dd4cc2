"""Processes that train one network together see different images, and must decide alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_fakes import example, images, network
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import morphsearch as ms
from morphsearch.errors import UsageError

STRATEGIES = ("gamma-l1", "group-lasso", "magnitude", "taylor", "logistic-sigmoid", "slimmable", "trials")
STEPS, BATCH = 24, 8


def searched(strategy: str, name: str = "residual") -> ms.Search:
    torch.manual_seed(0)
    return ms.Search(network(name), example(), "flops=40%", strategy=strategy, steps=STEPS, live=False)


def batch(step: int, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = images(64)
    chosen = torch.randint(len(y), (2 * BATCH,), generator=torch.Generator().manual_seed(step))[part]
    return x[chosen], y[chosen]


def train(search: ms.Search, forward: nn.Module, part: slice, steps: int = STEPS) -> None:
    optimizer = torch.optim.SGD(search.model.parameters(), lr=0.05)
    search.follow(optimizer)
    for step in range(steps):
        x, y = batch(step, part)
        loss = nn.functional.cross_entropy(forward(x), y)
        (loss + search.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    own = slice(rank * BATCH, (rank + 1) * BATCH)
    found: dict[str, Any] = {}
    for strategy in STRATEGIES:
        search = searched(strategy)
        train(search, DistributedDataParallel(search.model), own)
        if search.judges:
            x, y = batch(99, own)
            search.run_phase(
                lambda search=search, x=x, y=y: float(nn.functional.cross_entropy(search.model(x), y)),
                train=lambda widths, share: float((rank - 0.3) * sum(widths.values())),
            )
        scores = search.strategy.scores().tolist()
        made = search.morph()
        found[strategy] = {"scores": scores, "widths": made.widths, "kept": made.kept}
    bare = searched("taylor", "bare")
    train(bare, DistributedDataParallel(bare.model), own, 5)
    found["bare"] = bare.strategy.scores().tolist()
    try:
        live = ms.Search(network(), example(), "flops=40%")
        live.follow(torch.optim.SGD(live.model.parameters(), lr=0.1))
    except UsageError as error:
        found["live"] = str(error)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if not torch.distributed.is_available():
        pytest.skip("this build of torch has no processes that train together")
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_processes_end_with_the_same_network(both: list[dict[str, Any]], strategy: str) -> None:
    one, other = (found[strategy] for found in both)
    assert one["scores"] == other["scores"]
    assert one["widths"] == other["widths"]
    assert one["kept"] == other["kept"]


def test_scores_are_those_of_one_process_that_sees_the_whole_batch(both: list[dict[str, Any]]) -> None:
    alone = searched("taylor", "bare")
    train(alone, alone.model, slice(None), 5)
    torch.testing.assert_close(torch.tensor(both[0]["bare"]), alone.strategy.scores(), rtol=1e-4, atol=1e-6)


def test_units_cannot_leave_a_network_that_others_hold_by_its_parameters(both: list[dict[str, Any]]) -> None:
    for found in both:
        assert "live=False" in found["live"]
