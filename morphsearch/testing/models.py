"""What every seed must do; subclass :class:`ModelConformance` in a test module to check yours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from morphsearch.loop.verification import verify
from morphsearch.models import Seed, build_seed


class ModelConformance:
    """Cases for a seed that a plugin registers::

        class TestTinyNet(ModelConformance):
            spec = "tiny-net"

    Attributes:
        spec: as a user writes it, arguments and all; of a source with its target (``"mylab:small"``).
        input_shape: one image, ``(c, h, w)``, where the record does not say.
    """

    spec: str
    input_shape: tuple[int, ...] | None = None

    def seed(self, **arguments: int) -> Seed:
        """A new one."""
        return build_seed(self.spec, input_shape=self.input_shape, **arguments)  # type: ignore[arg-type]

    def images(self, count: int) -> Tensor:
        """`count x c x h x w`, the same numbers every time."""
        shape = self.input_shape or self.seed().input_shape
        assert shape is not None, "say input_shape, in the record or in these cases"
        return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))

    def test_it_scores_every_image(self) -> None:
        """A row of finite scores for each."""
        scores = self.seed().model.eval()(self.images(2))
        assert isinstance(scores, Tensor), "a seed that is searched by its name is a classifier"
        assert scores.dim() == 2, f"scores have shape {tuple(scores.shape)}, not n x classes"
        assert len(scores) == 2
        assert torch.isfinite(scores).all()

    def test_every_call_builds_a_new_network(self) -> None:
        """Of the same weights after the same random seed, and sharing none of them."""
        models = []
        for _ in range(2):
            torch.manual_seed(0)
            models.append(self.seed().model)
        first, second = (dict(model.named_parameters()) for model in models)
        assert first.keys() == second.keys()
        for name, parameter in first.items():
            assert parameter is not second[name], f"{name} is one parameter in two networks"
            torch.testing.assert_close(parameter, second[name], rtol=0, atol=0)

    def test_it_takes_the_number_of_classes(self) -> None:
        """Where its factory has `num_classes`, data fills it in."""
        seed = self.seed(num_classes=7)
        if "num_classes=7" not in seed.spec:
            pytest.skip("its number of classes is fixed")
        assert seed.model.eval()(self.images(2)).shape == (2, 7)

    def test_it_trains(self) -> None:
        """Every parameter that trains gets a finite gradient."""
        model = self.seed().model.train()
        scores = model(self.images(4))
        nn.functional.cross_entropy(scores, torch.zeros(4, dtype=torch.long)).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"{name} is not used"
                assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"

    def test_channels_can_leave_and_removal_is_exact(self) -> None:
        """What ``morphsearch verify`` proves."""
        found = verify(self.seed().model, self.images(1), trials=1)
        assert found.groups["free"], f"nothing can leave: {found.frozen}"
        assert found.exact, f"the largest relative error is {found.max_error}"
