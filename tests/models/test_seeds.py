"""The built-in seeds: sizes that the papers give, initialisation, arguments."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from morphsearch.errors import InputError, UsageError
from morphsearch.models import build_seed
from morphsearch.models.resnet import PadShortcut


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("spec", "shape", "classes", "count"),
    [
        ("digits_net", (1, 8, 8), 10, None),
        ("digits_net?in_channels=3", (3, 16, 16), 4, None),
        # Howard et al. (2017), table 8: 4.2 M; 0.5 M at alpha 0.25.
        ("mobilenet_v1?stem=imagenet", (3, 64, 64), 1000, 4_231_976),
        ("mobilenet_v1?alpha=0.25&stem=imagenet", (3, 64, 64), 1000, 470_072),
        ("mobilenet_v1?alpha=0.25", (3, 32, 32), 10, None),
        # He et al. (2016), table 6: 0.27 M and 0.85 M, with shortcut A.
        ("resnet20?shortcut=A", (3, 32, 32), 10, 269_722),
        ("resnet56?shortcut=A", (3, 32, 32), 10, 853_018),
        ("resnet20", (3, 32, 32), 10, 272_474),
        # As torchvision has them.
        ("resnet18?stem=imagenet", (3, 64, 64), 1000, 11_689_512),
        ("resnet50?stem=imagenet", (3, 64, 64), 1000, 25_557_032),
        ("resnet18", (3, 32, 32), 10, 11_173_962),
        # VGG-16's features have 14,714,688: less 4,224 biases, plus as many scales and shifts, plus one linear layer.
        ("vgg16_bn", (3, 32, 32), 10, 14_714_688 - 4_224 + 2 * 4_224 + 5_130),
        ("vgg16_bn?alpha=0.25", (3, 32, 32), 10, 923_130),
    ],
)
def test_a_seed_has_the_size_of_its_paper_and_gives_logits(
    spec: str, shape: tuple[int, int, int], classes: int, count: int | None
) -> None:
    seed = build_seed(spec, num_classes=classes, input_shape=shape)
    assert seed.input_shape == shape
    assert seed.model.eval()(torch.zeros(2, *shape)).shape == (2, classes)
    if count is not None:
        assert parameters(seed.model) == count


def test_the_demo_seed_is_small_enough_for_a_demo() -> None:
    model = build_seed("digits_net").model.eval()
    work = 0

    def count(module: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal work
        work += out[0].numel() * math.prod(module.weight.shape[1:])

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(torch.zeros(1, 1, 8, 8))
    assert work < 2_000_000
    kinds = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert any(module.groups > 1 for module in kinds)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("spec", ["digits_net", "mobilenet_v1?alpha=0.5", "resnet20", "vgg16_bn"])
def test_init_weights_gives_he_initialisation_at_any_width(spec: str) -> None:
    model = build_seed(spec).model
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            # A layer that was resized keeps nothing of the old initialisation.
            module.out_channels *= 2
            module.weight = nn.Parameter(torch.full((module.out_channels, *module.weight.shape[1:]), 99.0))
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 500:
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels / module.groups
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.2)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.min() == 1


def test_two_builds_have_weights_of_their_own() -> None:
    torch.manual_seed(0)
    first, second = build_seed("digits_net").model, build_seed("digits_net").model
    assert not torch.equal(first.classifier.weight, second.classifier.weight)
    torch.manual_seed(0)
    again = build_seed("digits_net").model
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_shortcut_a_subsamples_and_pads_with_zeros() -> None:
    x = torch.randn(1, 4, 6, 6)
    out = PadShortcut(2, 3, 2)(x)
    assert out.shape == (1, 9, 3, 3)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


@pytest.mark.parametrize(
    "spec",
    [
        "mobilenet_v1?alpha=0",
        "mobilenet_v1?alpha=wide",
        "vgg16_bn?alpha=-1",
        "mobilenet_v1?stem=cifra",
        "resnet20?shortcut=C",
        "resnet18?stem=big",
        "vgg16_bn?head=none",
        "digits_net?num_classes=0",
        "digits_net?num_classes=2.5",
        "resnet20?in_channels=true",
    ],
)
def test_arguments_out_of_range_say_what_is_allowed(spec: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_seed(spec)
    assert caught.value.arrived
    assert caught.value.rule
    assert caught.value.repair
    assert spec.split("?")[1].split("=")[0] in caught.value.arrived


def test_images_smaller_than_the_network_takes_are_refused() -> None:
    with pytest.raises(InputError, match="8 x 8") as caught:
        build_seed("vgg16_bn", num_classes=10, input_shape=(1, 8, 8))
    assert "32 x 32" in caught.value.rule
