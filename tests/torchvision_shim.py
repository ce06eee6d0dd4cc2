"""torchvision where its compiled operators do not match the installed torch: the schemas that its import asks for.

Only detection needs ``nms``; the networks under test never call it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import nn

_library: torch.library.Library | None = None

CLASSIFIERS = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "vgg16_bn",
    "densenet121",
    "squeezenet1_0",
    "regnet_y_400mf",
    "efficientnet_b0",
    "googlenet",
    "shufflenet_v2_x1_0",
)


def models() -> ModuleType:
    """``torchvision.models``."""
    global _library
    try:
        import torchvision.models
    except RuntimeError:  # its compiled operators are not there
        if _library is not None:
            raise
        _library = torch.library.Library("torchvision", "FRAGMENT")
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.models

    return torchvision.models


def build(name: str, *, num_classes: int = 10) -> nn.Module:
    """A classifier of :data:`CLASSIFIERS` with random weights, in evaluation mode."""
    options = {"init_weights": False} if name == "googlenet" else {}
    factory: Callable[..., nn.Module] = getattr(models(), name)
    return factory(weights=None, num_classes=num_classes, **options).eval()
