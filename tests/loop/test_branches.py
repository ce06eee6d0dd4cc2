"""Whole branches that go in a search: while training goes on, through files, and in what is built from them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loop_fakes import counted, example, images
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import morphsearch as ms
from morphsearch.errors import GraphError, InputError
from morphsearch.graph import ConvGraph
from morphsearch.loop import live


class Block(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.blocks = nn.Sequential(Block(12, 8), Block(12, 10))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


INNER = "blocks.1.conv1"


def searched(**options: Any) -> ms.Search:
    torch.manual_seed(0)
    return ms.Search(
        Blocks().double().train(), example().double(), "flops=25%", steps=100, warmup=0.05, shrink_to=1.0, **options
    )


def run(search: ms.Search, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """A loop in which the branch of the second block dies."""
    x, y = images(64)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(y), (16,), generator=generator)
        loss = nn.functional.cross_entropy(search.model(x[chosen].double()), y[chosen])
        (loss + search.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            scale = getattr(search.model.get_submodule("blocks.1.bn1"), "weight", None)
            if scale is not None:
                scale.zero_()
        search.step()
        losses.append(loss.item())
    return losses


def adam(search: ms.Search) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(search.model.parameters(), lr=5e-3, weight_decay=1e-3)
    search.follow(optimizer)
    return optimizer


@pytest.fixture(autouse=True)
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PATIENCE", 2)
    monkeypatch.setattr(live, "LEAST_SHARE", 0.02)
    monkeypatch.setattr(live, "LEAST_STEPS", 0)


def test_a_branch_leaves_while_training_goes_on_as_if_it_were_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    search = searched()
    optimizer = adam(search)
    ours = run(search, optimizer, 60)
    assert search.graph.widths[INNER] == 0
    left = {name for name, _ in search.model.named_parameters()}
    assert not [name for name in left if name.startswith("blocks.1.")]
    # The optimizer holds the parameters that are left, and no others.
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in search.model.parameters()}
    with monkeypatch.context() as patched:
        patched.setattr(live.Leaving, "worth", lambda *_: False)
        whole = searched()
        theirs = run(whole, adam(whole), 60)
        assert whole.graph.widths[INNER] == 10
        assert whole.leaving.left == search.leaving.left
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_what_a_dying_branch_still_adds_is_faded_out() -> None:
    model = Blocks()
    graph = ms.record(model, example())
    leaving = live.Leaving.none(graph)
    shift = model.get_parameter("blocks.1.bn2.bias").detach()  # the same numbers
    with torch.no_grad():
        shift.fill_(0.9)
        model.get_parameter("blocks.0.bn2.bias").fill_(0.9)
    seen = []
    for _ in range(3):
        leaving.look(model, graph.units_of(INNER), 3)
        seen.append(float(shift[0]))
    assert seen == pytest.approx([0.6, 0.3, 0.0])
    assert leaving.silent.sum() == 10
    assert float(model.get_parameter("blocks.0.bn2.bias").detach()[0]) == pytest.approx(0.9)


def test_an_average_follows() -> None:
    search = searched()
    optimizer = torch.optim.SGD(search.model.parameters(), lr=0.05, momentum=0.9)
    average, plain = AveragedModel(search.model), {n: p.detach().clone() for n, p in search.model.named_parameters()}
    search.follow(optimizer, ema=[average, plain])
    run(search, optimizer, 60)
    assert search.graph.widths[INNER] == 0
    names = {name for name, _ in search.model.named_parameters()}
    assert plain.keys() == names
    assert {name for name, _ in average.module.named_parameters()} == names
    average.update_parameters(search.model)


def test_a_state_after_a_branch_left_is_gone_on_from_exactly() -> None:
    first = searched()
    optimizer = adam(first)
    run(first, optimizer, 60)
    tensors, state = first.state()
    weights, moments = copy.deepcopy(first.model.state_dict()), copy.deepcopy(optimizer.state_dict())
    ours = run(first, optimizer, 20)
    second = searched()
    again = adam(second)
    for _ in range(2):  # from the seed, and from where the branch has left: it comes back first
        second.load_state(tensors, state)
        second.model.load_state_dict(weights)
        again.load_state_dict(copy.deepcopy(moments))
        assert run(second, again, 20) == ours
    assert second.graph.widths == first.graph.widths


def test_an_architecture_without_a_branch(tmp_path: Path) -> None:
    search = searched(run_dir=tmp_path / "run")
    run(search, adam(search), 80)
    first = search.morph()
    assert first.widths[INNER] == 0
    assert first.floors[INNER] == 0
    assert any("branches are left out" in note for note in first.notes) or "left during training" in first.notes[0]
    assert first.totals["flops"] == counted(search.model.float())["flops"]
    search.model.double()
    path = tmp_path / "run/iterations/001"
    network = ms.Architecture.load(path).apply(Blocks())
    assert counted(network) == {name: first.totals[name] for name in ("flops", "params")}
    network.load_state_dict(ms.Architecture.load(path).weights())
    assert not [name for name, _ in network.named_parameters() if name.startswith("blocks.1.")]

    # The next morph goes on from it, and so does a run that is resumed.
    optimizer = torch.optim.Adam(search.model.parameters(), lr=5e-3)
    search.follow(optimizer)
    run(search, optimizer, 30)
    second = search.morph()
    assert second.widths[INNER] == 0
    assert second.widths.keys() == first.widths.keys()
    torch.manual_seed(0)
    resumed = ms.Search(
        Blocks().double().train(),
        example().double(),
        "flops=25%",
        steps=100,
        warmup=0.05,
        shrink_to=1.0,
        run_dir=tmp_path / "run",
        resume=True,
    )
    assert resumed.graph.widths == search.graph.widths
    x = images(4, 3)[0].double()
    torch.testing.assert_close(resumed.model.eval()(x), search.model.eval()(x))


@pytest.mark.parametrize("live", [False, True])
def test_branches_that_cannot_be_left_out_after_all_stay(live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a branch that is silent, and stays where it cannot be cut, nothing was counted any more: it is again."""
    search = searched(live=live)
    planned = ConvGraph.planned

    def refuse(graph: ConvGraph, multiplicity: np.ndarray) -> Any:
        if not multiplicity[graph.units_of(INNER)].any():
            raise GraphError("something is in the way", "a rule", "a repair")
        return planned(graph, multiplicity)

    monkeypatch.setattr(ConvGraph, "planned", refuse)
    run(search, adam(search), 80)
    assert bool(search.leaving.left) == live
    found = search.morph()
    assert found.widths[INNER] >= 1
    assert any("something is in the way" in note for note in found.notes)
    assert search.budgets.fits(found.widths)


def test_a_file_cannot_take_a_group_below_its_floor(tmp_path: Path) -> None:
    graph = ms.record(Blocks(), example())
    given = {
        "name": "own",
        "seed_spec": None,
        "inputs": [{"shape": [1, 3, 8, 8]}],
        "seed_widths": dict(graph.widths),
        "costs": {},
    }
    ms.Architecture(widths={**graph.widths, INNER: 0}, floors={INNER: 0}, **given).save(tmp_path / "fine.json")
    found = ms.Architecture.load(tmp_path / "fine.json").apply(Blocks())
    assert not list(found.get_submodule(INNER).parameters())
    ms.Architecture(widths={**graph.widths, "stem.0": 0}, **given).save(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"widths\.stem\.0: 0 units, and its floor is 1"):
        ms.Architecture.load(tmp_path / "none.json")


def test_an_architecture_without_floors_can_be_loaded_again(tmp_path: Path) -> None:
    widths = dict(ms.record(Blocks(), example()).widths)
    saved = ms.Architecture("own", None, [{"shape": [1, 3, 8, 8]}], widths, widths, {})
    assert ms.Architecture.load(saved.save(tmp_path)) == saved
