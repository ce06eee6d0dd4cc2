"""The cost models of the how-to page work as they stand there, and pass the cases that it tells authors to run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from morphsearch import costs, plugins
from morphsearch.graph import record
from morphsearch.loop.budget import Budgets
from morphsearch.testing import CostModelConformance

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-cost-model.md"


def snippet(name: str) -> str:
    found = re.search(rf"<!-- test: {name} -->\n```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.fixture
def authored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("energy", "scratchpad"):
        (tmp_path / f"{name}.py").write_text(snippet(name))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MORPHSEARCH_PLUGINS", "energy,scratchpad")
    monkeypatch.setenv("MORPHSEARCH_STRICT", "1")
    plugins.reset()
    yield tmp_path
    for name in ("energy", "scratchpad"):
        sys.modules.pop(name, None)
    plugins.reset()


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten())


@pytest.mark.usefixtures("authored")
def test_the_costs_of_the_page_are_what_they_say() -> None:
    graph = record(network(), torch.zeros(2, 3, 6, 6))
    moved = 3 * 36 + 8 * 16 + 8 * 16 + 4 * 16
    macs = 3 * 8 * 9 * 16 + 8 * 4 * 16
    found = costs.cost(graph, "energy")
    assert found.total == pytest.approx(0.0046 * macs + 0.64 * moved)
    assert "relu" in found.uncounted
    assert costs.cost(graph, "scratchpad").total == pytest.approx(2 * (3 * 36 + 8 * 16) / 1024)


@pytest.mark.usefixtures("authored")
def test_they_bound_a_search() -> None:
    graph = record(network(), torch.zeros(2, 3, 6, 6))
    budgets = Budgets(graph, ["energy=90%", "scratchpad<=0.4KiB"])
    assert [row.satisfiable for row in budgets.rows()] == [True, True]
    assert (budgets.prices(graph.widths) > 0).any()


@pytest.mark.parametrize("name", ["TestEnergy", "TestScratchpad"])
def test_they_pass_the_cases_of_the_page(authored: Path, name: str) -> None:
    space: dict[str, Any] = {}
    exec(snippet("conformance"), space)
    cases: CostModelConformance = space[name]()
    assert isinstance(cases, CostModelConformance)
    graph = record(network(), torch.zeros(2, 3, 6, 6))
    bound = cases.cost_model().bind(graph)
    points = [costs.vector(graph, {**graph.widths, graph.free[0]: width}) for width in (1, 8, 16)]
    cases.test_has_a_name_and_a_unit(bound)
    cases.test_total_is_a_finite_non_negative_scalar(bound, points)
    cases.test_layers_add_up_to_the_total(bound, points)
    cases.test_layers_are_modules_that_cost_something(graph, bound, points)
    cases.test_marginal_is_the_price_of_one_more_unit(graph, bound, points)
    cases.test_wider_never_costs_less(bound, points)
    cases.test_what_steers_a_search_is_a_price_for_every_group(graph, bound, points)
    cases.test_is_differentiable_in_fractional_widths(bound, points)
    cases.test_binding_leaves_the_graph_as_it_was(graph)
