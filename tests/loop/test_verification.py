"""What ``verify`` says of a rewritten network beside its numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from morphsearch.loop import verify
from morphsearch.loop.behaviour import behaviour

FINE = {"train": "ok", "state_dict": "ok", "deepcopy": "ok"}
IMAGE = torch.zeros(1, 3, 8, 8)


def _layers() -> tuple[nn.Module, ...]:
    return nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1)


def _old_spectral_norm() -> nn.Module:
    first, *rest = _layers()
    return nn.Sequential(nn.utils.spectral_norm(first), *rest)


def _old_weight_norm() -> nn.Module:
    first, *rest = _layers()
    return nn.Sequential(nn.utils.weight_norm(first), *rest)


def _pruned() -> nn.Module:
    first, *rest = _layers()
    return nn.Sequential(prune.l1_unstructured(first, "weight", 0.5), *rest)


def _keep(module: nn.Module, args: Any, output: Tensor) -> None:
    module.features = output


def _features_kept() -> nn.Module:
    network = nn.Sequential(*_layers())
    network[0].register_forward_hook(_keep)
    return network


def _not_trained() -> nn.Module:
    return nn.Sequential(*_layers()).requires_grad_(False)


class _Branch(nn.Module):
    """Only the layers that can be left out are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = (nn.Conv2d(i, o, 1).requires_grad_(False) for i, o in ((3, 4), (4, 3)))
        self.a, self.b = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.b(self.a(x).relu()))


FORMS = [_old_spectral_norm, _old_weight_norm, _pruned, _features_kept, _not_trained, _Branch]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("build", FORMS)
def test_nothing_is_wrong_with(build: Callable[[], nn.Module]) -> None:
    for seed in range(3):
        found = verify(build(), IMAGE, trials=1, seed=seed)
        assert found.exact
        assert found.runs == FINE


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_without_a_batch_trains(channels: int) -> None:
    network = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 1))
    assert verify(network, torch.zeros(channels, 8, 8), trials=1).runs == FINE


class _OnlyEvaluated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise NotImplementedError("no targets")
        return self.b(self.a(x))


def test_what_the_seed_does_not_do_either_is_said() -> None:
    runs = verify(_OnlyEvaluated(), IMAGE, trials=1).runs
    assert runs == FINE | {"train": "neither does the seed: NotImplementedError: no targets"}


def test_a_rewrite_that_lost_its_gradients_is_found() -> None:
    seed, lost = nn.Sequential(*_layers()), nn.Sequential(*_layers()).requires_grad_(False)
    assert behaviour(lost, seed, (IMAGE,), {})["train"] == "RuntimeError: no output depends on 0.bias, as the seed's do"
