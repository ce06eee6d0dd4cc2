"""Dead ends are named, with what was done about them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loop_fakes import EXACT, counted, data, example, network
from torch import nn

import morphsearch as ms
from morphsearch.errors import DivergedError, GraphError, InputError, UnknownName, UsageError
from morphsearch.graph import ConvGraph
from morphsearch.loop.run import plan


def scales(model: nn.Module) -> dict[str, nn.Parameter]:
    return {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}


def test_every_unit_of_a_group_dying() -> None:
    search = ms.Search(network("plain"), example(), "flops=50%")
    with torch.no_grad():
        scales(search.model)["body.2.1"].zero_()
    found = search.morph()
    (note,) = (note for note in found.notes if "floor" in note)
    assert "body.2.0" in note
    assert found.widths["body.2.0"] >= 1
    assert torch.isfinite(search.model(torch.randn(4, 3, 8, 8))).all()


def test_every_unit_of_every_group_dying() -> None:
    search = ms.Search(network(), example(), "flops=50%")
    with torch.no_grad():
        for scale in scales(search.model).values():
            scale.zero_()
    found = search.morph()
    assert any("other groups" in note or "Too few units" in note for note in found.notes)
    assert counted(search.model)["flops"] <= counted(network())["flops"] / 2


def test_nothing_dying() -> None:
    search = ms.Search(network(), example(), "flops=50%")
    found = search.morph()
    assert any("No unit died" in note and "learning rate" in note for note in found.notes)
    assert any("removed too" in note for note in found.notes)


def test_the_limit_of_expansion() -> None:
    search = ms.Search(network("plain"), example(), "flops=400%", limit=1.5)
    found = search.morph()
    assert found.multiplier == 1.5
    assert any("stopped at 1.5 times" in note for note in found.notes)


def test_a_network_that_cannot_be_widened_after_all_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that follows fewer channels may not follow more, of a group that has one left above all."""
    search = ms.Search(network("residual"), example(), "flops=60%")
    with torch.no_grad():
        for scale in scales(search.model).values():
            scale[1::2] = 0.0
    planned = ConvGraph.planned

    def refuse(graph: ConvGraph, multiplicity: np.ndarray) -> Any:
        if (multiplicity > 1).any():
            raise GraphError("something is in the way", "a rule", "a repair")
        return planned(graph, multiplicity)

    monkeypatch.setattr(ConvGraph, "planned", refuse)
    found = search.morph()
    assert "Nothing is widened: something is in the way." in found.notes
    assert search.budgets.fits(found.widths)
    assert counted(search.model)["flops"] == found.totals["flops"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite(value: float) -> None:
    search = ms.Search(network(), example(), "flops=50%")
    before = search.model
    with torch.no_grad():
        next(iter(scales(search.model).values()))[0] = value
    with pytest.raises(DivergedError, match="not finite") as caught:
        search.step()
    assert "learning rate" in caught.value.repair
    with pytest.raises(DivergedError):
        search.morph()
    assert search.model is before


def test_no_convolution() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 5))
    with pytest.raises(GraphError, match="no convolution"):
        ms.Search(flat, example(), "flops=50%")


def test_no_scale_parameters_names_a_strategy_that_fits() -> None:
    with pytest.raises(UsageError, match="scale parameter") as caught:
        ms.Search(network("bare"), example(), "flops=50%", strategy="gamma-l1")
    assert "uniform" in caught.value.repair
    found = ms.search(network("bare"), data(), budget="flops=50%", strategy="uniform", iterations=1, recipe=EXACT)
    assert found.best.costs["flops"]["total"] <= counted(network("bare"))["flops"] / 2


def test_everything_frozen() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    with pytest.raises(GraphError, match="no group of the network may change") as caught:
        ms.Search(Fixed(), example(), "flops=50%")
    assert "output" in caught.value.arrived


def test_a_network_that_fails_on_its_example() -> None:
    with pytest.raises(GraphError, match="fails on its example inputs"):
        ms.Search(network(), torch.zeros(1, 1, 8, 8), "flops=50%")


@pytest.mark.parametrize(("name", "meant"), [("gamma-l2", "gamma-l1"), ("unifrom", "uniform")])
def test_a_misspelt_strategy(name: str, meant: str) -> None:
    with pytest.raises(UnknownName) as caught:
        ms.Search(network(), example(), "flops=50%", strategy=name)
    assert meant in caught.value.repair


def test_a_plan_writes_and_trains_nothing_and_shows_an_impossible_budget() -> None:
    shown = plan(ms.SearchConfig("digits_net", budget=("flops=0.001%", "params=50%"), recipe=EXACT))
    assert not shown.satisfiable
    assert [row.satisfiable for row in shown.budgets] == [False, True]
    assert shown.to_dict()["satisfiable"] is False
    assert shown.steps
    assert plan(ms.SearchConfig("digits_net", strategy="uniform", recipe=EXACT)).steps is None


def test_misspelt_arguments_of_the_calls_that_hand_them_on() -> None:
    with pytest.raises(UnknownName, match="did you mean warmup") as caught:
        ms.search(network(), data(), budget="flops=50%", warmpu=0.1)
    assert "model" not in caught.value.rule.split(": ")[1].split(", ")
    with pytest.raises(UnknownName, match="did you mean scope"):
        ms.sparsify(network(), data(), target="50%", scoep="global")


def test_no_data_at_all() -> None:
    with pytest.raises(InputError, match="training images are None"):
        ms.search(network(), None, budget="flops=50%")


def test_scores_without_a_gap_are_named_and_one_with_a_gap_sets_the_threshold() -> None:
    search = ms.Search(network("plain"), example(), "flops=50%")
    with torch.no_grad():
        for scale in scales(search.model).values():
            scale.copy_(torch.linspace(0.006, 0.016, scale.numel()))
    found = search.morph()
    (note,) = (note for note in found.notes if "no gap" in note)
    assert "units are within a factor of 3" in note
    assert found.threshold == pytest.approx(0.01)
    search = ms.Search(network("plain"), example(), "flops=50%")
    with torch.no_grad():
        for scale in scales(search.model).values():
            scale[::2] = 0.008  # the others are at 1
    found = search.morph()
    assert not any("no gap" in note for note in found.notes)
    assert found.threshold is not None
    assert 0.05 < found.threshold < 0.1
    given = ms.Search(network("plain"), example(), "flops=50%", threshold=0.005)
    with torch.no_grad():
        for scale in scales(given.model).values():
            scale[::2] = 0.008
    assert given.morph().threshold == 0.005
