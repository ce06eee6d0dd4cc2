"""Networks with one output, several, or none that can be scored."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from training_fakes import FakeData, FakeSplit

from morphsearch.errors import InputError
from morphsearch.training import Recipe, Trainer, classification_loss, split_outputs

MAIN, AUX = torch.randn(4, 3), torch.randn(4, 3)
Outputs = namedtuple("Outputs", ["aux", "logits", "absent"])


@pytest.mark.parametrize(
    ("output", "auxiliary"),
    [
        (MAIN, 0),
        (MAIN[:, :, None, None], 0),
        ((MAIN, AUX), 1),
        ([MAIN, torch.randn(4, 8, 2, 2)], 0),
        (Outputs(AUX, MAIN, None), 1),
        ({"aux1": AUX, "logits": MAIN}, 1),
        ({"features": torch.randn(4, 8), "out": MAIN, "aux": AUX}, 1),
        ({"scores": MAIN}, 0),
    ],
)
def test_finds_the_logits(output: Any, auxiliary: int) -> None:
    logits, others = split_outputs(output)
    assert torch.equal(logits, MAIN)
    assert len(others) == auxiliary


@pytest.mark.parametrize("output", [None, "text", (), {}, {"a": 1}, [None]])
def test_refuses_what_holds_no_tensor(output: Any) -> None:
    with pytest.raises(InputError) as caught:
        split_outputs(output)
    assert caught.value.repair


def test_auxiliary_logits_weigh_a_third() -> None:
    labels = torch.tensor([0, 1, 2, 0])
    loss, logits = classification_loss((MAIN, AUX), labels)
    expected = functional.cross_entropy(MAIN, labels) + 0.3 * functional.cross_entropy(AUX, labels)
    assert loss == pytest.approx(expected)
    assert torch.equal(logits, MAIN)


def test_bf16_logits_are_scored_in_fp32() -> None:
    loss, logits = classification_loss(MAIN.bfloat16(), torch.tensor([0, 1, 2, 0]), label_smoothing=0.1)
    assert loss.dtype == logits.dtype == torch.float32


class Branching(nn.Module):
    """As torchvision's GoogLeNet: a named tuple in training, a tensor otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.main, self.aux = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x).relu().mean((2, 3))
        return Outputs(self.aux(x), self.main(x), None) if self.training else self.main(x)


def test_trains_a_network_with_auxiliary_branches() -> None:
    model = Branching()
    split = FakeSplit(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), 3)
    data: Any = FakeData(split, split, None)
    before = model.aux.weight.detach().clone()
    trainer = Trainer(model, data, Recipe(epochs=1, batch_size=4))
    trainer.train_epoch()
    assert not torch.equal(before, model.aux.weight)
    assert trainer.evaluate(split).count == 4


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), "2 outputs, the data has 3 classes"),
        (nn.Conv2d(3, 3, 3), "shape (4, 3, 6, 6)"),
        (nn.Conv2d(1, 3, 3), "fails on a batch of shape (4, 3, 8, 8)"),
    ],
)
def test_networks_that_do_not_fit_the_data(head: nn.Module, words: str) -> None:
    split = FakeSplit(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), 3)
    data: Any = FakeData(split, split, None)
    with pytest.raises(InputError) as caught:
        Trainer(head, data, Recipe(batch_size=4)).train_epoch()
    assert words in caught.value.arrived
    with pytest.raises(InputError) as caught:
        Trainer(head, data, Recipe(batch_size=4)).evaluate(split)
    assert words in caught.value.arrived
    with pytest.raises(InputError) as caught:
        Trainer(head, data, Recipe(batch_size=4)).check()
    assert words.replace("(4,", "(2,") in caught.value.arrived


def test_checking_that_a_network_fits_leaves_it_as_it_is() -> None:
    split = FakeSplit(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), 3)
    data: Any = FakeData(split, split, None)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.Linear(192, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    Trainer(model, data, Recipe(batch_size=4)).check()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
