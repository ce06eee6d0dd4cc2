"""``latency`` as a cost: the cases of every cost model, and searches under it from end to end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import hardware_fakes as fakes
import pytest
import torch

import morphsearch as ms
from morphsearch.errors import UnknownName
from morphsearch.graph import record
from morphsearch.hardware import Latency
from morphsearch.hardware.profiles import MeasuredProfile
from morphsearch.hardware.sampling import Target
from morphsearch.loop import run
from morphsearch.loop.config import SearchConfig
from morphsearch.models import build_seed
from morphsearch.testing import NETWORKS, CostModelConformance, example_inputs
from morphsearch.types import CostModel


@pytest.fixture(scope="module")
def made() -> MeasuredProfile:
    """Of the simulated device, with all that the tiny networks and the digits' one hold."""
    targets = [Target.of(name, factory(), example_inputs()) for name, factory in NETWORKS.items()]
    targets.append(Target.of("digits", build_seed("digits_net").model, torch.zeros(1, 1, 8, 8)))
    from morphsearch.hardware.predictor import fit

    profile = fakes.profile()
    profile.predictor = fit([sample for target in targets for sample in fakes.samples(target, count=8)])
    return profile


class TestLatency(CostModelConformance):
    """Measured latency steps: neither monotone nor a smooth function of the widths."""

    monotone = False
    differentiable = False

    @pytest.fixture(autouse=True)
    def _profile(self, made: MeasuredProfile, recwarn: pytest.WarningsRecorder) -> None:
        self.made = made

    def cost_model(self) -> CostModel:
        return Latency(self.made)


@pytest.mark.filterwarnings("ignore::morphsearch.hardware.HardwareWarning")
@pytest.mark.parametrize("strategy", ["gamma-l1", "uniform"])
def test_a_search_for_latency_meets_its_budget_on_the_rebuilt_network(
    made: MeasuredProfile, tmp_path: Path, strategy: str
) -> None:
    made.save()
    config = SearchConfig(
        model="digits_net", budget=("latency=80%",), epochs=1, iterations=1, strategy=strategy, hardware="simulated"
    )
    result = run.start(config, tmp_path / "run")
    found = result.best
    limit = 0.8 * result.summary["seed_costs"]["latency"] if "seed_costs" in result.summary else None
    graph = record(found.build().eval(), found.example_inputs(), decisions=found.decisions)
    counted = ms.cost(graph, "latency", hardware="simulated").total
    seed = build_seed("digits_net", num_classes=10).model
    whole = ms.cost(record(seed, found.example_inputs()), "latency", hardware="simulated").total
    assert counted <= (limit or 0.8 * whole) * (1 + 1e-9)
    said = any("the budget is not full" in note for note in found.notes)
    assert said or counted >= 0.6 * whole, "the budget is used, or the result says that it is not"
    assert found.costs["latency"]["total"] == pytest.approx(counted)
    assert found.costs["latency"]["unit"] == "ms"


@pytest.mark.filterwarnings("ignore::morphsearch.hardware.HardwareWarning")
def test_a_run_keeps_its_profile_and_goes_on_with_that(made: MeasuredProfile, tmp_path: Path) -> None:
    path = made.save()
    config = SearchConfig(model="digits_net", budget=("latency=80%",), epochs=1, iterations=1, hardware="simulated")
    first = run.start(config, tmp_path / "run")
    asked = json.loads((tmp_path / "run" / "run.json").read_text())
    assert asked["hardware"] == "simulated"
    assert asked["config"]["hardware"] == "simulated"
    os.remove(path)  # the user's folder may change, or the run may have moved to another machine
    again = run.resume(tmp_path / "run")
    assert again.best.widths == first.best.widths


def test_unknown_hardware_is_refused_before_anything_is_trained(made: MeasuredProfile, tmp_path: Path) -> None:
    made.save()
    config = SearchConfig(model="digits_net", budget=("latency=80%",), hardware="simulatde")
    with pytest.raises(UnknownName, match="simulated"):
        run.start(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
