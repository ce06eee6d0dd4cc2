"""What every latency backend must do; subclass :class:`LatencyBackendConformance` in a test module to check yours."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from morphsearch.errors import InputError
from morphsearch.hardware import Settings
from morphsearch.hardware.kinds import BIAS, Fusion, canonical
from morphsearch.testing.networks import NETWORKS, example_inputs
from morphsearch.types import LatencyBackend

REPEATS = 2


class LatencyBackendConformance:
    """Cases for a latency backend::

    class TestInt8(LatencyBackendConformance):
        def backend(self):
            return Int8()

    Attributes:
        device, dtype: settings that it can meet on the machine of the tests.
    """

    device = "cpu"
    dtype = "float32"

    def backend(self) -> LatencyBackend:
        """A new one, the one under test."""
        raise NotImplementedError("return a new latency backend")

    @pytest.fixture
    def settings(self) -> Settings:
        """Two images at a time."""
        return Settings(self.backend().name, self.device, self.dtype, batch=2)

    @pytest.fixture(params=sorted(NETWORKS))
    def model(self, request: pytest.FixtureRequest, settings: Settings) -> nn.Module:
        """One of the tiny networks, as ``morphsearch profile`` hands them over: in evaluation mode, on the device."""
        made: nn.Module = NETWORKS[request.param]().eval()
        return made.to(device=settings.device, dtype=settings.torch_dtype)

    @pytest.fixture
    def inputs(self, settings: Settings) -> list[Tensor]:
        """Of any of them."""
        return [example_inputs(settings.batch).to(device=settings.device, dtype=settings.torch_dtype)]

    def test_what_it_fuses_are_kinds_of_operations(self, settings: Settings) -> None:
        """By the names that graphs have for them."""
        backend = self.backend()
        assert backend.name, "name is what --backend calls it"
        for kind in (*backend.into_weights, *backend.into_pointwise):
            assert canonical(kind) == kind, f"{kind!r} is called {canonical(kind)!r}"
        for kind, price in Fusion.of(backend, settings).again.items():
            assert kind in {*backend.into_weights, BIAS}, f"{kind!r} goes over results again, but never vanishes"
            assert price > 0, f"{kind!r} has no price"

    def test_it_knows_what_it_can_run(self, settings: Settings) -> None:
        """A device that is not there is refused before anything is measured, by an InputError that says what to do."""
        backend = self.backend()
        backend.check(settings)
        with pytest.raises(InputError) as caught:
            backend.check(Settings(backend.name, "cuda:999" if not torch.cuda.is_available() else "abacus"))
        assert caught.value.repair, "the third part of an error is its repair"

    def test_its_versions_are_text(self) -> None:
        """They are saved in every profile."""
        assert all(isinstance(one, str) for pair in self.backend().versions().items() for one in pair)

    def test_a_pass_can_be_repeated(self, model: nn.Module, inputs: list[Tensor], settings: Settings) -> None:
        """As often as it takes to time it."""
        run = self.backend().prepare(model, inputs, settings)
        for _ in range(3):
            run()

    def test_the_network_stays_as_it_was(self, model: nn.Module, inputs: list[Tensor], settings: Settings) -> None:
        """In its numbers: it is run again, and observed."""
        before = copy.deepcopy(model.state_dict())
        with torch.no_grad():
            expected = model(*inputs)
        backend = self.backend()
        backend.prepare(model, inputs, settings)()
        backend.observe(model, inputs, settings, REPEATS)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
        with torch.no_grad():
            torch.testing.assert_close(model(*inputs), expected)
        assert not model.training

    def test_observations_are_operations_with_their_times(
        self, model: nn.Module, inputs: list[Tensor], settings: Settings
    ) -> None:
        """One for each operation that runs, with the seconds of every pass; none at all where it cannot tell."""
        for seen in self.backend().observe(model, inputs, settings, REPEATS):
            assert canonical(seen.kind) == seen.kind, f"{seen.kind!r} is called {canonical(seen.kind)!r}"
            assert 1 <= len(seen.seconds) <= REPEATS
            assert all(math.isfinite(second) and second >= 0 for second in (*seen.seconds, *seen.issued))
            assert 0 <= seen.again < math.inf
            assert len(seen.issued) in (0, len(seen.seconds))
            for shape in (*seen.inputs, *seen.outputs, seen.weight):
                assert all(isinstance(size, int) for size in shape), f"{seen.kind} has a shape of {shape}"
            if seen.kind in ("conv", "conv_transpose", "linear"):
                assert seen.weight, f"a {seen.kind} has the shape of its weight"
                assert seen.inputs[0][0] == settings.batch, "the whole batch is in it"
                assert seen.groups >= 1
