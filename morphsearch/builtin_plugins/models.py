"""Built-in seeds and model sources."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from morphsearch.hookspecs import hookimpl
from morphsearch.types import ModelRecord

_CIFAR, _IMAGENET, _DIGITS = (3, 32, 32), (3, 224, 224), (1, 8, 8)


def _late(module: str, function: str) -> Callable[..., Any]:
    """A factory that imports its module when it is called."""

    def factory(*args: Any, **arguments: Any) -> Any:
        return getattr(importlib.import_module(f"morphsearch.models.{module}"), function)(*args, **arguments)

    factory.__name__ = factory.__qualname__ = function
    return factory


@hookimpl
def morphsearch_models() -> list[ModelRecord]:
    """The seeds that morphsearch brings, and the schemes ``torchvision:`` and ``timm:``."""
    rows = [
        ("digits_net", "Small conv net for 8 x 8 digits", "digits", _DIGITS),
        ("mobilenet_v1", "MobileNet v1, CIFAR or ImageNet stem, width multiplier alpha", "mobilenet_v1", _CIFAR),
        ("resnet20", "ResNet-20 for 32 x 32 images", "resnet", _CIFAR),
        ("resnet56", "ResNet-56 for 32 x 32 images", "resnet", _CIFAR),
        ("resnet18", "ResNet-18, ImageNet or CIFAR stem", "resnet", _IMAGENET),
        ("resnet50", "ResNet-50, ImageNet or CIFAR stem", "resnet", _IMAGENET),
        ("vgg16_bn", "VGG-16 with batch norm", "vgg", _CIFAR),
    ]
    seeds = [ModelRecord(name, text, _late(module, name), input_shape=shape) for name, text, module, shape in rows]
    return [
        *seeds,
        ModelRecord(
            "torchvision",
            "Any classifier of torchvision, as in torchvision:resnet18?num_classes=10",
            _late("sources", "torchvision_source"),
            input_shape=_IMAGENET,
            source=True,
        ),
        ModelRecord(
            "timm",
            "Any model of timm, as in timm:mobilenetv3_small_100",
            _late("sources", "timm_source"),
            input_shape=_IMAGENET,
            source=True,
        ),
    ]
