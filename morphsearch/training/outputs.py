"""What in a network's output are the logits, and the loss of networks with auxiliary classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from morphsearch.errors import InputError, MorphError

AUXILIARY_WEIGHT = 0.3  # Szegedy et al. 2015, section 5


def first_output(model: nn.Module, images: Tensor) -> Any:
    """``model(images)``, of images that it has not seen the like of before.

    Raises:
        InputError: the network fails on them.
    """
    try:
        return model(images)
    except torch.cuda.OutOfMemoryError:
        raise
    except (MorphError, MemoryError):
        raise
    except Exception as error:  # the user's code may raise whatever it likes
        kinds = {str(one.dtype).removeprefix("torch.") for one in model.parameters() if one.is_floating_point()}
        other = ", ".join(sorted(kinds - {"float32"}))
        usual = isinstance(error, RuntimeError | ValueError | TypeError)
        raise InputError(
            f"{type(model).__name__} fails on a batch of shape {tuple(images.shape)}: "
            f"{'' if usual else f'{type(error).__name__}: '}{error}".removesuffix(": "),
            "the network must take the images of the data set",
            f"images are float32 and its parameters {other}: convert it, model.float()"
            if other and "type" in str(error)
            else "check channel count and image size of data and network (an image size can be set for folders)",
        ) from error


def split_outputs(output: Any) -> tuple[Tensor, list[Tensor]]:
    """The main logits (`n x classes`) and the auxiliary ones, whatever container they come in.

    - a tensor: the logits;
    - a named tuple with a field ``logits`` (torchvision's GoogLeNet and Inception): that field, the others are
      auxiliary;
    - any other tuple or list: its first tensor, the others of the same shape are auxiliary;
    - a dict (or a ``ModelOutput``): the key ``logits``, else ``out``, else the first tensor; keys that begin with
      ``aux`` are auxiliary.

    None entries are skipped, and trailing dimensions of size 1 are dropped (fully convolutional heads).

    Raises:
        InputError: no such tensor is there.
    """
    main, others = _unpack(output)
    if main is None:
        raise InputError(
            f"the network returned {_describe(output)}",
            "training needs logits: a tensor n x classes, or a tuple, list or dict with one (first, or as 'logits')",
            "wrap the network in a module whose forward returns the logits",
        )
    logits = _flat(main)
    auxiliary = [_flat(other) for other in others]
    return logits, [other for other in auxiliary if other.shape == logits.shape]


def classification_loss(output: Any, targets: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the main logits plus 0.3 times that of every auxiliary one; returns ``(loss, main logits)``.

    Computed in float32 even where the network ran in bf16.
    """
    logits, auxiliary = split_outputs(output)
    logits = logits.float()
    loss = functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    for other in auxiliary:
        extra = functional.cross_entropy(other.float(), targets, label_smoothing=label_smoothing)
        loss = loss + AUXILIARY_WEIGHT * extra
    return loss, logits


def distillation_loss(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """How far scores (`n x classes`) are from a teacher's: ``T^2 KL(softmax(wanted / T) || softmax(logits / T))``, the
    mean over the batch (Hinton et al., arXiv 1503.02531, section 2; the factor keeps gradients at their size).

    Raises:
        InputError: the shapes differ.
    """
    if logits.shape != wanted.shape:
        raise InputError(
            f"the teacher gives scores of shape {tuple(wanted.shape)}, the network of {tuple(logits.shape)}",
            "a teacher knows the same classes",
            "use a teacher that was trained on this data",
        )
    ours = functional.log_softmax(logits.float() / temperature, 1)
    theirs = functional.log_softmax(wanted.float() / temperature, 1)
    return temperature**2 * functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def check_logits(logits: Tensor, batch: int, classes: int) -> None:
    """Refuse logits that cannot be scored against `classes` labels.

    Raises:
        InputError: not `batch x at least classes`.
    """
    if logits.ndim != 2 or logits.shape[0] != batch:
        raise InputError(
            f"the logits have shape {tuple(logits.shape)} for a batch of {batch}",
            "a classifier gives one row of class scores per image",
            "add global pooling and a linear layer, or wrap the network so that it returns n x classes",
        )
    if logits.shape[1] < classes:
        raise InputError(
            f"the network has {logits.shape[1]} outputs, the data has {classes} classes",
            "a network needs at least one output per class",
            f"build the seed with num_classes={classes}",
        )


def check_learns(model: nn.Module, loss: Tensor) -> None:
    """Refuse a network whose loss does not depend on any parameter that is trained.

    Raises:
        InputError: as said.
    """
    if not loss.requires_grad:
        raise InputError(
            f"the loss of {type(model).__name__} does not depend on its parameters",
            "training follows gradients from the logits back to the parameters",
            "remove detach(), torch.no_grad() or requires_grad=False on the way, or wrap another part of the network",
        )


def _unpack(output: Any) -> tuple[Tensor | None, list[Tensor]]:
    if isinstance(output, Tensor):
        return output, []
    if isinstance(output, Mapping):
        tensors = {key: value for key, value in output.items() if isinstance(value, Tensor)}
        key = next((name for name in ("logits", "out") if name in tensors), next(iter(tensors), None))
        return tensors.get(key), [
            value for name, value in tensors.items() if str(name).startswith("aux") and name != key
        ]
    if isinstance(output, (tuple, list)):
        main = getattr(output, "logits", None)
        tensors_in_order = [value for value in output if isinstance(value, Tensor)]
        if not isinstance(main, Tensor):
            main = tensors_in_order[0] if tensors_in_order else None
        return main, [value for value in tensors_in_order if value is not main]
    return None, []


def _flat(logits: Tensor) -> Tensor:
    if logits.ndim > 2 and all(size == 1 for size in logits.shape[2:]):
        return torch.flatten(logits, 1)
    return logits


def _describe(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with keys {', '.join(map(str, output)) or '(none)'}"
    return f"a {type(output).__name__}"
