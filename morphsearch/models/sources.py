"""Seeds from installed model libraries: ``torchvision:NAME`` and ``timm:NAME``. Never downloads weights."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import Any

import torch
from torch import nn

from morphsearch.errors import InputError, UnknownName, UsageError

# Arguments that would fetch or load weights, in either library.
_WEIGHTS = {
    "weights", "weights_backbone", "pretrained", "pretrained_backbone", "pretrained_cfg", "pretrained_cfg_overlay",
    "checkpoint_path", "cache_dir",
}  # fmt: skip


def torchvision_source(target: str, **kwargs: Any) -> nn.Module:
    """The torchvision model `target` with fresh weights; `kwargs` go to its builder.

    Raises:
        UnknownName: torchvision has no such model.
        InputError: torchvision is not installed.
        UsageError: an argument asks for weights.
    """
    models = _package("torchvision", "models")
    _no_weights("torchvision", target, kwargs)
    names = models.list_models()
    if target not in names:
        raise UnknownName.of("torchvision model", target, names)
    builder = models.get_model_builder(target)
    parameters = inspect.signature(builder).parameters
    # Detection and segmentation models load their backbone's weights unless told not to.
    kwargs |= {name: None for name in ("weights", "weights_backbone") if name in parameters}
    if target in ("googlenet", "inception_v3"):
        # torchvision warns unless it is told; its next default is the one without the slow truncated normal.
        kwargs.setdefault("init_weights", False)
    model: nn.Module = builder(**kwargs)
    return model


def timm_source(
    target: str, *, num_classes: int | None = None, in_chans: int | None = None, **kwargs: Any
) -> nn.Module:
    """The timm model `target` with fresh weights; `kwargs` go to ``timm.create_model``.

    Raises:
        UnknownName: timm has no such model (``hf-hub:`` and other remote names included).
        InputError: timm is not installed.
        UsageError: an argument asks for weights.
    """
    timm = _package("timm")
    _no_weights("timm", target, kwargs)
    if ":" in target or "/" in target or not timm.is_model(target.split(".")[0]):
        raise UnknownName.of("timm model", target, timm.list_models())
    given = {"num_classes": num_classes, "in_chans": in_chans}
    kwargs |= {name: value for name, value in given.items() if value is not None}
    model: nn.Module = timm.create_model(target, pretrained=False, **kwargs)
    return model


def _package(name: str, submodule: str = "") -> ModuleType:
    full = f"{name}.{submodule}" if submodule else name
    try:
        try:
            return importlib.import_module(full)
        except RuntimeError as error:
            if "operator torchvision::" not in str(error):
                raise
            _declare_operators()
            return importlib.import_module(full)
    except ImportError as error:
        raise InputError(
            f"{name} cannot be imported: {error}",
            f"seeds named {name}:NAME are built by the package {name}",
            f"install it: pip install {name} (or morphsearch[zoo])",
        ) from error
    except Exception as error:  # compiled for another torch: RuntimeError, OSError, whatever its import meets first
        raise InputError(
            f"{name} is installed, but cannot be imported: {type(error).__name__}: {error}",
            f"{name} must fit the installed torch",
            f"install the release of {name} that belongs to your torch",
        ) from error


def _declare_operators() -> None:
    """Declare the operators that torchvision's import insists on and its compiled part failed to bring.

    That happens when torch is a CPU build and torchvision a CUDA one. Its classifiers are plain torch and need no
    compiled operator; detection does, and would fail when it runs.
    """
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _no_weights(scheme: str, target: str, kwargs: dict[str, Any]) -> None:
    asked = sorted(_WEIGHTS & kwargs.keys())
    if any(kwargs[name] for name in asked):
        raise UsageError(
            f"{scheme}:{target} with {', '.join(asked)}",
            "a seed is a shape: it is built with fresh weights, and nothing is downloaded",
            f"leave out {', '.join(asked)}",
        )
    for name in asked:
        del kwargs[name]
