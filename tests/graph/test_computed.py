"""Weights computed from others, and weights that no module initialises: what is fresh is fresh, and exact is exact."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils as hooks
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from morphsearch.errors import GraphError
from morphsearch.graph import record
from morphsearch.loop.verification import verify
from tests.graph import proofs

INPUTS = torch.zeros(2, 3, 8, 8)
FORMS = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm, old form": hooks.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "spectral_norm, old form": hooks.spectral_norm,
}
forms = pytest.mark.parametrize("form", list(FORMS))
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")


def normed(form: str) -> nn.Module:
    wrap: Callable[[nn.Module], nn.Module] = FORMS[form]
    parts = [wrap(nn.Conv2d(3, 8, 3)), nn.ReLU(), wrap(nn.Conv2d(8, 6, 3, stride=2)), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*parts, wrap(nn.Linear(6 * 4, 4)))


def behind(model: nn.Module) -> dict[str, Tensor]:
    """The parameters behind the weights of a network."""
    return {name: value.detach() for name, value in model.named_parameters() if not name.endswith("bias")}


@forms
def test_fresh_weights_are_drawn_anew(form: str) -> None:
    torch.manual_seed(0)
    graph = record(normed(form), INPUTS)
    widths = proofs.scaled(graph, 2)
    one, other = graph.resize(widths), graph.resize(widths)
    for (name, first), second in zip(behind(one).items(), behind(other).values(), strict=True):
        assert not torch.equal(first, second), name
        assert len(first.flatten(1).unique(dim=0)) == len(first), f"{name} repeats units"
    # As wide a layer, made by hand: the same distribution of what the layer multiplies with.
    by_hand = [FORMS[form](nn.Conv2d(3, 16, 3)) for _ in range(20)]
    for layer in by_hand:
        for _ in range(15):
            layer(torch.zeros(1, 3, 8, 8))
    usual = torch.stack([layer.weight.detach().std() for layer in by_hand])
    assert usual.min() * 0.8 < one[0].weight.std() < usual.max() * 1.2


@forms
def test_removal_is_exact_or_named(form: str) -> None:
    torch.manual_seed(0)
    found = verify(normed(form), INPUTS)
    assert found.exact
    assert found.groups["free"] == 2
    assert bool(found.mixes) == ("weight" in form)  # the length of a kernel runs over the units that it reads


@pytest.mark.parametrize("form", [form for form in FORMS if "spectral" in form])
def test_widening_keeps_the_largest_singular_value(form: str) -> None:
    torch.manual_seed(0)
    model = normed(form)
    call = torch.randn(4, 3, 8, 8)
    for _ in range(3):
        model(call)
    graph = record(model.eval(), INPUTS)
    wide = graph.resize(proofs.scaled(graph, 1.5), weights="widen")
    torch.testing.assert_close(wide.eval()(call), model(call))


def test_estimates_of_fresh_weights_have_caught_up() -> None:
    torch.manual_seed(0)
    graph = record(normed("spectral_norm"), INPUTS)
    for layer in graph.resize(proofs.scaled(graph, 1.5)).eval():
        if hasattr(layer, "weight"):
            assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.1)


class _Own(nn.Module):
    """A layer that somebody wrote, without an initialisation of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3) / 5)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.1))
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`n 3 h w` to `n 4`."""
        return self.last(nn.functional.conv2d(x, self.weight).relu() * self.scale).mean((2, 3))


def test_added_units_of_layers_without_an_initialisation_are_no_copies() -> None:
    torch.manual_seed(0)
    graph = record(_Own(), INPUTS)
    (name,) = graph.free
    wide = graph.resize({name: 12})
    weight = wide.get_parameter("weight")
    assert len(weight.flatten(1).unique(dim=0)) == 12
    assert 0.1 < weight.std() < 0.3
    assert (wide.get_parameter("scale") == 0.1).all()  # what a learned scale begins with is kept


class _Computed(nn.Conv2d):
    def __init__(self, name: str) -> None:
        super().__init__(8, 6, 3)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.tanh(self.weight) if self.name == "tanh" else self.weight * self.weight
        return F.conv2d(x, weight, self.bias, padding=self.padding)


@pytest.mark.parametrize("name", ["tanh", "mul"])
def test_what_copies_cannot_share_is_not_widened(name: str) -> None:
    """Half of a weight has not half of its hyperbolic tangent: nothing may come out that computes something else."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), _Computed(name), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    graph = record(model, torch.zeros(1, 3, 12, 12))
    with pytest.raises(GraphError, match=rf"made of 2\.weight.*\n.*{name}.*\n.*fresh"):
        graph.resize({"0": 12}, weights="widen")
    x = torch.randn(2, 3, 12, 12)
    wide = graph.resize({"2": 9}, weights="widen")
    assert torch.allclose(wide(x), model(x), atol=1e-5)
    assert graph.resize({"0": 12})(x).shape == model(x).shape
