"""The built-in latency backends pass the cases that plugins' do; one that breaks a rule does not."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from morphsearch.hardware import Settings
from morphsearch.hardware.compiled import Compiled
from morphsearch.hardware.eager import Eager
from morphsearch.testing import NETWORKS, LatencyBackendConformance, example_inputs
from morphsearch.types import LatencyBackend, Observation


class TestEager(LatencyBackendConformance):
    def backend(self) -> LatencyBackend:
        return Eager()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, by its own compiler
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
class TestCompiled(LatencyBackendConformance):
    def backend(self) -> LatencyBackend:
        return Compiled()


class Careless(Eager):
    """Checks nothing, and calls what it sees by a name of its own."""

    into_weights = frozenset(("relu_",))

    def check(self, settings: Any) -> None:
        """Anything goes."""

    def observe(self, model: Any, inputs: Any, settings: Any, repeats: int) -> list[Observation]:
        """A convolution without its weight."""
        return [Observation("conv", ((2, 3, 8, 8),), ((2, 8, 8, 8),), (0.1,))]


class CarelessCases(LatencyBackendConformance):
    """Not collected by its name."""

    def backend(self) -> LatencyBackend:
        return Careless()


def test_a_careless_backend_fails() -> None:
    cases, settings = CarelessCases(), Settings("careless", batch=2)
    with pytest.raises(AssertionError, match="is called 'relu'"):
        cases.test_what_it_fuses_are_kinds_of_operations(settings)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        cases.test_it_knows_what_it_can_run(settings)
    model = next(iter(NETWORKS.values()))().eval()
    with pytest.raises(AssertionError, match="the shape of its weight"):
        cases.test_observations_are_operations_with_their_times(model, [example_inputs(2)], settings)
