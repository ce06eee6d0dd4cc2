"""Built-in seeds and torchvision's classifiers: exact at random keep sets, and whole."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from morphsearch.graph import record
from morphsearch.graph.recording import OUTPUT
from morphsearch.models import build_seed
from tests import torchvision_shim
from tests.graph import proofs

SEEDS = (
    "digits_net",
    "mobilenet_v1?alpha=0.25&stem=cifar",
    "resnet20",
    "resnet20?shortcut=A",
    "resnet56",
    "resnet18",
    "resnet50",
    "vgg16_bn",
)
NETWORKS = (*torchvision_shim.CLASSIFIERS, "regnet_x_400mf")


def check(model: nn.Module, inputs: torch.Tensor) -> None:
    graph = record(proofs.in_double(model), inputs)
    assert not proofs.mixing(graph)
    # Nothing but the classifier's classes is frozen.
    assert all(group.frozen in (None, OUTPUT) for group in graph.groups.values()), proofs.explained(graph)
    shrunk = proofs.shrinks_exactly(graph, inputs, 0)
    proofs.shrinks_exactly(graph, inputs, 1)
    proofs.widens_exactly(graph, inputs, 1.2)
    proofs.trains(copy.deepcopy(shrunk), torch.zeros(2, *inputs.shape[1:]))
    again = record(shrunk, inputs, check=False, decisions=graph.decisions)
    proofs.shrinks_exactly(again, inputs, 2)


@pytest.mark.parametrize("spec", SEEDS)
def test_built_in_seed(spec: str) -> None:
    torch.manual_seed(0)
    seed = build_seed(spec)
    size = 8 if spec == "digits_net" else 32
    check(seed.model, torch.zeros(1, seed.input_shape[-3], size, size))


@pytest.mark.parametrize("name", NETWORKS)
def test_torchvision(name: str) -> None:
    torch.manual_seed(0)
    check(torchvision_shim.build(name), torch.zeros(1, 3, 64, 64))


def test_training_only_branches_shrink_too() -> None:
    torch.manual_seed(0)
    inputs = torch.zeros(2, 3, 64, 64)
    graph = record(torchvision_shim.build("googlenet"), inputs)
    assert any(layer.startswith("aux1") for name in graph.free for layer in graph.groups[name].layers)
    half = graph.resize(proofs.scaled(graph, 0.5)).train()
    assert half.get_parameter("aux1.conv.conv.weight").shape[0] < 128
    outputs = half(inputs)
    sum(out.mean() for out in outputs).backward()
    assert half.get_parameter("aux2.fc1.weight").grad is not None
